"""The check of the lowest, Colab's and the newest versions goes on after a failure."""

import subprocess

import pytest
import versions


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """Runs all three environments, in which nothing is done; what was said, and the exit."""

    def install(folder, interpreter, chosen):
        if folder.name == "lowest":
            raise subprocess.CalledProcessError(1, ["uv", "pip", "compile"])
        (folder / "packages.txt").write_text("keras==3.13.2\nwheel==1\n")

    def run(command, log, cwd=None):
        log.write_text("" if "colab" in log.parts else "= 3 passed =\n")
        return "colab" not in log.parts

    monkeypatch.setattr(versions, "BUILD", tmp_path)
    monkeypatch.setattr(versions, "python", lambda folder, version: "python")
    monkeypatch.setattr(versions, "install", install)
    monkeypatch.setattr(versions, "run", run)
    monkeypatch.setattr(versions.sys, "argv", ["versions.py"])
    with pytest.raises(SystemExit) as exit:
        versions.main()
    return capsys.readouterr().out.splitlines(), exit.value.code


def test_an_environment_that_cannot_be_made_does_not_stop_the_others(checked):
    said, code = checked
    assert said[0] == "lowest: not made, since this failed: uv pip compile"
    assert "colab: keras 3.13.2" in said
    assert "newest: unit tests: 3 passed" in said
    assert code == "failed with these versions: lowest, colab"


def test_unit_tests_that_say_nothing_are_told_to(checked):
    assert "colab: unit tests: nothing was said" in checked[0]
