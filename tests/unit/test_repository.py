"""The house rules that a glance at the repository can check."""

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from osteo_utils import __version__
from osteo_utils.registry import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
from contents import notebooks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ARTEFACTS = {".h5", ".keras", ".onnx", ".npz", ".npy", ".zip", ".dcm", ".pt", ".pkl", ".tar", ".gz"}
PROSE = ("notebooks/*.ipynb", "book/*.md", "osteo_utils/**/*.py", "interface/*.py", "README.md")
ALLOWED = r"(?:not|no|never) (?:a |an )?(?:\w+ )?diagnos|diagnostic|diagnosis or\s+medical advice"


def files() -> list[Path]:
    """What git holds or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def chapters() -> list[str]:
    return sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def names(requirements: str) -> set[str]:
    """Names of the packages in a requirements file, as the index spells them."""
    lines = (ROOT / requirements).read_text().splitlines()
    return {named(line) for line in lines if line and not line.startswith(("#", "-"))}


def named(requirement: str) -> str:
    """Name of the package in a requirement, as the index spells it."""
    return re.sub(r"[._-]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def test_every_notebook_is_in_the_table_of_contents():
    assert sorted(path.stem for path in notebooks()) == chapters()


def test_chapters_wait_for_what_they_read():
    texts = {path.stem: path.read_text("utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")}
    facts = {chapter: json.loads(text)["metadata"]["osteo"] for chapter, text in texts.items()}
    written = [result for each in facts.values() for result in each["writes"]]
    assert sorted(written) == sorted({"split", *written})  # of one writer each
    for chapter, each in facts.items():
        assert set(each["reads"]) <= set(written) - set(each["writes"]), chapter
        assert each["runs"] == "all" or set(each["runs"]) <= set(ARCHITECTURES), chapter
        if re.search(r"(?:show_training|train_seeds|trained)\(course, ", texts[chapter]):
            assert each["runs"], chapter


def test_every_page_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text()
    assert [
        page.stem for page in (ROOT / "book").glob("*.md") if f"book/{page.stem}" not in toc
    ] == []


def test_no_paper_is_listed_twice():
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text("utf-8"), re.M)
    assert [key for key, times in Counter(keys).items() if times > 1] == []


def test_no_file_is_large_and_none_is_an_artefact():
    large = [path for path in files() if path.stat().st_size > 600_000]
    artefacts = [path for path in files() if path.suffix.lower() in ARTEFACTS]
    assert large == []
    assert artefacts == [ROOT / "data/reference/study/maps.npz"]


def test_prose_says_classification():
    found = []
    for path in (path for pattern in PROSE for path in ROOT.glob(pattern)):
        text = re.sub(ALLOWED, "", path.read_text("utf-8"), flags=re.IGNORECASE)
        found += [path.name for _ in re.findall(r"diagnos(?:is|ed|e)\b", text, re.IGNORECASE)]
    assert found == []


def test_no_text_knows_a_chapter_by_its_number():
    paths = (path for pattern in (*PROSE, "data/**/*.md") for path in ROOT.glob(pattern))
    numbered = {p.name: re.findall(r"[Cc]hapters? \d+", p.read_text("utf-8")) for p in paths}
    assert {name: found for name, found in numbered.items() if found} == {}


def test_readme_commands_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"book", "test", "versions", "lab", "clean", "clean-runs"} <= named <= targets


def test_citation_changelog_and_package_name_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert (
        re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[1] == __version__
    )


def test_a_commit_is_checked_with_the_versions_that_the_tests_use():
    asked = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    ruff = re.search(r"^ruff==\S+", (ROOT / "constraints.txt").read_text("utf-8"), re.M)[0]
    assert set(re.findall(r"ruff==[\d.]+", asked)) == {ruff}


def test_make_lists_its_targets():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make clean-runs  remove every trained network" in listed
    assert "\t" not in listed


@pytest.mark.parametrize(
    ("version", "works"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)]
)
def test_make_says_which_pythons_work(version, works):
    line = next(x for x in (ROOT / "Makefile").read_text().splitlines() if "version_info" in x)
    code = re.search(r"-c '(.*)'", line)[1]
    said = 0
    try:
        exec(code.replace("import sys; v = sys.version_info[:2]", f"import sys; v = {version}"))
    except SystemExit as exit:
        said = exit.code
    assert said == 0 if works else f"found {version[0]}.{version[1]}" in said
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_readme_links_every_chapter_in_colab():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    base = url.replace("https://github.com", "https://colab.research.google.com/github")
    readme = (ROOT / "README.md").read_text()
    assert [c for c in chapters() if f"{base}/blob/main/notebooks/{c}.ipynb" not in readme] == []


@pytest.mark.parametrize("requirements", ["requirements.txt", "requirements-dev.txt"])
def test_constraints_pin_every_requirement(requirements):
    assert names(requirements) <= names("constraints.txt")


def test_constraints_pin_every_package_that_the_course_imports():
    needed = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    assert {named(each) for each in chain(*needed)} <= names("constraints.txt")


def test_no_lower_bound_is_above_what_colab_ships():
    lines = (ROOT / "constraints-colab.txt").read_text().splitlines()
    ships = dict(line.split("==") for line in lines if line[:1] != "#")
    ships = {named(package): Version(version) for package, version in ships.items()}
    bounds = {named(each): Requirement(each).specifier for each in PROJECT["dependencies"]}
    both = bounds.keys() & ships.keys()
    assert {"tensorflow", "keras", "pandas", "ipywidgets"} <= both
    assert [name for name in sorted(both) if ships[name] not in bounds[name]] == []


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-colab.txt"])
def test_constraints_are_exact_and_name_no_host(constraints):
    lines = (ROOT / constraints).read_text().splitlines()
    wrong = [x for x in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;@]+", x) and x[:1] != "#"]
    assert wrong == []


def test_browser_libraries_are_locked_without_addresses():
    lock = (ROOT / "book/package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert "://" not in lock
