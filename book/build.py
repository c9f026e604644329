"""Build the book: start Snakemake with the right settings and say where the pages are.

python book/build.py --profile quick --corpus simulated

`make book` calls this with a lock held (see locked.py), hence Snakemake's own lock, which
survives a kill, is switched off.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from osteo_utils.corpus import corpus_name
from osteo_utils.profiles import PROFILES

ROOT = Path(__file__).resolve().parent.parent
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


def snakemake_command(profile: str, corpus: str) -> list[str]:
    """Resume what was cut short, show only what a reader wants to see, go by file times."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(ROOT), "--cores", "all", "--rerun-incomplete", "--nolock"]
    command += ["--keep-going", "--quiet", "all", "--max-checksum-file-size", "0"]
    settings = [f"profile={profile}", f"corpus={corpus}", f"name={corpus_name(corpus)}"]
    return [*command, "--config", *settings]


def book_folder(profile: str, corpus: str) -> Path:
    """Where the built pages of a profile and corpus lie."""
    return ROOT / "build" / corpus_name(corpus) / profile / "html"


def main() -> None:
    """Build, then print the address of the front page; exit status 1 if a step failed."""
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument("--corpus", type=corpus_argument, default="simulated")
    asked = parser.parse_args()
    done = subprocess.run(snakemake_command(asked.profile, asked.corpus), check=False)
    if done.returncode:
        sys.exit(
            "The book was not built; what failed is said above. `make book` goes on from there."
        )
    print(f"The book: {(book_folder(asked.profile, asked.corpus) / 'index.html').as_uri()}")


if __name__ == "__main__":
    main()
