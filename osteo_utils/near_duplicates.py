"""Find the pairs of films that are one film, however the copy was altered.

Three steps, each cheap enough for the number of pairs that it meets. *Keypoints*, small places
that stand out, look for the nearest among those of all films; two films with several in common are
*candidates* (after Lowe 2004, doi:10.1023/B:VISI.0000029664.99615.94). A candidate is *registered*:
its keypoints vote for the map that carries one film onto the other, and the pixels refine it (after
Lucas and Kanade 1981). The *normalised cross-correlation* of fine detail, where the registered
films overlap, decides.

Everything happens in squares to which the films are stretched, so a resized twin looks the same.
Positions in a square are complex numbers x + iy, both from -1/2 to 1/2: multiplied by a complex
number, they are turned and scaled.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter, uniform_filter
from threadpoolctl import threadpool_limits

from osteo_utils.formats.films import THREADS
from osteo_utils.formats.pixels import Grey

SIDES: Final = (96, 192)  # pixels: detail is compared at the shorter side, within these
POINTS: Final = 80  # keypoints of a film
# In pixels of SIDES[1]; a keypoint stands out between two of the inner ones.
BLURS: Final = (1.6, 2.1, 2.7, 3.5, 4.5, 5.8)
CELLS: Final = 4  # a descriptor has CELLS x CELLS cells, each with the strength of edges in
DIRECTIONS: Final = 4  # directions, 45 degrees apart
REACH: Final = 12.0  # width of a descriptor, in blurs of its keypoint
QUERIES: Final = 60  # keypoints of a film, the strongest, that look for their nearest
COMPONENTS: Final = 48  # principal components of the descriptors, for the search
NEIGHBOURS: Final = 3  # candidates of a film as it is, and of the mirrored film
VOTES: Final = 3  # keypoints in common that make a candidate
INLIERS: Final = 4  # keypoints that agree on the map
HOPELESS: Final = (0.65, 0.7, 0.75)  # similarity below which step 0, 1, 2 of refining is the last
OVERLAP: Final = 0.4  # share of the smaller film

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]
Box = tuple[float, float, float, float]
Complex = npt.NDArray[np.complexfloating[Any, Any]]


class Film(NamedTuple):
    """What the search keeps of a film, some 50 kB.

    Attributes:
        small: The film stretched to a square of SIDES[1] pixels, its flat margins overwritten.
        box: Left, top, right and bottom of what is not flat, -1/2 to 1/2.
        side: Pixels of a side at which its detail is worth comparing, within `SIDES`.
        points: Positions of the keypoints, the strongest first, shape (n,), complex.
        bright: Whether each keypoint is brighter than its surroundings, shape (n,).
        descriptors: Unit vectors, shape (n, cells, directions), float16.
    """

    small: Grey
    box: Box
    side: int
    points: Complex
    bright: Bools
    descriptors: Floats


class Pair(NamedTuple):
    """Two films, and what carries the second onto the first.

    Attributes:
        a: Number of the first film.
        b: Number of the second film.
        similarity: Of detail in the overlap, -1 to 1.
        mirrored: Whether the one is a mirrored copy of the other.
        inverted: Whether the one is a negative of the other.
        affine: From positions (x, y, 1) in `b` to (x, y) in `a`, shape (2, 3).
    """

    a: int
    b: int
    similarity: float
    mirrored: bool
    inverted: bool
    affine: Floats


def extract_features(image: Grey) -> Film:
    """What is needed of a film to find its copies.

    Args:
        image: Grey levels, shape (height, width).

    Returns:
        Its keypoints and a small picture of it.

    Example:
        >>> film = extract_features(np.full((120, 100), 7, np.uint8))  # without any detail
        >>> film.small.shape, film.side, len(film.points)
        ((192, 192), 100, 0)
    """
    small, box = _without_margins(_resized_square(image, SIDES[1]))
    side = int(np.clip(min(image.shape), *SIDES))
    return Film(small, box, side, *_keypoints(small, box))


def find_pairs(films: list[Film]) -> list[Pair]:
    """Every candidate pair, once, with the similarity of its detail after registration.

    Args:
        films: As `extract_features` gives them.

    Returns:
        The pairs in the order of their films, a before b. Those that are copies have a high
        similarity (`audit.SAME_IMAGE`); candidates whose keypoints agree on no map are left out.

    Example:
        >>> cells = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
        >>> film = np.kron(cells, np.ones((12, 12), np.uint8))
        >>> pair, = find_pairs([extract_features(film), extract_features(film[:, ::-1])])
        >>> pair.mirrored, pair.inverted, round(pair.similarity, 2)
        (True, False, 1.0)
    """
    best: dict[tuple[int, int], Pair] = {}
    basis = whitening(films)
    # Many small products: the threads of BLAS would wait for each other most of the time.
    with threadpool_limits(1), ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(lambda each: register(films, basis, *each), candidates(films, basis)):
            if found and best.get(found[:2], found).similarity <= found.similarity:
                best[found[:2]] = found
    return [best[key] for key in sorted(best)]


def _resized_square(image: Grey, side: int) -> Grey:
    """Stretched to a square, so that a resized twin looks the same again."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def _without_margins(small: Grey) -> tuple[Grey, Box]:
    """Flat rows and columns at the borders overwritten with the nearest ones that are not flat.

    Else the edge of a padding would be the strongest structure of the film.
    """
    ends: list[tuple[float, float]] = []
    for axis in (1, 0):
        lively = np.flatnonzero(np.ptp(small.astype(int), axis=axis) > 12)
        last = len(small) - 1
        first, end = (lively[0], lively[-1]) if len(lively) else (0, last)
        first, end = first + 2 * (first > 0), end - 2 * (end < last)  # two rows are blended
        ends.append((first, max(end, first)))
    (top, bottom), (left, right) = ends
    rows = np.clip(np.arange(len(small)), top, bottom)
    columns = np.clip(np.arange(len(small)), left, right)
    left, top, right, bottom = (
        edge / len(small) - 0.5 for edge in (left, top, right + 1, bottom + 1)
    )
    return small[np.ix_(rows, columns)], (left, top, right, bottom)


