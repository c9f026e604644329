"""The search for altered copies: each step by hand, and recall on phantoms and real radiographs."""

import tracemalloc
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from tiny_films import encoded

from osteo_utils import near_duplicates
from osteo_utils.data.audit import SAME_IMAGE, _components, _rotation_scale_shift
from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.images import read_image
from osteo_utils.formats.films import THREADS
from osteo_utils.near_duplicates import extract_features, find_pairs
from osteo_utils.phantom import simulate_knee

BILINEAR = Image.Resampling.BILINEAR


def cut(film, share=0.1):
    width, height = film.size
    return film.crop((0, round(share * height), round(width * (1 - share)), height))


def shifted(film, share=0.1):
    moved = Image.new("L", film.size)
    moved.paste(film, (round(share * film.width), -round(share * film.height)))
    return moved


def padded(film, colour):
    return ImageOps.expand(film, (film.width // 10, film.height // 10), colour)


KINDS = {
    "saved at half the size": lambda film: film.resize((film.width // 2, film.height // 2)),
    "squeezed": lambda film: film.resize((224, 224)),
    "gamma": lambda film: film.point([round(255 * (v / 255) ** 0.6) for v in range(256)]),
    "mirrored": ImageOps.mirror,
    "rotated": lambda film: film.rotate(-15, BILINEAR),
    "cropped": lambda film: cut(film, 0.15),
    "shifted": shifted,
    "padded black": lambda film: padded(film, 0),
    "padded white": lambda film: padded(film, 255),
    "inverted": ImageOps.invert,
    "rotated and cropped": lambda film: cut(film.rotate(10, BILINEAR)),
    "mirrored and rotated": lambda film: ImageOps.mirror(film).rotate(5, BILINEAR),
    "inverted and cropped": lambda film: cut(ImageOps.invert(film)),
}


def found_among(films):
    return find_pairs([extract_features(np.asarray(film)) for film in films])


def assert_twins_alone_are_found(films):
    """Search films and a twin of each, made in each way in turn."""
    kinds = list(KINDS.values())
    twins = [kinds[i % len(kinds)](film) for i, film in enumerate(films)]
    pairs = found_among([*films, *twins])
    of_twins = {pair.a: pair.similarity for pair in pairs if pair.b - pair.a == len(films)}
    others = [pair.similarity for pair in pairs if pair.b - pair.a != len(films)]
    found = [of_twins.get(i, -1) >= SAME_IMAGE for i in range(len(films))]
    assert np.mean(found) >= 0.95, of_twins
    assert max(others, default=-1) < SAME_IMAGE


def phantom(seed, size=160):
    return Image.fromarray(simulate_knee(-1.5, np.random.default_rng(seed), size).image)


def test_altered_copies_of_phantoms_are_found_and_no_others():
    assert_twins_alone_are_found([phantom(seed) for seed in range(2 * len(KINDS))])


def test_altered_copies_of_real_radiographs_are_found_and_no_others(real_knees):
    paths = list_corpus(real_knees).drop_duplicates("sha256")["path"]
    paths = paths.iloc[:: len(paths) // (3 * len(KINDS))]
    assert_twins_alone_are_found([Image.fromarray(read_image(real_knees / p)) for p in paths])


def test_small_copies_do_not_make_strangers_alike(real_knees):
    """Half of the detail is lost on 105 px: compared so, 34 pairs of strangers passed for one."""
    paths = list_corpus(real_knees).drop_duplicates("sha256")["path"].iloc[::4]
    films = [Image.fromarray(read_image(real_knees / path)) for path in paths]
    pairs = found_among(KINDS["saved at half the size"](film) for film in films)
    assert max(pair.similarity for pair in pairs) < SAME_IMAGE


def turned(film, angle, quality):
    return Image.open(BytesIO(encoded(film.rotate(angle, BILINEAR), "JPEG", quality=quality)))


@pytest.mark.parametrize(
    "alterations",
    [
        list(KINDS.values())[:12],
        # Each has three that are more like it than all others: as many as a film may ask for.
        [partial(turned, angle=a, quality=q) for a in (4, 8, 12) for q in (95, 80, 60, 40)],
    ],
)
def test_twelve_copies_of_one_film_are_one_group(alterations):
    film = phantom(0)
    copies = [alter(film) for alter in alterations]
    films = [film, *copies, *(phantom(seed) for seed in range(1, 6))]
    pairs = found_among(films)
    twins = [(pair.a, pair.b) for pair in pairs if pair.similarity >= SAME_IMAGE]
    groups = _components(pd.DataFrame(twins, columns=["a", "b"]), len(films))
    assert groups.tolist() == [0] * 13 + [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("alter", "rotation", "scale", "shift", "mirrored", "inverted"),
    [
        (lambda film: film.copy(), 0, 1, 0, False, False),
        (lambda film: film.rotate(12, BILINEAR), -12, 1, 0, False, False),
        (ImageOps.mirror, 0, 1, 0, True, False),
        (ImageOps.invert, 0, 1, 0, False, True),
        (lambda film: padded(film, 0), 0, 1.2, 0, False, False),
        (lambda film: cut(film, 0.1), 0, 0.9, np.hypot(0.05, 0.05), False, False),
        (shifted, 0, 1, np.hypot(0.1, 0.1), False, False),
    ],
)
def test_what_was_done_to_a_copy_is_told(alter, rotation, scale, shift, mirrored, inverted):
    """As what has to be done to the copy, so that it lies on the original."""
    film = phantom(3, 200)
    (pair,) = found_among([film, alter(film)])
    assert (pair.a, pair.b, pair.mirrored, pair.inverted) == (0, 1, mirrored, inverted)
    assert pair.similarity > 0.95
    sizes = (np.array(each.size, float) for each in (film, alter(film)))
    expected = pytest.approx((rotation, scale, shift), abs=0.02 + rotation**2)
    assert _rotation_scale_shift(pair, *sizes) == expected


def test_a_rotation_is_told_in_degrees_of_the_film_though_it_is_not_square():
    film = phantom(3, 200).resize((160, 240))
    (pair,) = found_among([film, film.rotate(10, BILINEAR)])
    rotation, scale, _ = _rotation_scale_shift(pair, *[np.array(film.size, float)] * 2)
    assert rotation == pytest.approx(-10, abs=0.3)
    assert scale == pytest.approx(1, abs=0.01)


def test_descriptors_do_not_see_inversion_and_mirror_as_the_film_does():
    grey = np.asarray(phantom(1, 192))
    film, dark, other = (extract_features(each) for each in (grey, 255 - grey, grey[:, ::-1]))
    assert np.allclose(dark.points, film.points)
    assert (dark.bright == ~film.bright).all()
    assert np.abs(dark.descriptors - film.descriptors).max() < 0.01
    mirrored = {
        complex(np.round(-p.conjugate(), 3)): d
        for p, d in zip(film.points, near_duplicates._mirrored(film.descriptors), strict=True)
    }
    known = [
        (d, mirrored[key])
        for p, d in zip(other.points, other.descriptors, strict=True)
        if (key := complex(np.round(p, 3))) in mirrored
    ]
    assert len(known) == len(film.points)
    assert min(np.vdot(a.astype(float), b.astype(float)) for a, b in known) > 0.999


def test_flat_margins_are_overwritten_with_what_is_next_to_them():
    small = np.full((20, 20), 255, np.uint8)
    small[4:, :] = np.arange(20) * 10
    filled, box = near_duplicates._without_margins(small)
    assert (filled == np.arange(20) * 10).all()
    assert box == pytest.approx((-0.5, 6 / 20 - 0.5, 0.5, 0.5))


def test_what_all_descriptors_share_counts_as_little_as_the_rest_once_whitened():
    films = [extract_features(np.asarray(phantom(seed))) for seed in range(4)]
    flat = np.concatenate([film.descriptors.reshape(-1, 64) for film in films]).astype(float)
    strength = np.linalg.eigvalsh(flat.T @ flat)
    assert strength[-1] > 20 * strength[-near_duplicates.COMPONENTS]  # as they are
    whitened = flat @ near_duplicates.whitening(films)
    assert np.allclose(whitened.T @ whitened, np.eye(near_duplicates.COMPONENTS), atol=1e-3)


def test_the_nearest_descriptor_of_another_film_wins_by_hand():
    known = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1]], np.float32)
    owner = np.array([0, 0, 1, 2])
    assert near_duplicates._owner_of_nearest(known, owner, known, owner).tolist() == [2, 2, 2, 1]
    some = near_duplicates._owner_of_nearest(known[[0, 3]], owner[[0, 3]], known, owner)
    assert some.tolist() == [2, 1]


def test_the_memory_of_the_search_is_that_of_its_tiles():
    """Whole rows would take 80 MB for each thread here, and grow with the number of films."""
    owner = np.repeat(np.arange(500), 80)
    known = np.random.default_rng(0).standard_normal((len(owner), 4), np.float32)
    tracemalloc.start()
    near_duplicates._owner_of_nearest(known[::8], owner[::8], known, owner)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15e6 * THREADS


def test_a_map_by_hand_warps_as_it_says():
    """Positions one tenth to the right: what was there is seen here."""
    grey = np.tile(np.arange(20, dtype=np.float32), (20, 1))
    seen = near_duplicates._warp(grey, np.array([[1, 0, 0.1], [0, 1, 0]]))
    assert np.allclose(seen[:, :18], grey[:, 2:])
    quarter = np.array([[0, 1, 0], [-1, 0, 0]])  # x of the film is y of what is seen
    assert np.allclose(near_duplicates._warp(grey, quarter), grey.T, atol=1e-4)


@pytest.mark.parametrize(
    "image", [np.zeros((1, 1)), np.full((50, 40), 9), np.tile(np.arange(40) * 6, (50, 1))]
)
def test_films_with_nothing_on_them_have_no_copies(image):
    film = extract_features(image.astype(np.uint8))
    assert find_pairs([film, film, extract_features(np.asarray(phantom(0)))]) == []
    assert find_pairs([film]) == find_pairs([]) == []


def test_a_film_of_a_few_pixels_is_a_copy_of_nothing_but_itself():
    film = extract_features(np.eye(3, dtype=np.uint8) * 255)
    pairs = find_pairs([film, film, extract_features(np.asarray(phantom(0)))])
    assert [(pair.a, pair.b) for pair in pairs if pair.similarity >= SAME_IMAGE] == [(0, 1)]


def test_what_is_kept_of_a_film_does_not_grow_with_it():
    """Twenty thousand films have to fit into memory: 1 GB, not one detail map for each pair."""
    film = extract_features(np.asarray(phantom(0).resize((1200, 1200))))
    assert sum(np.asarray(part).nbytes for part in film) < 50_000


def test_the_page_on_near_duplicates_tells_the_numbers_of_the_search():
    text = (Path(__file__).parents[2] / "notebooks/deeper_near_duplicates.ipynb").read_text("utf-8")
    for told in (
        f"up to {near_duplicates.POINTS} small places",
        f"*descriptor* of {near_duplicates.CELLS**2 * near_duplicates.DIRECTIONS} numbers",
        f"each of the {near_duplicates.QUERIES} strongest keypoints",
        f"The {near_duplicates.NEIGHBOURS} films that most of them point to",
        f"if at least {near_duplicates.VOTES} do",
        f"({near_duplicates.SIDES[0]} to {near_duplicates.SIDES[1]} pixels",
    ):
        assert told in text
