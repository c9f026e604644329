"""Profiles: what a run of the course is made of, and that a new one needs no other home."""

from dataclasses import replace

import pytest

from osteo_utils import course as module
from osteo_utils.profiles import PROFILES, get_profile, recipe


def test_an_unknown_profile_names_the_choices():
    with pytest.raises(ValueError, match="expected one of smoke, quick, full, found 'fast'"):
        get_profile("fast")


def test_a_fusion_sees_the_larger_images_of_its_members():
    smoke = get_profile("smoke")
    assert recipe(smoke, "vgg16+xception").image_size == 71


def test_a_new_profile_says_itself_how_long_its_training_takes(tmp_path, capsys, monkeypatch):
    """Its name is in no other table of the library."""
    mine = replace(PROFILES["quick"], name="mine", patients=24, corpus_size=96)
    monkeypatch.setitem(PROFILES, "mine", replace(mine, training_time="a day by hand"))
    course = module.open_course("mine", runs=tmp_path / "runs")
    module.with_runs(course, ["custom_cnn"])
    assert "Training all ten takes a day by hand" in capsys.readouterr().out