def _keypoints(small: Grey, box: Box) -> tuple[Complex, Bools, Floats]:
    """Positions that differ most from their surroundings, in units of the local spread.

    For each whether it is the brighter, and the descriptor.
    """
    blurred = [gaussian_filter(np.float32(small), BLURS[0], truncate=3)]
    for blur, wider in pairwise(BLURS):
        blurred.append(gaussian_filter(blurred[-1], np.sqrt(wider**2 - blur**2), truncate=3))
    blobs = -np.diff(blurred, axis=0)
    power = [uniform_filter(b**2, _odd(8 * blur)) for b, blur in zip(blobs, BLURS, strict=False)]
    contrast = blobs / (np.sqrt(np.maximum(power, 0)) + 0.7)  # 0.7 grey levels are noise
    strength = np.abs(contrast)
    peak = np.zeros(strength.shape, dtype=bool)  # the outermost lack a neighbour
    inner = strength[1:-1, 1:-1, 1:-1]
    peak[1:-1, 1:-1, 1:-1] = (inner == _highest_of_27(strength)) & (inner > 0)
    peak &= _inside(_grid(len(small)), box, 3 / len(small))
    place = np.nonzero(peak)
    strongest = np.argsort(-strength[place], kind="stable")[:POINTS]
    level, y, x = (axis[strongest] for axis in place)
    axis = _axis(blurred[0])
    edges = [_edges(blurred[i], BLURS[i], axis) for i in range(1, len(blobs) - 1)]
    descriptors = _describe(np.array(edges), level, y, x, axis)
    return _grid(len(small))[y, x], contrast[level, y, x] > 0, descriptors.astype(np.float16)


def _highest_of_27(values: Floats) -> Floats:
    """The highest value of each inner place and its neighbours along and across all three axes."""
    for axis in range(3):
        values = np.moveaxis(values, axis, 0)
        values = np.maximum(np.maximum(values[:-2], values[1:-1]), values[2:])
        values = np.moveaxis(values, 0, axis)
    return values


def _grid(side: int) -> Complex:
    """Positions of the pixels of a square."""
    centres = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    return centres + 1j * centres[:, None]


def _inside(positions: Complex, box: Box, margin: float) -> Bools:
    left, top, right, bottom = box
    x, y = positions.real, positions.imag
    found = (x > left + margin) & (x < right - margin)
    return np.asarray(found & (y > top + margin) & (y < bottom - margin))


