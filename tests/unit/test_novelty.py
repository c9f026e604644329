import json
from functools import cache

import numpy as np
import pytest

from osteo_utils.data import novelty
from osteo_utils.data.novelty import FILE, Novelty, descriptors, fit_novelty, load_novelty
from osteo_utils.phantom import simulate_knee
from osteo_utils.runs import RunError

NUMBERS = 66


@cache
def knees(n, seed):
    rng = np.random.default_rng(seed)
    return [simulate_knee(t, rng, 64).image for t in rng.uniform(-4, 1, n)]


@pytest.fixture(scope="module")
def fitted():
    return fit_novelty(knees(60, 0), knees(30, 1))


def test_descriptor_of_a_film_half_dark_half_light_by_hand():
    film = np.repeat(np.uint8([[50, 150]]), [32, 32], axis=1).repeat(64, axis=0)
    (found,) = descriptors([film])
    cells = found[:64].reshape(8, 8)  # mean 100, deviation 50
    np.testing.assert_allclose(cells[:, :4], -1)
    np.testing.assert_allclose(cells[:, 4:], 1)
    np.testing.assert_allclose(found[64:], [4 * np.log(50), 100 / 16])


def test_a_blank_film_has_finite_numbers():
    (found,) = descriptors([np.full((64, 64), 200, np.uint8)])
    np.testing.assert_array_equal(found, np.append(np.zeros(65), 12.5))


def test_a_channel_axis_changes_nothing():
    films = np.stack(knees(2, 5))
    np.testing.assert_array_equal(descriptors(films[..., None]), descriptors(films))


def test_score_is_the_mahalanobis_distance_by_hand():
    blank = np.full((8, 8), 160, np.uint8)  # descriptor: zeros, and 10 at the end
    mean, precision = np.zeros(NUMBERS), np.eye(NUMBERS)
    mean[0], precision[-1, -1] = 3, 0.16  # distance squared: 3**2 + 0.16 * 10**2 = 25
    np.testing.assert_allclose(Novelty(mean, precision, 4.9).score([blank]), [5])
    assert Novelty(mean, precision, 4.9).is_new([blank]).tolist() == [True]
    assert Novelty(mean, precision, 5.1).is_new([blank]).tolist() == [False]


def test_a_film_without_a_score_is_new():
    blank, precision = np.full((8, 8), 160, np.uint8), np.eye(NUMBERS)
    assert Novelty(np.full(NUMBERS, np.nan), precision, 5.0).is_new([blank]).all()
    assert Novelty(np.zeros(NUMBERS), precision, np.nan).is_new([blank]).all()


# Ranks by hand: ceil(241 * 0.99) = 239 leaves 2 of 241 places above, ceil(100 * 0.99) = 99 one of
# 100. With 40 the rank would be 41: the largest of 40 has to do, and 1 place of 41 is above.
@pytest.mark.parametrize(
    ("films", "rank", "above"), [(240, 239, 2 / 241), (99, 99, 1 / 100), (40, 40, 1 / 41)]
)
def test_threshold_is_the_validation_score_of_the_conformal_rank(monkeypatch, films, rank, above):
    rng = np.random.default_rng(0)
    scores = [abs(rng.normal(size=films)) for _ in range(400)]
    later, flagged = abs(rng.normal(size=200_000)), []
    monkeypatch.setattr(novelty, "descriptors", lambda _: np.zeros((2, NUMBERS)))
    for each in scores:
        monkeypatch.setattr(Novelty, "score", lambda *_, each=each: each)
        found = fit_novelty([None] * 2, [None] * films)
        assert found.threshold == np.sort(each)[rank - 1]
        flagged.append(np.mean(later > found.threshold))
    assert found.false_alarms == pytest.approx(above)
    assert np.mean(flagged) == pytest.approx(above, rel=0.15)  # 400 studies


def test_new_knees_pass_and_other_pictures_do_not(fitted):
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:64, :64]
    others = {
        "noise": rng.integers(0, 256, (64, 64)),
        "blank": np.full((64, 64), 128),
        "slope": 4 * x,
        "board": 255 * ((x // 8 + y // 8) % 2),
        "page": np.where((y % 6 < 2) & (rng.random((64, 64)) < 0.6), 30, 245),
        "negative": 255 - knees(1, 3)[0],
        "turned": np.rot90(knees(1, 3)[0]),
    }
    flagged = fitted.is_new([film.astype(np.uint8) for film in others.values()])
    assert dict(zip(others, flagged.tolist(), strict=True)) == dict.fromkeys(others, True)
    assert fitted.is_new(knees(40, 4)).mean() <= 0.15  # 60 films taught it, 30 set the threshold


def test_real_radiographs_are_unlike_phantoms(fitted, real_knees):
    from osteo_utils.data.images import fit_square, read_image

    films = [fit_square(read_image(path), 64) for path in sorted(real_knees.rglob("*.*"))[::24]]
    assert len(films) == 10
    assert fitted.is_new(films).all()


def test_saved_and_read_again_it_says_exactly_the_same(fitted, tmp_path):
    fitted.save(tmp_path)
    again, films = load_novelty(tmp_path), knees(3, 6)
    np.testing.assert_array_equal(again.score(films), fitted.score(films))
    assert (again.threshold, again.false_alarms) == (fitted.threshold, fitted.false_alarms)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("text", ["", "{}", '{"mean": [1, 2], "precision": [[1]], "threshold": 2}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunError, match=r"novelty\.json: expected the mean of 66 numbers"):
        load_novelty(tmp_path)


def test_a_file_of_another_shape_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | {"precision": content["precision"][:-1]}))
    with pytest.raises(RunError, match=r"\(65, 66\)"):
        load_novelty(tmp_path)


def test_a_file_without_a_finite_threshold_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | {"threshold": float("nan")}))
    with pytest.raises(RunError, match="not finite"):
        load_novelty(tmp_path)


def test_a_missing_file_and_too_few_films_say_what_to_do(tmp_path):
    with pytest.raises(RunError, match=r"found none\. Make it with fit_novelty"):
        load_novelty(tmp_path)
    with pytest.raises(ValueError, match="found 1 and 3"):
        fit_novelty(knees(1, 0), knees(3, 1))
