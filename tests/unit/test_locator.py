"""The knee locator on phantom films whose joints are known, its geometry, and the real films."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from osteo_utils.chapters import locator
from osteo_utils.chapters.locator import Knee, crop_knee, hits, locate_knees, simulate_film
from osteo_utils.data.images import read_image
from osteo_utils.phantom import sample_setting, simulate_knee

REFERENCE = Path(__file__).parents[2] / "data" / "reference"


def films(legs, count=6, size=160, seed=5):
    rng = np.random.default_rng(seed)
    drawn = (simulate_film(rng, size, legs) for _ in range(5 * count))
    return [film for film in drawn if len(film.knees) == legs][:count]


def test_simulated_film_knows_its_joint_to_a_twentieth_of_the_width():
    rng = np.random.default_rng(3)
    for side in "LR":
        placed = locator._placed(sample_setting(rng, side), 9.0, 0.3, 0.4, 0.6)
        radiograph = simulate_knee(-1.0, rng, 200, replace(locator._bare(placed)))
        y, x = np.nonzero(radiograph.masks["joint"])
        width = 78 / 80 * radiograph.facts["condyle_width"] * placed.scale / 150 * 200
        assert x.mean() == pytest.approx(0.4 * 200, abs=width / 20)
        assert y.mean() == pytest.approx(0.6 * 200, abs=width / 20)
        slanted = np.hypot(np.ptp(x), np.ptp(x) * np.tan(np.deg2rad(9)))
        assert slanted == pytest.approx(width, rel=0.08)


@pytest.mark.parametrize("legs", [1, 2])
def test_nearly_all_knees_of_phantom_films_are_found(legs):
    made = films(legs)
    assert len(made) == 6
    found = [locate_knees(film.image) for film in made]
    assert sum(hits(f, film.knees) for f, film in zip(found, made, strict=True)) >= 6 * legs - 1
    assert all(f == sorted(f) and len(f) <= 2 for f in found)


def test_second_leg_is_not_invented():
    assert sum(len(locate_knees(film.image)) > 1 for film in films(1)) <= 1


def test_film_without_a_leg_has_no_knee():
    rng = np.random.default_rng(0)
    assert locate_knees(np.zeros((200, 150), np.uint8)) == []
    assert locate_knees(np.full((150, 200), 180, np.uint8)) == []
    assert locate_knees(rng.integers(0, 256, (180, 180)).astype(np.uint8)) == []
    empty = np.full((200, 200), 30, np.uint8)
    empty[20:40, 150:165] = 230  # a marker
    assert locate_knees(empty) == []


def test_mirrored_film_has_the_mirrored_knees():
    film = films(2, count=1)[0]
    there, back = locate_knees(film.image), locate_knees(np.ascontiguousarray(film.image[:, ::-1]))
    size = len(film.image)
    assert len(there) == len(back) == 2
    for knee, mirrored in zip(there, back[::-1], strict=True):
        assert size - mirrored.x == pytest.approx(knee.x, abs=0.2 * knee.width)
        assert mirrored.y == pytest.approx(knee.y, abs=0.2 * knee.width)


def test_enlarged_film_gives_the_same_knees_larger():
    film = films(1, count=1)[0]
    enlarged = [np.kron(film.image, np.ones((k, k), np.uint8)) for k in (1, 3)]
    (small,), (large,) = map(locate_knees, enlarged)
    assert large.x / 3 == pytest.approx(small.x, abs=0.15 * small.width)
    assert large.y / 3 == pytest.approx(small.y, abs=0.15 * small.width)
    assert large.width / 3 == pytest.approx(small.width, rel=0.15)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (12, 9)])
def test_tiny_film_has_no_knee_and_no_error(shape):
    assert locate_knees(np.full(shape, 90, np.uint8)) == []


@pytest.mark.parametrize(
    "film", [np.zeros((9, 9)), np.zeros((9, 9, 3), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_anything_but_grey_uint8_is_refused(film):
    with pytest.raises(ValueError, match="expected uint8"):
        locate_knees(film)


def test_cut_is_the_square_about_the_joint():
    film = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert crop_knee(film, Knee(5, 4, 2), 2.0).tolist() == film[2:6, 3:7].tolist()


def test_cut_is_black_beyond_the_film():
    film = np.full((4, 6), 7, np.uint8)
    cut = crop_knee(film, Knee(1, 1, 2), 2.0)  # rows and columns -1 to 2
    assert cut.tolist() == [[0, 0, 0, 0], [0, 7, 7, 7], [0, 7, 7, 7], [0, 7, 7, 7]]
    beside = crop_knee(film, Knee(5, 3, 2), 2.0)  # columns 3 to 6, rows 1 to 4
    assert beside.tolist() == [[7, 7, 7, 0]] * 3 + [[0] * 4]


def test_cut_far_from_the_film_is_black():
    assert not crop_knee(np.full((4, 4), 9, np.uint8), Knee(-20, 30, 3)).any()


def test_hit_needs_place_and_width_and_a_knee_of_its_own():
    true = Knee(50, 50, 20)
    assert hits([Knee(59, 50, 20)], [true]) == 1
    assert hits([Knee(61, 50, 20)], [true]) == 0  # more than half a width away
    assert hits([Knee(50, 50, 27)], [true]) == 1
    assert hits([Knee(50, 50, 29)], [true]) == 0  # 1.45 times too wide
    assert hits([Knee(50, 50, 20)], [true, Knee(52, 50, 20)]) == 1
    assert hits([], [true]) == 0


def test_correlation_of_a_pattern_with_itself_peaks_at_its_middle():
    rng = np.random.default_rng(1)
    pattern, scene = rng.normal(size=(10, 10)), np.zeros((40, 50))
    scene[12:22, 25:35] = 3 * pattern
    scores = locator.correlation(scene, pattern)
    assert scores.shape == scene.shape
    assert np.unravel_index(scores.argmax(), scores.shape) == (17, 30)
    assert 0.95 < scores.max() <= 1  # 1 but for what pulls flat places to 0


def test_template_is_the_same_left_and_right():
    pattern = locator.template()
    assert pattern.shape == (2, 40, 40)
    assert np.allclose(pattern, pattern[:, :, ::-1])


def test_impossible_number_of_legs_is_refused():
    with pytest.raises(ValueError, match="legs"):
        simulate_film(np.random.default_rng(0), legs=3)


def test_real_knees_are_found_as_often_as_reported(real_knees):
    marked = pd.read_csv(REFERENCE / "mendeley_knees.csv")
    paths = {path.name: path for path in real_knees.glob("*/*")}
    found = of = 0
    for name in marked["file"].unique()[::3]:
        rows = marked.loc[marked["file"] == name, ["x", "y", "width"]]
        truth = [Knee(*row) for row in rows.to_numpy()]
        found += hits(locate_knees(read_image(paths[name])), truth)
        of += len(truth)
    table = pd.read_csv(REFERENCE / "mendeley_locator.csv").set_index(["method", "counted"])
    reported = table.loc[("matched filter", "knees of the sample found")]
    assert found / of >= reported["count"] / reported["of"] - 0.05


def test_rendered_film_has_its_knees_where_they_were_asked_for():
    asked = [Knee(300.0, 250.0, 110.0), Knee(120.0, 240.0, 110.0)]
    film = locator.render_film(asked, 512, np.random.default_rng(0), 256)
    assert film.shape == (256, 256)
    assert film.dtype == np.uint8
    assert hits(locate_knees(film), [Knee(k.x / 2, k.y / 2, k.width / 2) for k in asked]) == 2
