from dataclasses import replace

import numpy as np
import pytest

from osteo_utils import registry
from osteo_utils.errors import CourseError
from osteo_utils.registry import PROFILES, class_of_t_score, get_architecture, get_profile, recipe


@pytest.mark.parametrize(
    ("t_score", "name"),
    [
        (2.0, "Normal"),
        (-1.0, "Normal"),  # "at or above -1.0"
        (np.nextafter(-1.0, -2), "Osteopenia"),
        (np.nextafter(-2.5, 0), "Osteopenia"),
        (-2.5, "Osteoporosis"),  # "at or below -2.5"
        (-4.0, "Osteoporosis"),
    ],
)
def test_thresholds_of_the_who(t_score, name):
    assert registry.CLASS_NAMES[class_of_t_score(t_score)] == name


def test_t_scores_keep_their_shape():
    assert class_of_t_score([[0, -2], [-3, -1]]).tolist() == [[0, 1], [2, 0]]
    assert class_of_t_score([]).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [0.0, float("nan")]])
def test_a_t_score_that_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="T-scores: expected finite numbers"):
        class_of_t_score(bad)


def test_class_index_takes_any_case_and_space():
    names = ("normal", "OSTEOPENIA", " Osteoporosis ")
    assert [registry.class_index(name) for name in names] == [0, 1, 2]
    assert set(registry.CLASS_COLOURS) == set(registry.CLASS_NAMES)


@pytest.mark.parametrize("bad", ["", "osteo", "Normal 1"])
def test_an_unknown_class_is_refused(bad):
    with pytest.raises(ValueError, match="expected one of Normal, Osteopenia, Osteoporosis"):
        registry.class_index(bad)


def test_profiles_grow_and_know_their_names():
    smoke, quick, full = (get_profile(name) for name in ("smoke", "quick", "full"))
    for field in ("patients", "corpus_size", "image_size", "resamples"):
        assert getattr(smoke, field) < getattr(quick, field) <= getattr(full, field)
    assert all(name == profile.name for name, profile in PROFILES.items())
    assert all(p.image_size <= p.corpus_size for p in PROFILES.values())


def test_a_fusion_of_two_sees_the_larger_images_of_the_two():
    smoke = get_profile("smoke")
    sizes = [recipe(smoke, name).image_size for name in ("vgg16", "xception", "alexnet")]
    assert sizes == [64, 71, 67]
    assert recipe(smoke, "vgg16+xception").image_size == 71
    assert recipe(smoke, "xception+alexnet").image_size == 71
    assert recipe(smoke, "vgg16+custom_cnn") == smoke


def test_a_profile_without_recipes_changes_only_images_that_are_too_small():
    profile = replace(get_profile("smoke"), name="tiny")
    assert recipe(profile, "alexnet") == replace(profile, image_size=67)
    assert recipe(replace(profile, image_size=96), "alexnet").image_size == 96


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match=rf"expected one of {', '.join(PROFILES)}, found 'fast'\."):
        get_profile("fast")


def known(kind, names):
    return lambda name: registry.known_name(kind, name, names)


@pytest.mark.parametrize(
    ("look_up", "wrong", "right"),
    [
        (get_profile, "quik", "quick"),
        (get_architecture, "ResNet-50", "resnet50"),
        (get_architecture, "vgg16+inceptionv3", "inception_v3"),
        (known("method", registry.SALIENCY_METHODS), "gradcam++", "grad_cam"),
        (known("score", registry.SCORES), "Balanced accuracy", "balanced_accuracy"),
        (known("class", registry.CLASS_NAMES), "osteopenie", "Osteopenia"),
    ],
)
def test_of_an_unknown_name_the_closest_known_one_is_told(look_up, wrong, right):
    with pytest.raises(CourseError, match=rf"found '.*'\. Did you mean {right}\?$"):
        look_up(wrong)
