"""Lay out the sources of the book in one folder: pages, executed chapters, browser libraries.

python book/stage.py SITE VENDOR MODELS RUNS EXECUTED.ipynb...

RUNS is runs/<corpus>/<profile>. The pages show those runs in it that fit, and no others.
"""

import copy
import json
import platform
import shutil
import sys
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from osteo_utils.chapters.cards import read_findings, read_models, write_cards
from osteo_utils.course import installed
from osteo_utils.escape import markdown
from osteo_utils.export import check_site
from osteo_utils.runs import Run

from assignments import write_assignments
from build import fitting_folders, methods
from contents import ROOT
from decks import write_decks
from dress import dressed, glossary
from editions import in_colab, to_pages, write_editions
from guide import write_guide
from minutes import minutes_of
from quizzes import write_quizzes
from syllabus import filled, title

VERSIONS = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "jupyter-book")
STATUS = """# Status of the build

Built on {day} with the profile `{profile}` on the corpus {corpus}. Every chapter below was
executed from its first cell to its last; a chapter that fails stops the build. A model that was
already trained for this corpus and profile is read from its run folder, not trained again, so
the seconds of a second build are fewer.

The minutes of reading are counted on the built page, those of the exercises stand at each of them.

| chapter | minutes of reading | minutes of exercises | seconds of running | code cells |
|---|--:|--:|--:|--:|
{rows}

## Trainings

The seconds are those in which the network learned, without starting up and loading. Where no
weights are named, it started from random ones; `members` are those of the networks that a fusion
joins, from their own runs. Device: {devices}.

| model | seed | px | weights | parameters | epochs | seconds | precision |
|---|--:|--:|---|--:|--:|--:|---|
{trainings}

Python {python}, {versions}, on {machine}.
"""

Notebook = dict[str, Any]


def for_the_page(notebook: Notebook, name: str, terms: dict[str, str]) -> Notebook:
    """Dress the prose; hide the parameters as papermill repeats them, and what libraries mutter."""
    links, time = "> [Open in Colab]", f"> **Time** {minutes_of(notebook)}. "
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            source = "".join(cell["source"]).replace(links, f"{time}{links[2:]}")
            cell["source"] = dressed(in_colab(source), name, terms)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
            for output in cell["outputs"]:
                _link_pages(output.get("data", {}), terms)
        tags = cell["metadata"].get("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
        if "solution" in tags and cell["cell_type"] == "code":
            tags.append("hide-cell")
    return notebook


def _link_pages(data: dict[str, Any], terms: dict[str, str]) -> None:
    """Lead the links of computed Markdown to the built pages; Sphinx leaves them as they are."""
    if "text/markdown" in data:
        data["text/markdown"] = to_pages("".join(data["text/markdown"]), "../", terms)


def status_row(name: str, notebook: Notebook) -> str:
    """One line of the table on the status page."""
    seconds = notebook["metadata"]["papermill"]["duration"]
    code = sum(cell["cell_type"] == "code" for cell in notebook["cells"])
    minutes = minutes_of(notebook)
    cells = [f"[{title(notebook)}](../notebooks/{name}.ipynb)", minutes.reading, minutes.exercises]
    return f"| {' | '.join(map(str, [*cells, f'{seconds:.0f}', code]))} |"


def training_row(info: dict[str, Any]) -> str:
    """One line of the table of trainings, from a run's own record."""
    cells = [info["model"], info["seed"], info["image_size"], info["weights"] or ""]
    cells += [f"{info['parameters']:,}", info["epochs_run"], f"{info['seconds']:.0f}"]
    return f"| {' | '.join(map(markdown, [*cells, info['precision'].removeprefix('mixed_')]))} |"


def status_page(notebooks: dict[str, Notebook], runs: list[Run]) -> str:
    """What was executed, how long it took and with which versions."""
    parameters = next(iter(notebooks.values()))["metadata"]["papermill"]["parameters"]
    return STATUS.format(
        day=date.today().isoformat(),
        profile=parameters["profile"],
        corpus=markdown(Path(parameters["corpus"]).stem),
        rows="\n".join(status_row(*item) for item in notebooks.items()),
        trainings="\n".join(training_row(run.info) for run in runs),
        devices=", ".join(sorted({markdown(run.info["device"]) for run in runs})),
        python=platform.python_version(),
        versions=installed(VERSIONS),
        machine=f"{platform.system()} {platform.machine()}",
    )


def main() -> None:
    """Fill SITE from nothing."""
    site, vendor, models, runs = map(Path, sys.argv[1:5])
    executed = {Path(name).stem: json.loads(Path(name).read_text("utf-8")) for name in sys.argv[5:]}
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "book", site / "book", ignore=shutil.ignore_patterns("*.py", "*.json"))
    shutil.copytree(vendor, site / "book/assets/vendor")
    shutil.copytree(models, site / "book/assets/models")
    trained = read_models(runs, fitting_folders(runs, methods(runs.name, site.parent)))
    everyone = [run for seeds in trained.values() for run in seeds]
    check_site(models, everyone)
    write_cards(trained, read_findings(runs), site / "book/cards")
    # Chapters have numbers, their sections and deeper pages have none: one level is numbered.
    toc = (ROOT / "_toc.yml").read_text("utf-8").replace("numbered: true", "numbered: 1")
    (site / "_toc.yml").write_text(toc, "utf-8")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    config["sphinx"]["local_extensions"] = {"buttons": str(ROOT / "book")}
    (site / "_config.yml").write_text(json.dumps(config), "utf-8")
    (site / "notebooks").mkdir()
    terms = glossary((ROOT / "book/glossary.md").read_text("utf-8"))
    for name, notebook in executed.items():
        page = for_the_page(copy.deepcopy(notebook), name, terms)
        text = json.dumps(page, ensure_ascii=False)
        (site / "notebooks" / f"{name}.ipynb").write_text(text, "utf-8")
    for source in site.glob("book/*.md"):
        text = filled(source.read_text("utf-8"), executed, site / "book/assets")
        source.write_text(text, "utf-8")
    (site / "book/status.md").write_text(status_page(executed, everyone), "utf-8")
    write_guide(executed, site / "book/guide")
    write_decks(executed, site / "extra/slides")
    write_editions(site / "extra/editions")
    write_quizzes(site / "extra/quizzes")
    write_assignments(site / "extra/assignments")


if __name__ == "__main__":
    main()