def _axis(blurred: Floats) -> float:
    """Direction across the leg in radians: the mean direction of edges, each weighing alike.

    Descriptors are laid along it, so that a turned film has the same ones.
    """
    dy, dx = np.gradient(blurred)
    doubled = (dx + 1j * dy) ** 2  # opposite directions are the same
    strength = np.abs(doubled)
    alike = doubled / (strength + uniform_filter(strength, 25) + 1)
    return float(np.angle(alike[6:-6, 6:-6].sum()) / 2)


def _edges(blurred: Floats, blur: float, axis: float) -> Floats:
    """Strength of edges around each pixel, (DIRECTIONS, height, width), seen from `axis`.

    From dark to bright and from bright to dark are the same, so an inverted film has the same.
    """
    dy, dx = np.gradient(blurred)
    strength = np.hypot(dx, dy)
    usual = uniform_filter(strength, _odd(REACH * blur / 2))  # of contrast as it is just there
    doubled = (dx + 1j * dy) ** 2 * complex(np.exp(-2j * axis))
    doubled /= (strength + 1e-3) * (usual + 0.2)
    ways = (doubled.real, doubled.imag, -doubled.real, -doubled.imag)
    cell = _odd(REACH * blur / CELLS)
    return np.array([uniform_filter(np.maximum(way, 0), cell) for way in ways])


def _odd(width: float) -> int:
    """The odd number of pixels next to a width: an even window lies askew, a mirrored one other."""
    return 2 * int(width // 2) + 1


def _describe(edges: Floats, level: Ints, y: Ints, x: Ints, axis: float) -> Floats:
    """Unit vectors (n, cells, directions): the edges in a square of cells along `axis`."""
    centres = ((np.arange(CELLS) + 0.5) / CELLS - 0.5) * REACH
    cells = (centres + 1j * centres[:, None]).ravel() * np.exp(1j * axis)
    at = (x + 1j * y)[:, None] + np.array(BLURS)[level][:, None] * cells
    last = edges.shape[-1] - 1
    row, column = (np.clip(np.rint(part), 0, last).astype(int) for part in (at.imag, at.real))
    found = edges[level[:, None] - 1, :, row, column]
    found = np.sqrt(np.maximum(found, 0))  # no edge decides alone
    found -= found.mean(axis=(1, 2), keepdims=True)
    return np.asarray(found / (np.linalg.norm(found, axis=(1, 2), keepdims=True) + 1e-6))


def _mirrored(descriptors: Floats) -> Floats:
    """Descriptors (n, cells, directions) of the mirrored film."""
    square = descriptors.reshape(-1, CELLS, CELLS, DIRECTIONS)[:, :, ::-1]
    return square[..., [0, 3, 2, 1]].reshape(descriptors.shape)  # one diagonal becomes the other


def candidates(films: list[Film], basis: Floats) -> list[tuple[int, int, bool]]:
    """Pairs of films that have keypoints in common.

    A keypoint of a film is in common with the film that has the nearest descriptor. At least
    `VOTES` of them make a candidate, and a film asks for at most `NEIGHBOURS`, as it is and
    mirrored.

    Args:
        films: As `extract_features` gives them.
        basis: As `whitening` gives it.

    Returns:
        Numbers of the first and of the second film, and whether one is mirrored, sorted. A pair may
        be there as it is and mirrored.
    """
    owner = np.repeat(np.arange(len(films)), [len(film.points) for film in films])
    if len(np.unique(owner)) < 2:
        return []
    descriptors = np.concatenate([film.descriptors for film in films]).astype(np.float32)
    asks = np.concatenate([np.arange(len(film.points)) < QUERIES for film in films])
    asking, known = owner[asks], _whitened(descriptors, basis)
    found: set[tuple[int, int, bool]] = set()
    for mirrored, queries in ((False, descriptors), (True, _mirrored(descriptors))):
        votes = _owner_of_nearest(_whitened(queries[asks], basis), asking, known, owner)
        pairs, count = np.unique(np.stack([asking, votes]), axis=1, return_counts=True)
        order = np.lexsort((-count, pairs[0]))
        (first, second), count = pairs[:, order], count[order]
        rank = np.arange(len(count)) - np.searchsorted(first, first)
        for i in np.flatnonzero((rank < NEIGHBOURS) & (count >= VOTES)):
            one, other = sorted((int(first[i]), int(second[i])))
            found.add((one, other, mirrored))
    return sorted(found)


def whitening(films: list[Film]) -> Floats:
    """What brings the descriptors of all films to a measure in which each direction counts alike.

    What all descriptors have in common counts no more: principal components, each divided by its
    strength (Jegou and Chum 2012, doi:10.1007/978-3-642-33709-3_55).

    Args:
        films: As `extract_features` gives them.

    Returns:
        A matrix that descriptors are multiplied with, shape (cells x directions, `COMPONENTS`).
    """
    size = CELLS**2 * DIRECTIONS
    covariance = np.zeros((size, size))
    for film in films:
        flat = film.descriptors.reshape(-1, size).astype(float)
        covariance += flat.T @ flat
    strength, components = np.linalg.eigh(covariance)
    strength = np.sqrt(np.maximum(strength, 1e-6 * strength[-1] + 1e-12))
    return np.asarray((components / strength)[:, -COMPONENTS:], dtype=np.float32)


def _whitened(descriptors: Floats, basis: Floats) -> Floats:
    """Unit vectors (n, COMPONENTS) of descriptors (n, cells, directions)."""
    flat = descriptors.reshape(len(descriptors), -1).astype(np.float32) @ basis
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-12))


