"""Build the book: start Snakemake with the right settings and say where the pages are.

python book/build.py --profile quick --corpus simulated

Before that it asks what times of files cannot tell: whether the films of the corpus are still the
same, and which finished runs no longer fit their network, settings or split.

`make book` calls this with a lock held (see locked.py), hence Snakemake's own lock, which
survives a kill, is switched off.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from osteo_utils.corpus import corpus_name
from osteo_utils.profiles import PROFILES, get_profile, recipe
from osteo_utils.runs import run_digest
from osteo_utils.store import replace_file

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
    command = [sys.executable, "-m", "snakemake", "book", *map(str, missing)]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT)]
    command += ["--cores", "all", "--rerun-incomplete", "--nolock", "--keep-going"]
    command += ["--quiet", "all", "--max-checksum-file-size", "0", "--configfile", str(settings)]
    return command


def write_settings(profile: str, corpus: str, folder: Path) -> Path:
    """What the Snakefile has to know, in a file: on a command line Snakemake makes 7 of 007."""
    file = folder / "settings.json"
    settings = {"profile": profile, "corpus": corpus, "name": corpus_name(corpus)}
    replace_file(file, lambda part: part.write_text(json.dumps(settings) + "\n", "utf-8"))
    return file


def build_folder(profile: str, corpus: str) -> Path:
    """Where everything of a profile and corpus is built; the pages lie in its `html`."""
    return ROOT / "build" / corpus_name(corpus) / profile


def methods(profile: str, folder: Path) -> dict[str, dict[str, Any]]:
    """How each network would be trained now, computed anew when the package has changed."""
    key = sources_digest(ROOT / "osteo_utils")
    file = folder / f"methods-{key}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
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
    for path in sorted(package.glob("*.py")):
        sha256.update(path.name.encode() + path.read_bytes())
    return sha256.hexdigest()[:12]


def update_stamps(fitting: Sequence[Path], folder: Path) -> None:
    """Leave a stamp, a file in `trained/`, for each run that fits, and none for another.

    Snakemake trains where there is none, and executes the chapters that are older than theirs. One
    that is older than corpus.txt goes as well: whether the run fits is known after chapter 03.
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


def stamp_of(folder: Path, model: str, seed: str) -> Path:
    """Where the build notes that a run fits, below its folder; `seed` is "seed0" and so on."""
    return folder / "trained" / f"{model}-{seed}.txt"


def write_stamp(stamp: Path, run: Path) -> None:
    """Say in a file that the run in this folder fits, and which it is."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    digest = run_digest(run)
    replace_file(stamp, lambda part: part.write_text(digest, encoding="utf-8"))


def fitting_runs(runs: Path, expected: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Folders of the finished runs in `runs/<corpus>/<profile>` that fit.

    A run fits if it was trained as `expected` of its model (see `methods`), on the split that is
    there, and, of a fusion that starts from its members' runs, from those that are there.
    """
    split = _read_json(runs / "split.json")
    made_of = {key: split.get(key) for key in ("split_hash", "films")}
    return [
        file.parent
        for model, method in expected.items()
        for file in sorted(runs.glob(f"{model}/seed*/run.json"))
        if _fits(_read_json(file), {**method, **made_of}, file.parent)
    ]


def _fits(info: Mapping[str, Any], expected: Mapping[str, Any], folder: Path) -> bool:
    members = info.get("members") or {}
    runs = {member: folder.parent.parent / member / folder.name for member in members}
    there = {m: run_digest(run) for m, run in runs.items() if (run / "run.json").exists()}
    return members == there and all(info.get(key) == value for key, value in expected.items())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged: nothing in it fits
        return {}
    return content if isinstance(content, dict) else {}


def main() -> None:
    """Build, then print the address of the front page; exit status 1 if a step failed."""
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument("--corpus", type=corpus_argument, default="simulated")
    asked = parser.parse_args()
    folder = build_folder(asked.profile, asked.corpus)
    listing = [sys.executable, str(SCRIPTS / "make_corpus.py"), asked.profile, asked.corpus]
    if subprocess.run([*listing, str(folder / "corpus.txt")], cwd=ROOT, check=False).returncode:
        sys.exit("The book was not built: the corpus cannot be used, as said above.")
    runs = ROOT / "runs" / corpus_name(asked.corpus) / asked.profile
    built = any(folder.glob("methods-*.json")) or any(runs.glob("*/seed*/run.json"))
    expected = methods(asked.profile, folder) if built else {}  # a first build trains everything
    update_stamps(fitting_runs(runs, expected), folder)
    profile = get_profile(asked.profile)
    stamps = [
        stamp_of(folder, model, f"seed{seed}").relative_to(ROOT)
        for model in expected
        for seed in recipe(profile, model).seeds
    ]
    missing = [stamp for stamp in stamps if not (ROOT / stamp).exists()]
    command = snakemake_command(write_settings(asked.profile, asked.corpus, folder), missing)
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            "The book was not built; what failed is said above. `make book` goes on from there."
        )
    methods(asked.profile, folder)  # now, so that the next build need not wait for it
    print(f"The book: {(folder / 'html/index.html').as_uri()}")


if __name__ == "__main__":
    main()
