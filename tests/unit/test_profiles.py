"""Profiles: what a run of the course is made of, and that a new one needs no other home."""

from dataclasses import replace

from osteo_utils import course as module
from osteo_utils.registry import PROFILES


def test_a_new_profile_says_itself_how_long_its_training_takes(tmp_path, capsys, monkeypatch):
    """Its name is in no other table of the library."""
    mine = replace(PROFILES["quick"], name="mine", patients=24, corpus_size=96)
    monkeypatch.setitem(PROFILES, "mine", replace(mine, training_time="a day by hand"))
    course = module.open_course("mine", runs=tmp_path / "runs")
    module.with_runs(course, ["custom_cnn"])
    assert "Training all networks takes a day by hand" in capsys.readouterr().out