def _owner_of_nearest(queries: Floats, asking: Ints, known: Floats, owner: Ints) -> Ints:
    """The film of the descriptor nearest to each query; the film that asks does not count.

    `asking` and `owner` are the films of the queries and of the known descriptors, ascending.
    Memory is bounded by the tiles, whatever the number of films.
    """

    def search(rows: slice) -> Ints:
        films = asking[rows]
        best, nearest = np.full(len(films), -np.inf), np.zeros_like(films)
        for columns in _slices(len(owner), 2048):  # a tile that fits into the processor's cache
            likeness = queries[rows] @ known[columns].T
            if films[0] <= owner[columns][-1] and owner[columns][0] <= films[-1]:
                likeness[films[:, None] == owner[columns]] = -np.inf
            at = likeness.argmax(axis=1)
            highest = likeness[np.arange(len(at)), at]
            better = highest > best
            best[better], nearest[better] = highest[better], owner[columns][at[better]]
        return nearest

    with threadpool_limits(1), ThreadPoolExecutor(THREADS) as pool:
        return np.concatenate(list(pool.map(search, _slices(len(asking), 512))))


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, length, step)]


def register(films: list[Film], basis: Floats, a: int, b: int, mirrored: bool) -> Pair | None:
    """A candidate pair, registered.

    Args:
        films: As `extract_features` gives them.
        basis: As `whitening` gives it.
        a: Number of the first film.
        b: Number of the second film.
        mirrored: Whether the second film is mirrored before it is compared.

    Returns:
        The pair, or None if its keypoints agree on no map.
    """
    one, other = films[a], films[b]
    if (estimated := _estimate_affine(one, other, basis, mirrored)) is None:
        return None
    affine, inverted = estimated
    similarity, affine = _refine_affine(one, other, affine, inverted, SIDES[0], steps=6)
    side = min(one.side, other.side)
    if similarity > 0.75 and side > SIDES[0]:
        similarity, affine = _refine_affine(one, other, affine, inverted, side, steps=4)
    return Pair(a, b, similarity, mirrored, inverted, affine)


def _estimate_affine(
    one: Film, other: Film, basis: Floats, mirrored: bool
) -> tuple[Floats, bool] | None:
    """The affine map from `other` to `one` on which most keypoints agree; is one film inverted?

    Every two matches propose a map that turns, scales and shifts (RANSAC without the chance).
    """
    asked = _mirrored(other.descriptors) if mirrored else other.descriptors
    likeness = _whitened(asked, basis) @ _whitened(one.descriptors, basis).T
    match = likeness.argmax(axis=1)
    mutual = np.flatnonzero(likeness.argmax(axis=0)[match] == np.arange(len(match)))
    source, target = other.points[mutual], one.points[match[mutual]]
    same = other.bright[mutual] == one.bright[match[mutual]]
    seen = -source.conj() if mirrored else source
    i, j = np.triu_indices(len(seen), 1)
    apart = np.abs(seen[i] - seen[j]) > 0.1
    i, j = i[apart], j[apart]
    turn = (target[i] - target[j]) / (seen[i] - seen[j])
    sane = (np.abs(turn) > 0.5) & (np.abs(turn) < 2)
    turn, shift = turn[sane], (target[i] - turn * seen[i])[sane]
    if not len(turn):
        return None
    agree = np.abs(turn[:, None] * seen + shift[:, None] - target) < 0.04
    best = agree.sum(axis=1).argmax()
    inliers = agree[best]
    if inliers.sum() < INLIERS:
        return None
    affine, inliers = _fit_affine(source, target, turn[best] * seen + shift[best], inliers)
    return affine, bool(same[inliers].mean() < 0.5)


