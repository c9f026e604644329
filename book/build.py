"""Build the book: start Snakemake with the right settings and say where the pages are.

python book/build.py --profile quick --corpus simulated

Before that it asks what times of files cannot tell: whether the films of the corpus are still the
same, and which finished runs no longer fit their network, settings or split. The first is said by
corpus.txt, the second by the files in trained/, the stamps.

`make book` calls this with a lock held (see locked.py), hence Snakemake's own lock, which
survives a kill, is switched off.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

from osteo_utils.course import Course, listed, open_course
from osteo_utils.data.corpus import corpus_name, listing_digest
from osteo_utils.errors import CourseError
from osteo_utils.registry import ARCHITECTURES, PROFILES, get_profile, recipe
from osteo_utils.runs import differences, run_digest, settings_of
from osteo_utils.store import replace_file

from address import warning

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(__file__).parent
MADE_OR_FETCHED = ("simulated", "kaggle")


def corpus_argument(name: str) -> str:
    """A known corpus by its name, anything else as the absolute path of what must exist."""
    if name in MADE_OR_FETCHED:
        return name
    path = Path(name).expanduser().resolve()
    if not path.exists():
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(MADE_OR_FETCHED)}, or a folder or zip that exists; found {path}"
        )
    return str(path)


def snakemake_command(settings: Path, missing: Sequence[Path] = ()) -> list[str]:
    """Resume what was cut short, show only what a reader wants to see, go by file times.

    `settings` is the file that `write_settings` wrote. `missing` are stamps (see `update_stamps`)
    that have to be made even if every page is newer than what is left.
    """
    stamps = [str(stamp.relative_to(ROOT)) for stamp in missing]
    # As `python -m snakemake`, which finds the logger plugin that lies here.
    run = f"import sys; sys.path.append({str(SCRIPTS)!r}); from snakemake.cli import main; main()"
    command = [sys.executable, "-c", run, "book", *stamps]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT)]
    command += ["--cores", "all", "--rerun-incomplete", "--nolock", "--keep-going"]
    command += ["--quiet", "all", "--logger", "line", "--max-checksum-file-size", "0"]
    command += ["--resources", f"mem_mb={memory_mb()}", "--configfile", str(settings)]
    return command


def memory_mb() -> int:
    """What the machine has, of which the jobs may take all but a quarter, in MiB."""
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20 * 0.75)


def write_settings(profile: str, corpus: str, folder: Path) -> Path:
    """What the Snakefile has to know, in a file: on a command line Snakemake makes 7 of 007."""
    file = folder / "settings.json"
    settings = {"profile": profile, "corpus": corpus, "name": corpus_name(corpus)}
    replace_file(file, lambda part: part.write_text(json.dumps(settings) + "\n", "utf-8"))
    return file


def build_folder(profile: str, corpus: str) -> Path:
    """Where everything of a profile and corpus is built; the pages lie in its `html`."""
    return ROOT / "build" / corpus_name(corpus) / profile


def write_corpus(course: Course, file: Path) -> None:
    """Write the folder of the corpus, and a digest of all that a listing tells of it.

    Only if they have changed, so that the file's time is that of the last change of the corpus.
    """
    lines = f"{course.root}\n{listing_digest(listed(course))}\n"
    if not file.exists() or file.read_text(encoding="utf-8") != lines:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda part: part.write_text(lines, encoding="utf-8"))


def methods(profile: str, folder: Path) -> dict[str, dict[str, Any]]:
    """How each network would be trained now, computed anew when the package has changed.

    Keras has to build all of them for that, which is said in a line.
    """
    key = sources_digest(ROOT / "osteo_utils")
    file = folder / f"methods-{key}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print("Building each network once, to know which trainings still fit them.", flush=True)
        command = [sys.executable, str(SCRIPTS / "methods.py"), profile, str(file)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(
                f"The networks cannot be built:\n{''.join(done.stderr.splitlines(True)[-12:])}"
            )
        for old in set(folder.glob("methods-*.json")) - {file}:
            old.unlink()
    found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def sources_digest(package: Path) -> str:
    """Twelve hexadecimal digits for the modules of the package and the version of Keras."""
    sha256 = hashlib.sha256(version("keras").encode())
    for path in sorted(package.rglob("*.py")):
        sha256.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return sha256.hexdigest()[:12]


def update_stamps(fitting: Sequence[Path], folder: Path) -> None:
    """Leave a stamp, a file in `trained/`, for each run that fits, and none for another.

    Snakemake trains where there is none, and executes the chapters that are older than theirs. One
    that is older than corpus.txt goes as well: whether the run fits is known after the split.
    """
    known = {stamp_of(folder, run.parent.name, run.name): run for run in fitting}
    changed = (folder / "corpus.txt").stat().st_mtime
    for stamp in (folder / "trained").glob("*.txt"):
        if stamp not in known or stamp.stat().st_mtime < changed:
            stamp.unlink()
            known.pop(stamp, None)
    for stamp, run in known.items():
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != run_digest(run):
            write_stamp(stamp, run)


def missing_stamps(profile: str, folder: Path) -> list[Path]:
    """The stamps that the whole book needs and that are not there: those runs are to be trained."""
    each = {model: recipe(get_profile(profile), model).seeds for model in ARCHITECTURES}
    wanted = [stamp_of(folder, m, f"seed{seed}") for m, seeds in each.items() for seed in seeds]
    return [stamp for stamp in wanted if not stamp.exists()]


def stamp_of(folder: Path, model: str, seed: str) -> Path:
    """Where the build notes that a run fits, below its folder; `seed` is "seed0" and so on."""
    return folder / "trained" / f"{model}-{seed}.txt"


def write_stamp(stamp: Path, run: Path) -> None:
    """Say in a file that the run in this folder fits, and which it is."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    digest = run_digest(run)
    replace_file(stamp, lambda part: part.write_text(digest, encoding="utf-8"))


