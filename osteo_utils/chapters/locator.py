"""Find the knees on a film that shows one or two legs, and cut them out.

A matched filter (Turin, 1960): the average of phantom knees, seen as edges, is laid over the film
at every place and in every size, and where the correlation peaks there is a knee. Nothing is
learned from real films. A small heat-map network trained on the same phantoms did no better on
the real ones and needs training: `data/reference/mendeley_locator.csv` counts both.

Coordinates are pixels of the film given; (0, 0) is its upper left corner, a pixel is 1 wide.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, minimum_filter, sobel, uniform_filter
from scipy.signal import fftconvolve

from osteo_utils.phantom import FIELD_MM, Anatomy, Setting, sample_anatomy, sample_setting
from osteo_utils.phantom import simulate_knee as simulate_one

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]

JOINT: Final = 20  # pixels of the joint's width at which film and template are compared
FIELD: Final = 2.0  # side of the template in widths of the joint
WIDTHS: Final = np.geomspace(0.12, 0.66, 26)  # of the joint, as shares of the film's longer side
WEIGHTS: Final = (1 / 3, 2 / 3)  # of edges that lie across and along the leg
MIN_SCORE: Final = 0.3  # correlation below which nothing is called a knee
MIN_ACROSS: Final = 0.12  # of it for the edges across the leg alone: a shaft has none
SECOND: Final = 0.6  # least score of the second knee, as a share of the first
DARK: Final = 12  # grey level of air and of what lies outside the collimated field
JOINT_MM: Final = 78 / 80  # width of the plateau over that of the condyles, in the phantom
_EDGE: Final = 0.4  # least distance of a centre from the film's edge, in widths
_PHANTOMS: Final = 60


class Knee(NamedTuple):
    """A joint on a film: centre of the joint space, width of the tibial plateau, in pixels."""

    x: float
    y: float
    width: float
    score: float = 1.0  # correlation with the template, at most 1


class Film(NamedTuple):
    """A phantom film and where its knees are, from left to right."""

    image: Grey  # (size, size)
    knees: list[Knee]


def locate_knees(image: Grey) -> list[Knee]:
    """The knees of a film, uint8 (height, width), bright bone, from left to right: 0, 1 or 2.

    Two knees lie apart, at about the same height, and are about equally wide. Where nothing
    resembles a knee the list is empty. `ValueError` for anything but grey uint8.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        found = f"{image.dtype} {image.shape}"
        raise ValueError(f"film: expected uint8 (height, width), found {found}; use read_image")
    candidates = [knee for share in WIDTHS for knee in _peaks(image, float(share))]
    kept: list[Knee] = []
    for knee in sorted(candidates, key=lambda k: -k.score):
        if len(kept) < 2 and all(_beside(knee, other) for other in kept):
            kept.append(knee)
    return sorted(kept)


