import numpy as np
import pytest

from osteo_utils.chapters import features


def test_a_histogram_holds_the_share_of_each_step_of_grey():
    image = np.uint8([[0, 15, 16], [31, 128, 255]])
    expected = np.zeros(16)
    expected[[0, 1, 8, 15]] = [2 / 6, 2 / 6, 1 / 6, 1 / 6]
    np.testing.assert_allclose(features.histogram(image), expected)


@pytest.mark.parametrize("change", [lambda x: x + 40, lambda x: x // 2 + 9])
def test_binary_patterns_do_not_see_brightness_or_contrast(change):
    film = np.random.default_rng(0).integers(0, 100, (24, 24)) * 2  # even: halves exactly
    found = features.binary_patterns(film.astype(np.uint8))
    np.testing.assert_array_equal(found, features.binary_patterns(change(film).astype(np.uint8)))


def test_binary_patterns_are_shares_of_each_radius():
    film = np.random.default_rng(1).integers(0, 256, (16, 16)).astype(np.uint8)
    np.testing.assert_allclose(features.binary_patterns(film).reshape(3, 59).sum(axis=1), 1)


def test_an_even_grey_has_one_pattern_the_one_whose_neighbours_are_all_as_bright():
    even = features.binary_patterns(np.full((16, 16), 7, np.uint8)).reshape(3, 59)
    assert (even.max(axis=1) == 1).all()


def test_codes_are_counted_in_the_middle_alone():
    film = np.random.default_rng(2).integers(0, 256, (32, 32)).astype(np.uint8)
    framed = film.copy()
    framed[:4] = 255  # more than three pixels from the middle
    np.testing.assert_array_equal(features.binary_patterns(film), features.binary_patterns(framed))
