"""Execute one chapter with papermill; in place only when whole, readable when it fails.

python book/execute.py IN.ipynb OUT.ipynb PROFILE CORPUS

The lock of the output makes a restarted build wait for a chapter that outlived a killed one.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill

from osteo_utils.store import locked

FAILED = """
{line}
Chapter {chapter} failed in code cell {cell}:

{source}

{ename}: {evalue}

The chapter up to there, with the whole traceback: {partial}
Open it with: jupyter lab {partial}
{line}"""


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Run `source` in its own folder and move the result to `target` once every cell has run.

    Its metadata then say what it cost: `processor_seconds`, the same on a busy machine.
    """
    partial = target.with_suffix(".partial.ipynb")
    notebook = papermill.execute_notebook(
        source,
        partial,
        parameters,
        kernel_name="python3",
        cwd=source.parent,
        progress_bar=False,
    )
    spent = os.times()
    notebook.metadata["processor_seconds"] = round(spent.children_user + spent.children_system)
    nbformat.write(notebook, partial)
    partial.replace(target)


def main() -> None:
    """Execute with a line at start and end, or exit with the failing cell and its error."""
    source, target = (Path(name).resolve() for name in sys.argv[1:3])
    parameters = dict(zip(("profile", "corpus"), sys.argv[3:5], strict=True))
    os.environ["OSTEO_PROGRESS"] = "0"  # the kernel inherits it: nobody watches its bars
    print(f"{source.stem}: running", flush=True)
    start = time.monotonic()
    try:
        with locked(target):
            execute(source, target, parameters)
    except papermill.PapermillExecutionError as error:
        facts = {"chapter": source.stem, "cell": error.exec_count, "source": error.source}
        facts |= {"ename": error.ename, "evalue": error.evalue, "line": "-" * 72}
        print(FAILED.format(**facts, partial=target.with_suffix(".partial.ipynb")))
        sys.exit(1)
    print(f"{source.stem}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