def crop_knee(image: Grey, knee: Knee, multiple: float = 2.0) -> Grey:
    """The square about a knee, `multiple` widths of the joint a side, black beyond the film."""
    side = max(1, round(multiple * knee.width))
    left, top = round(knee.x - side / 2), round(knee.y - side / 2)
    square = np.zeros((side, side), np.uint8)
    inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    row, column = max(-top, 0), max(-left, 0)
    square[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return square


def hits(found: Sequence[Knee], truth: Sequence[Knee]) -> int:
    """How many true knees are found, each by a knee of its own.

    A hit lies within half a width of the true centre and is at most 1.4 times too wide or narrow.
    """
    left, count = list(found), 0
    for true in truth:
        if right := [knee for knee in left if _is_hit(knee, true)]:
            left.remove(right[0])
            count += 1
    return count


def edge_maps(grey: Floats | Grey) -> Floats:
    """Two maps (2, height, width) of edges, at JOINT pixels a joint, each over the local strength.

    First the signed change downwards (the joint space is a dark line between two bright ones),
    second the strength of change to the side (the outlines of the bones). Dividing by what is
    usual nearby undoes exposure and contrast. Where the film is dark there is no leg, so the edge
    of the field and the letters on black do not count.
    """
    smooth = gaussian_filter(np.asarray(grey, np.float32), 0.7)
    down, aside = sobel(smooth, 0), sobel(smooth, 1)
    usual = np.sqrt(gaussian_filter(down**2 + aside**2, JOINT / 5)) + 4  # 4: noise stays small
    lit = minimum_filter(smooth, 3) > DARK
    return np.stack([lit * down / usual, lit * np.abs(aside) / usual])


@lru_cache(maxsize=4)
def template(seed: int = 0) -> Floats:
    """Mean edge maps of phantom knees, left and right alike, (2, 40, 40), the joint 20 wide."""
    rng = np.random.default_rng(seed)
    side = round(FIELD * JOINT)
    maps = [edge_maps(_centred(rng, 2 * side)) for _ in range(_PHANTOMS)]
    mean = np.mean(maps, axis=0)
    return np.asarray((mean + mean[:, :, ::-1]) / 2)


def _centred(rng: np.random.Generator, size: int) -> Floats:
    """A phantom knee whose joint is 1 / FIELD of the picture wide, at half of `size` pixels."""
    anatomy = sample_anatomy(rng)
    scale = FIELD_MM / (FIELD * JOINT_MM * anatomy.condyle_width)
    setting = replace(_bare(sample_setting(rng)), scale=scale, shift_x_mm=0.0, shift_y_mm=0.0)
    setting = replace(setting, rotation_deg=0.0)
    image = simulate_one(float(rng.uniform(-4, 1)), rng, size, setting, anatomy).image
    half = image.reshape(size // 2, 2, size // 2, 2)
    return np.asarray(half.mean(axis=(1, 3)))


def correlation(maps: Floats, pattern: Floats) -> Floats:
    """Correlation (-1..1) of a map with a pattern of even side laid over every place of it.

    The value at row r, column c belongs to the pattern centred on that pixel's upper left corner.
    Beyond the map is 0. Where the map is nearly flat the correlation is pulled towards 0.
    """
    side = len(pattern)
    pattern = pattern - pattern.mean()
    padded = np.pad(maps, side // 2)
    product = fftconvolve(padded, pattern[::-1, ::-1], "same") / pattern.size
    mean, square = (uniform_filter(m, side, mode="constant") for m in (padded, padded**2))
    spread = np.sqrt(np.maximum(square - mean**2, 0) + 0.12**2)
    inside = slice(side // 2, -(side // 2))
    return np.asarray((product / pattern.std() / spread)[inside, inside])


def score_map(image: Grey, share: float) -> tuple[Floats, float]:
    """How much each place looks like a joint `share` of the longer side wide, and its zoom.

    The film is resized by `zoom` so that such a joint is JOINT pixels wide.
    """
    both, zoom = _correlations(image, share)
    return np.tensordot(WEIGHTS, both, axes=1), zoom


def _correlations(image: Grey, share: float) -> tuple[Floats, float]:
    """Correlation of either edge map with its template, (2, height, width), and the zoom."""
    zoom = JOINT / (share * max(image.shape))
    height, width = (max(1, round(n * zoom)) for n in image.shape)
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    pairs = zip(edge_maps(np.asarray(small)), template(), strict=True)
    return np.stack([correlation(m, t) for m, t in pairs]), zoom


def _peaks(image: Grey, share: float) -> list[Knee]:
    """Up to four highest places of a score map, half a joint apart, with a joint space."""
    both, zoom = _correlations(image, share)
    border, apart = round(_EDGE * JOINT), JOINT // 2
    core = (slice(border, -border),) * 2
    inner = np.full(both[0].shape, -1.0)
    inner[core] = np.tensordot(WEIGHTS, both, axes=1)[core]
    knees = []
    for _ in range(4):
        row, column = np.unravel_index(inner.argmax(), inner.shape)
        if (score := float(inner[row, column])) < MIN_SCORE:
            break
        if both[0, row, column] > MIN_ACROSS:
            knees.append(Knee(float(column / zoom), float(row / zoom), JOINT / zoom, score))
        inner[max(0, row - apart) : row + apart, max(0, column - apart) : column + apart] = -1
    return knees


def _beside(knee: Knee, other: Knee) -> bool:
    """Whether a place can be the other knee of a person whose first knee is found."""
    apart = np.hypot(knee.x - other.x, knee.y - other.y) > 0.9 * max(knee.width, other.width)
    level = abs(knee.y - other.y) < 0.8 * other.width
    alike = 1 / 1.3 < knee.width / other.width < 1.3 and knee.score > SECOND * other.score
    return bool(apart and level and alike)


def _is_hit(knee: Knee, true: Knee) -> bool:
    near = np.hypot(knee.x - true.x, knee.y - true.y) < 0.5 * true.width
    return bool(near and 1 / 1.4 < knee.width / true.width < 1.4)


def simulate_film(
    rng: np.random.Generator,
    size: int = 128,
    legs: int | None = None,
    t_score: float | None = None,
) -> Film:
    """A phantom film as clinics make them: one or two legs from thigh to calf, or none.

    `size` pixels square with a black border about an oblong film; `legs` 0, 1, 2 or drawn, and
    so is the `t_score` of the person. With 0 the film is empty or shows a shaft whose knee is
    outside. Bright bars at the edges, discs and boxes lie on it at random, and the grey of the air
    varies. `ValueError` for another number of legs or a T-score beyond the phantom's range.
    """
    if legs not in (None, 0, 1, 2):
        raise ValueError(f"legs: expected 0, 1, 2 or None, found {legs!r}")
    legs = int(rng.choice(3, p=(0.08, 0.42, 0.5))) if legs is None else legs
    left, top, width, height = _frame(rng)
    share = float(np.exp(rng.uniform(np.log(0.15), np.log(0.34 if legs == 2 else 0.5))))
    centre = left + width * rng.uniform(0.3, 0.7)
    gap = share * rng.uniform(1.25, 2.2) if legs == 2 else 0.0
    y = top + height * rng.uniform(0.2, 0.8) if legs else 0.5 + rng.choice((-1, 1)) * 1.4
    drawn = 2 if legs == 2 else 1 if legs == 1 or rng.random() < 0.5 else 0
    spots = [(centre + (i - (drawn - 1) / 2) * gap, y) for i in range(drawn)]
    bone = float(rng.uniform(-4, 1)) if t_score is None else t_score
    image, knees = _legs(rng, size, share, spots, bone)
    image = _clutter(_tone(image, rng), rng)
    at = (np.arange(size) + 0.5) / size
    rows, columns = (at > top) & (at < top + height), (at > left) & (at < left + width)
    image *= np.outer(rows, columns)
    shown = [k for k in knees if _shown(k, np.array([left, top, width, height]) * size)]
    return Film(image.astype(np.uint8), sorted(shown) if legs else [])


def render_film(
    knees: Sequence[Knee], side: int, rng: np.random.Generator, size: int = 256
) -> Grey:
    """A phantom film whose joints lie where those of a real film of `side` pixels lie.

    Stands in for a film that may not be shown: place, width and number of the knees are as
    measured, all else is drawn. Black where there is no knee; square, `size` pixels.
    """
    anatomy, base = sample_anatomy(rng), _bare(sample_setting(rng))
    image, t_score = np.zeros((size, size)), float(rng.uniform(-4, 1))
    for place, knee in enumerate(sorted(knees)):
        leg = replace(base, side=("R", "L")[place] if len(knees) == 2 else base.side)
        x, y, share = (each / side for each in (knee.x, knee.y, knee.width))
        setting = _placed(leg, float(rng.uniform(-4, 4)), share, x, y)
        image = np.maximum(image, simulate_one(t_score, rng, size, setting, anatomy).image)
    return np.asarray(_tone(image, rng).astype(np.uint8))


def _frame(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, width and height of the film in the square: one side full, the other 0.65 to 1."""
    short = float(rng.uniform(0.65, 1))
    width, height = ((1.0, short), (short, 1.0), (1.0, 1.0))[int(rng.integers(3))]
    return (1 - width) / 2, (1 - height) / 2, width, height


def _bare(setting: Setting) -> Setting:
    """The setting without collimation and marker."""
    edges = ("medial", "lateral", "top", "bottom")
    borders: dict[str, Any] = {f"collimation_{edge}_mm": 0.0 for edge in edges}
    return replace(setting, marker_style="none", **borders)


def _legs(
    rng: np.random.Generator,
    size: int,
    share: float,
    spots: Sequence[tuple[float, float]],
    t_score: float,
) -> tuple[Floats, list[Knee]]:
    """Legs of one person with their joints at about these places (fractions of the square)."""
    anatomy, base = sample_anatomy(rng), _bare(sample_setting(rng))
    image, knees = np.zeros((size, size)), []
    sides = ("R", "L") if len(spots) == 2 else (base.side,)
    for side, (x, y) in zip(sides, spots, strict=False):
        y += float(rng.normal(0, 0.12)) * share
        setting = _placed(replace(base, side=side), float(rng.uniform(-12, 12)), share, x, y)
        leg = simulate_one(t_score, rng, size, setting, anatomy).image
        image = np.maximum(image, leg)
        knees.append(Knee(x * size, y * size, _joint_width(anatomy, setting) * size))
    return image, knees


def _joint_width(anatomy: Anatomy, setting: Setting) -> float:
    """Width of the joint as a share of the picture's side."""
    return JOINT_MM * anatomy.condyle_width * setting.scale / FIELD_MM


def _placed(setting: Setting, degrees: float, share: float, x: float, y: float) -> Setting:
    """Turned, scaled, and moved so that the joint comes to lie at (x, y) of the square."""
    scale = share * FIELD_MM / (JOINT_MM * 80)
    right, down = (FIELD_MM / scale * (at - 0.5) for at in (x, y))
    right = -right if setting.side == "R" else right  # the phantom is mirrored last
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    shift_x, shift_y = float(c * right + s * down), float(c * down - s * right)
    return replace(
        setting, rotation_deg=degrees, scale=scale, shift_x_mm=shift_x, shift_y_mm=shift_y
    )


def _tone(image: Floats, rng: np.random.Generator) -> Floats:
    """Another display curve, and a grey of the air that is not always black."""
    air = rng.uniform(0, 45) if rng.random() < 0.5 else 0.0
    curved = (image / 255) ** rng.uniform(0.6, 1.5)
    return np.asarray(air + (255 - air) * rng.uniform(0.75, 1) * curved)


def _clutter(image: Floats, rng: np.random.Generator) -> Floats:
    """A bright bar along an edge now and then, a disc, a box."""
    size = len(image)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    if rng.random() < 0.3:
        from_edge = (x, 1 - x, y, 1 - y)[int(rng.integers(4))]
        along = (x + y) - rng.uniform(0, 2)
        image = np.where(from_edge < rng.uniform(0.01, 0.12) + 0.08 * along, 230.0, image)
    for distance in (np.hypot, lambda a, b: np.maximum(np.abs(a), np.abs(b))):
        if rng.random() < 0.4:
            at = distance(x - rng.uniform(0.05, 0.95), y - rng.uniform(0.05, 0.95))
            image = np.where(at < rng.uniform(0.012, 0.03), rng.uniform(150, 255), image)
    return image


def _shown(knee: Knee, frame: Floats) -> bool:
    """Whether the centre of the joint and most of its width lie on the film."""
    left, top, width, height = frame
    inside_x = left + 0.25 * knee.width < knee.x < left + width - 0.25 * knee.width
    return bool(inside_x and top + 0.4 * knee.width < knee.y < top + height - 0.4 * knee.width)
