"""Progress is shown where somebody watches, and nowhere else."""

import sys
from types import SimpleNamespace

import pytest

from osteo_utils.progress import progress


@pytest.fixture
def notebook(monkeypatch):
    """As in a kernel: no terminal, and a shell of IPython with a kernel."""
    monkeypatch.delenv("OSTEO_PROGRESS", raising=False)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def test_progress_is_silent_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert list(progress(range(3), "auditing")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_in_a_notebook(notebook, capsys):
    assert list(progress(range(3), "auditing", unit="image")) == [0, 1, 2]
    shown = capsys.readouterr().err
    assert "auditing: 100%" in shown
    assert "3/3" in shown


def test_progress_is_shown_in_a_terminal(capsys, monkeypatch):
    monkeypatch.delenv("OSTEO_PROGRESS", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    list(progress(iter("abc"), "unpacking", 3))
    assert "unpacking: 100%" in capsys.readouterr().err


def test_a_build_switches_progress_off(notebook, capsys, monkeypatch):
    monkeypatch.setenv("OSTEO_PROGRESS", "0")
    list(progress(range(3), "auditing"))
    assert capsys.readouterr().err == ""


def test_a_training_shows_one_bar_of_epochs(notebook, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    from osteo_utils.networks.training import _Bar

    bar = _Bar({"model": "custom_cnn", "seed": 1})
    bar.set_params({"epochs": 2})
    bar.on_train_begin()
    bar.on_epoch_end(0, {"loss": 1.5, "val_loss": 1.25})
    bar.on_epoch_end(1, {"loss": 1.0, "val_loss": 0.75})
    bar.on_train_end()
    out, shown = capsys.readouterr()
    assert out == ""
    assert "training custom_cnn, seed 1: 100%" in shown
    assert "2/2" in shown
    assert "val_loss=0.750" in shown
    assert shown.count("\n") == 1
