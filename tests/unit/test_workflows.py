"""The workflows ask for little, run what is here, and can be run here."""

import re
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))
import colab_image
import links
import workflows

FILES = sorted(workflows.WORKFLOWS.glob("*.yml"))
STEPS = [step for job in workflows.jobs().values() for step in job["steps"]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_may_read_and_a_job_alone_may_write(file):
    asked = yaml.safe_load(file.read_text("utf-8"))
    assert asked["permissions"] == {"contents": "read"}
    for job in asked["jobs"].values():
        assert len(job.get("permissions", {})) <= 1
        assert job["timeout-minutes"] <= 180
        assert "latest" not in job["runs-on"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_action_is_pinned_to_a_commit_with_its_version(file):
    used = re.findall(r"uses: (.+)", file.read_text("utf-8"))
    wrong = [x for x in used if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v[\d.]+", x)]
    assert wrong == []


def test_no_expression_stands_in_a_script():
    assert [step["run"] for step in STEPS if "${{" in step.get("run", "")] == []


def test_every_command_of_a_step_is_there():
    scripts = "\n".join(step.get("run", "") for step in STEPS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", scripts)) <= targets
    named = re.findall(r"(?:^|\s)((?:tests|book|\.ci)/[\w/.]+)", scripts)
    assert {"tests/links.py", ".ci/run"} <= set(named)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_ci_covers_the_pythons_that_the_package_takes():
    matrix = workflows.jobs()["ci/linux"]["strategy"]["matrix"]["python"]
    assert matrix == ["3.11", "3.12", "3.13"]
    assert '">=3.11,<3.14"' in (ROOT / "pyproject.toml").read_text()


def test_what_an_expression_of_an_environment_stands_for():
    job = {"strategy": {"matrix": {"packages": ["colab", "newest"]}}}
    assert workflows.given("${{ matrix.packages }}", job) == "colab"
    assert workflows.given("${{ github.repository }}", job) == "ada/knees"
    assert workflows.given("as it is", job) == "as it is"


def test_colabs_versions_of_today_take_the_place_of_those_of_then():
    then = "# What Colab's image of August 2026 (Python 3.13) has.\nKeras==3.13.2\ngone==1\n"
    frozen = "gone @ file:///x\nkeras==3.14.0\nother==2\n"
    said = colab_image.updated(then, frozen, date(2027, 1, 5))
    assert said == "# What Colab's image of January 2027 (Python 3.13) has.\nKeras==3.14.0\n"


def test_links_are_found_without_the_repositorys_own(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://github.com/ada/knees\n")
    (tmp_path / "a.md").write_text(
        "[a](https://a.org/x#y). https://ada.github.io/knees/z <https://b.org>"
    )
    (tmp_path / "book/references.bib").write_text("@a{a,\n  doi       = {10.1/2(3)4},\n}\n")
    wanted = {"https://a.org/x", "https://b.org", "https://doi.org/api/handles/10.1/2(3)4"}
    assert links.links(tmp_path) == wanted
