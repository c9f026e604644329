"""The chapters in the order of the table of contents, those of a deeper page behind their own."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


def notebooks() -> list[Path]:
    """The notebooks of all chapters, in the order of `_toc.yml`."""
    listed = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    names = re.findall(r"^ *- file: (notebooks/\w+)$", listed, re.MULTILINE)
    return [ROOT / f"{name}.ipynb" for name in names]
