"""Progress of long work, shown where somebody watches: in a terminal or in a notebook.

A build, which executes notebooks that nobody watches, sets the variable OSTEO_PROGRESS to 0.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def watched() -> bool:
    """Whether this is a terminal or a notebook, and OSTEO_PROGRESS does not say 0.

    Returns:
        True where progress is shown.
    """
    return os.environ.get("OSTEO_PROGRESS") != "0" and (sys.stderr.isatty() or _in_notebook())


def _in_notebook() -> bool:
    # A notebook's kernel has imported IPython long ago: nothing is imported to find that out.
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def progress(
    iterable: Iterable[Any] | None, what: str, total: int | None = None, unit: str = "it"
) -> Any:  # noqa: ANN401  (tqdm has no types)
    """A bar that names the work and, once it runs, the time left; silent where nobody watches.

    Args:
        iterable: What is worked through; without one call `update` of the bar yourself.
        what: Name of the work.
        total: How many items there are; needed where the iterable has no length.
        unit: What one item is called.

    Returns:
        The bar of tqdm, which gives the items of the iterable.

    Example:
        >>> sum(progress([1, 2, 3], "adding"))
        6
    """
    return tqdm(iterable, what, total, unit=unit, disable=not watched())
