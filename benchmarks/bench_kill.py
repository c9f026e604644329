"""Kill a training or a build of the book at random moments, go on, and compare with unkilled ones.

    python benchmarks/bench_kill.py --what training --runs 20 --out kills.json
    python benchmarks/bench_kill.py --what book --runs 20 --checkout . --out kills.json

Each run starts from nothing in a copy of the checkout, is killed with SIGKILL at a random moment,
and is then started again and left to its end. `--chain` kills the same build as often instead, one
kill after another, and compares once: 20 kills of a book in an hour. Killed are the whole process
group and what outlives it: a Jupyter kernel is in a group of its own, and one that went on writing
would spoil the next attempt. Every process of a run is known by a mark in its environment.
Two unkilled runs come first: what differs between those two (times, dates) is no result.
The packages are those of the Python that runs this. POSIX alone: it needs process groups.
"""

import argparse
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import psutil
from bs4 import BeautifulSoup

SOURCES: Final = (
    "osteo_utils",
    "notebooks",
    "book",
    "data",
    "Snakefile",
    "_config.yml",
    "_toc.yml",
)
LEFTOVERS: Final = (
    *("runs/**/progress", "**/.part-*", "**/*.part", "**/*.partial.ipynb"),
    ".snakemake/incomplete/*",
)
MARK: Final = "OSTEO_BENCH_KILL"  # an environment variable that all processes of a run inherit
TOLERANCE: Final = 1e-4  # of a probability: sums on several threads differ in their last digits
TRAINING: Final = (
    "import sys; from osteo_utils.course import open_course, train_model; "
    "train_model(open_course('smoke', runs='runs'), sys.argv[1])"
)
NUMBERS = re.compile(r"\b(?:0x)?[0-9a-f]{8,}\b|\d+")  # digests and addresses are such, too


@dataclass
class Result:
    """What one killed run came to."""

    killed_after: list[float]  # seconds of each attempt
    at: str  # what was there at the last kill
    outlived: list[str]  # processes that were still alive when the process group was dead
    probabilities: float  # largest difference from the unkilled run
    lines: list[str]  # of pages and chapters that differ
    leftovers: list[str]

    @property
    def same(self) -> bool:
        """Whether nothing tells this run from one that was never killed."""
        return self.probabilities <= TOLERANCE and not self.lines and not self.leftovers


def copy_checkout(checkout: Path, home: Path) -> Path:
    """The sources alone, with their times."""
    home.mkdir(parents=True)
    for name in SOURCES:
        source = checkout / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, home / name)
    return home


def command_of(what: str, model: str) -> list[str]:
    """What is killed: a training from nothing, or what `make book PROFILE=smoke` starts."""
    if what == "training":
        return [sys.executable, "-c", TRAINING, model]
    build = [sys.executable, "book/build.py", "--profile", "smoke"]
    return [sys.executable, "book/locked.py", "build/book.lock", *build]


def run(
    command: list[str], home: Path, seconds: float | None = None, outlived: list[str] | None = None
) -> float | None:
    """Run to the end, or kill after some seconds; the seconds it took, None if it was killed.

    What outlived the process group, or the end, is killed and named in `outlived`.
    """
    mark = secrets.token_hex(8)
    environment = os.environ | {"PYTHONPATH": str(home), "TF_CPP_MIN_LOG_LEVEL": "3", MARK: mark}
    start, killed = time.monotonic(), False
    with (home / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            killed = True
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - start
    found = kill_marked(mark)
    if outlived is not None:
        outlived += found
    if killed:
        return None
    if process.returncode:  # also of a process that somebody else killed
        sys.exit(f"{home}: failed without being killed; see bench.log there")
    return took


def kill_marked(mark: str) -> list[str]:
    """Kill every living process with this mark, until there is none; their command lines."""
    found = []
    while alive := [process for process in psutil.process_iter() if _has(process, mark)]:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                found.append(" ".join(process.cmdline())[:120])
                process.kill()
        psutil.wait_procs(alive, timeout=10)
    return found


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):  # another user's, or gone by now
        return False


def state(home: Path) -> str:
    """What a killed run had come to."""
    finished = len(list(home.glob("runs/**/run.json")))
    begun = [len(list(folder.iterdir())) for folder in home.glob("runs/**/progress")]
    chapters = len(list(home.glob("build/*/smoke/notebooks/[a-z]*[a-z0-9].ipynb")))
    made = [name for name in ("corpora/simulated-smoke", "runs") if (home / name).exists()]
    facts = f"{finished} runs, {len(begun)} begun, {chapters} chapters"
    return facts if finished or begun or chapters else f"{' and '.join(made) or 'nothing'} made"


def predictions(home: Path) -> dict[str, np.ndarray]:
    """The probabilities of every finished run."""
    files = sorted(home.glob("runs/**/predictions.csv"))
    tables = {file.relative_to(home).as_posix(): pd.read_csv(file) for file in files}
    return {name: table.filter(like="p_").to_numpy() for name, table in tables.items()}


