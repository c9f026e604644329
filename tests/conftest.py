"""Fixtures that several test files share."""

import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_films import dicom

from osteo_utils.phantom.corpus import make_simulated

REAL_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
# A file of tests is slow that loads Keras, starts programs or searches for near-duplicates.
SLOW = re.compile(r"\b(?:keras|tensorflow|tiny_networks|tiny_runs|subprocess|near_duplicates)\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--quick`, as `make test-quick` asks."""
    parser.addoption("--quick", action="store_true", help="leave out the files of slow tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--quick`, a file of slow tests; the house rules are always asked."""
    if not config.getoption("quick") or collection_path.suffix != ".py":
        return None
    if collection_path.name == "test_repository.py":
        return None
    return bool(SLOW.search(collection_path.read_text("utf-8"))) or None


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated corpus with its planted faults, made once; read it, never change it."""
    return make_simulated(tmp_path_factory.mktemp("corpora") / "simulated", 24, 96, workers=1)


@pytest.fixture(scope="session")
def unannounced_frames() -> bytes:
    """A DICOM that holds three frames and speaks of one."""
    one = np.zeros((64, 64), np.uint8)
    return dicom(BytesIO(), one, PixelData=3 * one.tobytes()).getvalue()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of files that may not be handed on: real radiographs, pretrained weights."""
    folder = Path(os.environ.get("OSTEO_REAL_DATA", REAL_DATA)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set OSTEO_REAL_DATA to test on them")
    return folder


@pytest.fixture(scope="session")
def real_knees(real_data: Path) -> Path:
    """The 239 real radiographs, one folder a class."""
    if not (folder := real_data / "knees").is_dir():
        pytest.skip(f"no real radiographs at {folder}; set OSTEO_REAL_DATA to test on them")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one split, of sizes 32 and 40."""
    from tiny_runs import make_run  # here alone: it brings Keras

    root = tmp_path_factory.mktemp("app") / "runs"
    make_run(root, "vgg16", 32)
    make_run(root, "vgg19", 40)
    return root


@pytest.fixture(scope="module")
def members(runs: Path) -> list[Any]:
    """Those two with their networks in memory."""
    from osteo_utils.inference import find_runs, open_member
    from osteo_utils.runs import read_run

    return [open_member(read_run(folder)) for folder in find_runs(runs)]