def _fit_affine(
    source: Complex, target: Complex, proposed: Complex, inliers: Bools
) -> tuple[Any, Any]:
    """Affine map by least squares through those matches that agree with it ever more closely.

    All others pull a little towards where the proposed map has them: few matches are not enough.
    """
    flat = np.stack([source.real, source.imag, np.ones(len(source))], axis=1)
    for limit in (0.03, 0.02, 0.015):
        weight, goal = np.where(inliers, 1.0, 0.05), np.where(inliers, target, proposed)
        aim = weight[:, None] * np.stack([goal.real, goal.imag], axis=1)
        affine = np.linalg.lstsq(weight[:, None] * flat, aim, rcond=None)[0].T
        closer = np.abs(_transform(source, affine) - target) < limit
        if closer.sum() < INLIERS:
            break
        inliers = closer
    return affine, inliers


def _refine_affine(
    one: Film, other: Film, affine: Floats, inverted: bool, side: int, steps: int
) -> tuple[float, Floats]:
    """Best similarity of detail in the overlap, and its map, within `steps` of Lucas and Kanade."""
    grey = _resized_square(one.small, side).astype(np.float32)
    fixed = _detail(_resized_square(other.small, side).astype(np.float32))
    grid = _grid(side)
    seen = _inside(grid, other.box, 3 / side)
    smaller = min(_area(one.box) / abs(np.linalg.det(affine[:, :2])), _area(other.box))
    best = (-1.0, affine)
    for step in range(steps + 1):
        both = seen & _inside(_transform(grid, affine), one.box, 3 / side)
        if both.mean() < OVERLAP * smaller:
            break
        warped = _detail(_warp(grey, affine)) * (-1 if inverted else 1)
        a, b = _standardised(warped[both]), _standardised(fixed[both])
        similarity = float((a * b).mean())
        gained, best = similarity - best[0], max(best, (similarity, affine), key=lambda r: r[0])
        if step == steps or gained < -0.02 or best[0] < HOPELESS[min(step, 2)]:
            break
        slopes = _affine_gradient(warped / (warped[both].std() + 1e-6), grid, side)[:, both]
        normal = slopes @ slopes.T
        normal += 1e-3 * np.diag(np.diag(normal)) + 1e-6 * np.eye(6)  # can always be solved
        change = np.linalg.solve(normal, slopes @ (b - a)).reshape(2, 3)
        affine = affine + affine[:, :2] @ change
    return best


def _standardised(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / (values.std() + 1e-6))


def _affine_gradient(image: Floats, grid: Complex, side: int) -> Floats:
    """How each pixel changes with each number of an affine map, (6, height, width)."""
    dy, dx = (slope * side for slope in np.gradient(image))
    return np.stack([dx * grid.real, dx * grid.imag, dx, dy * grid.real, dy * grid.imag, dy])


def _transform(positions: Complex, affine: Floats) -> Complex:
    flat = np.stack([positions.real, positions.imag, np.ones_like(positions.real)])
    x, y = np.tensordot(affine, flat, 1)
    return np.asarray(x + 1j * y)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _warp(grey: Floats, affine: Floats) -> Floats:
    """The film seen through a map of positions, in pixels."""
    side, half = len(grey), 0.5 - 0.5 / len(grey)
    matrix = affine[::-1, 1::-1]  # SciPy counts rows first
    offset = (affine[::-1, 2] - matrix @ [half, half] + half) * side
    return np.asarray(affine_transform(grey, matrix, offset, order=1, mode="nearest"))


def _detail(grey: Floats) -> Floats:
    """Fine structure alone: differences from the surroundings over their local spread.

    Differences over spread undo contrast and (locally) gamma; the layout that all knees share is
    too coarse to be left.
    """
    fine = gaussian_filter(grey, 1) - gaussian_filter(grey, 2)
    spread = np.sqrt(gaussian_filter(fine**2, 2))
    return np.asarray(fine / (spread + 2))  # 2 grey levels: an empty background stays quiet
