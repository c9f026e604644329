"""What the chapters build in the profile `full`: built and compared here, but not trained.

A full run takes a GPU for hours and downloads weights. So each chapter is cut down to the cells
that build a network of the profile or check something about it, and what these need; random
weights take the place of the download.
"""

import dis
import json
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import keras
import matplotlib
import numpy as np
import pytest
from smoke import CHAPTERS, NOTEBOOKS

from osteo_utils import course
from osteo_utils.networks import cost
from osteo_utils.networks.models import build
from osteo_utils.registry import ARCHITECTURES, get_profile, last_conv_layers, recipe

FULL = get_profile("full")
FILMS = 9
# What a cell cannot have here: the corpus, and networks that have been trained.
NOT_HERE = {"split", "audited", "trained", "train_seeds", "train_model", "fitting_runs"}
TRAINING = {"show_training", "fit", "train_on_batch"}


class Cell:
    """A code cell, with the names that it binds and those that it takes from cells before it."""

    def __init__(self, source: str) -> None:
        lines = source.splitlines()
        plain = [line.replace("%pip", "pass  #") for line in lines]  # of Colab alone
        self.text = "\n".join(plain)
        self.code = compile(self.text, "cell", "exec")
        self.binds: set[str] = set()
        self.takes: set[str] = set()
        for step in dis.get_instructions(self.code):
            if step.opname == "STORE_NAME":
                self.binds.add(step.argval)
            elif step.opname == "LOAD_NAME" and step.argval not in self.binds:
                self.takes.add(step.argval)
        nested = [code for code in _codes(self.code) if code is not self.code]
        loads = (step for code in nested for step in dis.get_instructions(code))
        self.takes |= {s.argval for s in loads if s.opname == "LOAD_GLOBAL"} - self.binds

    @property
    def mentions(self) -> set[str]:
        """All names and attributes that are used; not those that are merely imported."""
        steps = (step for code in _codes(self.code) for step in dis.get_instructions(code))
        return {str(step.argval) for step in steps if step.opname.startswith("LOAD_")}

    @property
    def goes_beyond(self) -> bool:
        """Whether it wants what only a corpus or a training gives."""
        return bool(self.takes & NOT_HERE or self.mentions & TRAINING)

    @property
    def builds_or_checks(self) -> bool:
        return "assert " in self.text or "models.build(" in self.text


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _needed(cells: list[Cell], last: int) -> list[int]:
    """The cell `last` and those before it whose names it takes, directly or not, in order."""
    kept, wanted = [last], set(cells[last].takes)
    for place in reversed(range(last)):
        if cells[place].binds & wanted:
            wanted = (wanted - cells[place].binds) | cells[place].takes
            kept.append(place)
    return kept[::-1]


def built_cells(notebook: Path) -> list[str]:
    """The cells that build or check networks of the profile, and what these need, in order."""
    found = json.loads(notebook.read_text("utf-8"))["cells"]
    cells = [Cell("".join(c["source"])) for c in found if c["cell_type"] == "code"]
    chosen: set[int] = set()
    for place, cell in enumerate(cells):
        needed = _needed(cells, place) if cell.builds_or_checks else []
        builds = any("models.build(" in cells[k].text for k in needed)
        sized = any("course" in cells[k].takes or "recipe" in cells[k].mentions for k in needed)
        if builds and sized and not any(cells[k].goes_beyond for k in needed):
            chosen.update(needed)
    return [cells[place].text for place in sorted(chosen)]


BUILDERS = {name: built_cells(path) for name, path in zip(CHAPTERS, NOTEBOOKS, strict=True)}
BUILDERS = {name: cells for name, cells in BUILDERS.items() if cells}


@pytest.fixture(autouse=True)
def without_download(monkeypatch):
    """Random weights where the ImageNet ones would be fetched; a clock that does not run."""
    for name in dir(keras.applications):
        if callable(make := getattr(keras.applications, name)):
            random = _random(make)
            monkeypatch.setattr(keras.applications, name, random)
    monkeypatch.setattr(cost, "milliseconds", lambda *_, **__: 1.0)


def _random(make: Any) -> Any:
    return lambda *args, **options: make(*args, **options | {"weights": None})


def noise(_: course.Course, image_size: int = FULL.image_size) -> dict[str, Any]:
    """Films of nothing, as many as a chapter takes into its hand."""
    rng, shape = np.random.default_rng(0), (FILMS, image_size, image_size, 1)
    films = rng.integers(0, 256, shape, dtype=np.uint8), np.arange(FILMS) % 3
    return dict.fromkeys(("train", "validation", "test"), films)


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Lets a chapter open the course in `full` without a corpus."""
    full = course.Course(FULL, "simulated", 0, tmp_path, tmp_path)
    monkeypatch.setattr(course, "open_course", lambda *_: full)
    monkeypatch.setattr(course, "arrays", noise)
    matplotlib.use("Agg")


def test_every_architecture_has_a_chapter_that_builds_it():
    source = "\n".join(cell for cells in BUILDERS.values() for cell in cells)
    assert [name for name in ARCHITECTURES if f'models.build("{name}"' not in source] == []


@pytest.mark.parametrize("chapter", BUILDERS)
def test_chapter_builds_and_checks_its_networks_in_full(chapter, opened):
    names: dict[str, Any] = {"display": lambda *_: None}
    for cell in BUILDERS[chapter]:
        exec(compile(cell, chapter, "exec"), names)
        names["profile"] = FULL.name
    keras.backend.clear_session()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_built_as_full_trains_it(name):
    settings, architecture = recipe(FULL, name), ARCHITECTURES[name]
    weights = settings.weights if architecture.pretrained else None
    model = build(name, settings.image_size, weights=weights, precision=settings.precision)
    layers = {layer.name: layer for layer in model.layers}
    size = settings.image_size
    assert model.input_shape == (None, size, size, 1)
    assert model.output_shape == (None, 3)
    assert all(layers[maps].output.shape[1] > 1 for maps in last_conv_layers(name, size).values())
    assert ("standardised" in layers) == (weights is None and not architecture.members)
    keras.backend.clear_session()