def texts(home: Path) -> dict[str, list[str]]:
    """The lines of every page, and of what every chapter printed."""
    found = {}
    for page in sorted(home.glob("build/*/smoke/html/**/*.html")):
        text = BeautifulSoup(page.read_text("utf-8"), "html.parser").get_text("\n")
        found[page.relative_to(home).as_posix()] = text.replace(str(home), "").splitlines()
    for file in sorted(home.glob("build/*/smoke/notebooks/*.ipynb")):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        said = ["".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs]
        text = "\n".join(said).replace(str(home), "")
        found[file.relative_to(home).as_posix()] = text.splitlines()
    return found


def differences(killed: Path, unkilled: tuple[Path, Path]) -> tuple[float, list[str]]:
    """Largest difference of a probability, and the lines in which only the killed run differs.

    What both unkilled runs say must be in the killed one, wherever it stands there. What it alone
    says counts as well, except for other numbers: times and dates differ among the unkilled, too.
    """
    found, expected = predictions(killed), predictions(unkilled[0])
    if found.keys() != expected.keys():
        return np.inf, [f"runs: {sorted(found.keys() ^ expected.keys())}"]
    largest = max(float(abs(found[name] - expected[name]).max()) for name in expected)
    lines = []
    first, second, third = (texts(home) for home in (*unkilled, killed))
    for name in sorted(first.keys() | third.keys()):
        a, b, c = (each.get(name, []) for each in (first, second, third))
        missing = (Counter(a) & Counter(b)) - Counter(c)
        lines += [f"{name}: {line!r} is missing" for line in missing.elements()]
        x, y, z = (Counter(NUMBERS.sub("#", line) for line in each) for each in (a, b, c))
        lines += [f"{name}: {line!r} is new" for line in (z - (x | y)).elements()]
    return largest, lines


def leftovers(home: Path) -> list[str]:
    """What a kill left behind although the run went on to its end."""
    found = [path for pattern in LEFTOVERS for path in home.glob(pattern)]
    return sorted(path.relative_to(home).as_posix() for path in found)


def killed_run(
    command: list[str], home: Path, unkilled: tuple[Path, Path], moments: list[float]
) -> Result:
    """Kill at the moments, one attempt each, run to the end, compare."""
    attempts, at, outlived = [], "finished before", list[str]()
    for moment in moments:
        if run(command, home, moment, outlived) is not None:
            break
        attempts.append(round(moment, 1))
        at = state(home)
    left = list[str]()
    run(command, home, None, left)
    largest, lines = differences(home, unkilled)
    return Result(attempts, at, outlived, largest, lines, [*leftovers(home), *left])


def main() -> None:
    """Print a line for each killed run and write all of them."""
    parser = argparse.ArgumentParser(description="Kill, go on, compare.")
    parser.add_argument("--what", choices=("training", "book"), default="training")
    parser.add_argument("--runs", type=int, default=20, help="how many kills")
    parser.add_argument("--chain", action="store_true", help="all kills in one run, compared once")
    parser.add_argument("--model", default="custom_cnn", help="the network of --what training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--work", type=Path, help="a folder for the copies, deleted at the end")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file for the results")
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="kill-", dir=asked.work))
    command, rng = command_of(asked.what, asked.model), random.Random(asked.seed)
    unkilled = (work / "unkilled-1", work / "unkilled-2")
    took = [run(command, copy_checkout(asked.checkout, home)) or 0.0 for home in unkilled]
    print(f"unkilled: {took[0]:.0f} and {took[1]:.0f} s; left behind: {leftovers(unkilled[0])}")
    number = 1 if asked.chain else asked.runs
    results = []
    for each in range(number):
        # In a chain every attempt gets on by its share, so that the kills spread over the build.
        span = 2 * min(took) / asked.runs + 20 if asked.chain else min(took)
        moments = [rng.uniform(0, span) for _ in range(asked.runs // number)]
        home = work / f"killed-{each:02d}"
        found = killed_run(command, copy_checkout(asked.checkout, home), unkilled, moments)
        while not found.killed_after:  # it was quicker than the unkilled ones: nearer to the start
            shutil.rmtree(home)
            moments = [0.7 * moment for moment in moments]
            found = killed_run(command, copy_checkout(asked.checkout, home), unkilled, moments)
        results.append(found)
        print(
            f"{each + 1:2d} | killed after {found.killed_after} s: {found.at} | "
            f"{len(found.outlived)} processes outlived their group | "
            f"probabilities within {found.probabilities:.1g} | {len(found.lines)} lines differ | "
            f"left behind: {found.leftovers or 'nothing'} | {'same' if found.same else 'NOT SAME'}",
            flush=True,
        )
        asked.out.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
        if found.same:
            shutil.rmtree(home)  # otherwise it is kept, to be looked at
    same = sum(result.same for result in results)
    print(f"{same} of {len(results)} like a run that was never killed; folders: {work}")
    if same == len(results):
        shutil.rmtree(work)
    sys.exit(same < len(results))


if __name__ == "__main__":
    main()
