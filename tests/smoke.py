"""The book in the smoke profile, built once for the tests of chapters and pages.

OSTEO_TESTED_PROFILE names another profile, whose pages are then looked at.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROFILE = os.environ.get("OSTEO_TESTED_PROFILE", "smoke")
BUILD = ROOT / "build/simulated" / PROFILE
CHROME_ON_MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
sys.path.append(str(ROOT / "book"))
from contents import notebooks

NOTEBOOKS = notebooks()
CHAPTERS = [path.stem for path in NOTEBOOKS]


@functools.cache
def _made() -> subprocess.CompletedProcess[str]:
    build = ["book/build.py", "--profile", PROFILE]
    command = [sys.executable, "book/locked.py", "build/book.lock", sys.executable, *build]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def smoke_build() -> Path:
    """Build, once, what is not up to date, as `make book PROFILE=smoke` does; its folder."""
    if (done := _made()).returncode:
        pytest.fail(
            f"make book PROFILE={PROFILE} failed:\n{done.stdout}\n{done.stderr}", pytrace=False
        )
    return BUILD


def chromium() -> str:
    """The browser of this machine; without one the test is skipped, under CI it fails."""
    names = ("chromium", "chromium-browser", "google-chrome", CHROME_ON_MACOS)
    found = filter(None, map(shutil.which, names))
    if not (path := next(found, "")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium on this machine")
    return path
