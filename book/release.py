"""Everything that a reader can take along, from a finished build.

    python book/release.py PROFILE CORPUS OUT

| file | holds |
|---|---|
| `...-site.zip` | all pages, with everything below but the package; they read offline |
| `...-student.zip`, `...-solutions.zip`, `...-instructor.zip` | the chapters |
| `...-quizzes.zip`, `...-assignments.zip` | for learning platforms and otter-grader |
| `osteo_utils-....whl` | the helper package |
| `SHA256SUMS` | checksums, for `sha256sum --check SHA256SUMS` |
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from osteo_utils import __version__

from address import warning
from build import build_folder
from contents import ROOT
from editions import EDITIONS

NAME: Final = f"osteo-xray-course-{__version__}"


def write_release(html: Path, out: Path) -> None:
    """Write the files of a release.

    Args:
        html: Folder of the built pages.
        out: Folder for the release; what is in it goes.

    Raises:
        FileNotFoundError: There are no pages.
    """
    if not (html / "index.html").is_file():
        raise FileNotFoundError(
            f"{html}: expected the pages of the book, found none: run make book"
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    folders = {"site": html, "quizzes": html / "quizzes", "assignments": html / "assignments"}
    folders |= {edition: html / "editions" / edition for edition in EDITIONS}
    for kind, folder in folders.items():
        shutil.make_archive(str(out / f"{NAME}-{kind}"), "zip", folder)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out)]
    subprocess.run([*wheel, str(ROOT)], check=True)
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(out.iterdir())
    ]
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def main() -> None:
    """Write the release of one build and say where it is."""
    profile, corpus, out = sys.argv[1:]
    try:
        write_release(build_folder(profile, corpus) / "html", Path(out))
    except FileNotFoundError as error:
        sys.exit(f"No release: {error}")
    print(f"The release: {Path(out).resolve()}", flush=True)
    print(warning(), end="", file=sys.stderr)


if __name__ == "__main__":
    main()
