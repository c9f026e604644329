"""How a widget gets its module and its style: the files beside the Python, joined into one text.

A page without a kernel loads a widget's module from its state, where nothing can be imported from
beside it. So `name.js` is a real ES module that imports from `./common.js`, as an editor, a linter
and a browser understand it, and what is sent is the two files in one.
"""

import re
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./common\.js";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=const|function)", re.MULTILINE)


def esm(name: str) -> str:
    """The module of the widget `name` with `common.js` in the place of its import."""
    common = _EXPORT.sub("", (_HERE / "common.js").read_text("utf-8"))
    own, imports = _IMPORT.subn("", (_HERE / f"{name}.js").read_text("utf-8"))
    if imports != 1:
        raise ValueError(f"{name}.js: expected one import from ./common.js, found {imports}")
    return common + own


def css(name: str) -> str:
    """The style that all widgets share, and what `name` adds."""
    return "".join((_HERE / f"{file}.css").read_text("utf-8") for file in ("common", name))