def fitting_folders(runs: Path, expected: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Folders of the finished runs in `runs/<corpus>/<profile>` that the book may show.

    They are of the seeds of the profile, and were trained as `expected` of their model (see
    `methods`) on the split that is there, a fusion from the members' runs that are there.
    """
    split = _read_json(runs / "split.json")
    identity = {key: split.get(key, "") for key in ("split_hash", "films")}
    profile = get_profile(runs.name)
    folders = {
        runs / model / f"seed{seed}": (method, seed)
        for model, method in expected.items()
        for seed in recipe(profile, model).seeds
    }
    return [
        folder
        for folder, (method, seed) in folders.items()
        if (info := _read_json(folder / "run.json"))
        and not differences(info, settings_of(method, identity, seed, folder))
    ]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged: nothing in it fits
        return {}
    return content if isinstance(content, dict) else {}


def main() -> None:
    """Build, then print the address of the front page; exit status 1 if a step failed."""
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("--profile", default="quick", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--corpus", type=corpus_argument, default="simulated")
    asked = parser.parse_args()
    folder = build_folder(asked.profile, asked.corpus)
    try:
        with redirect_stdout(sys.stderr):
            course = open_course(asked.profile, asked.corpus, runs=ROOT / "runs")
            write_corpus(course, folder / "corpus.txt")
    except CourseError as error:
        sys.exit(f"The book was not built: {error}")
    trained = any(course.folder.glob("*/seed*/run.json"))
    expected = methods(asked.profile, folder) if trained else {}
    update_stamps(fitting_folders(course.folder, expected), folder)
    settings = write_settings(asked.profile, asked.corpus, folder)
    command = snakemake_command(settings, missing_stamps(asked.profile, folder))
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            "The book was not built; what failed is said above. `make book` goes on from there."
        )
    print(f"The book: {(folder / 'html/index.html').as_uri()}", flush=True)
    print(warning(), end="", file=sys.stderr)


if __name__ == "__main__":
    main()
