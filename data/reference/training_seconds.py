"""How long each network of the quick profile takes: from the runs of a build to a small table.

Run it after ``make book`` on two idle cores: ``python data/reference/training_seconds.py``.
"""

import json
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "simulated" / "quick"


def row(folder: Path) -> dict[str, str | int | float]:
    """What is kept of one run."""
    info = json.loads((folder / "run.json").read_text("utf-8"))
    kept = ("model", "seed", "image_size", "epochs_run", "seconds")
    return {name: info[name] for name in kept}


if __name__ == "__main__":
    rows = [row(path.parent) for path in sorted(RUNS.glob("*/*/run.json"))]
    if not rows:
        raise SystemExit(f"{RUNS}: expected the runs of a build, found none. Run make book first.")
    pd.DataFrame(rows).to_csv(HERE / "training_seconds.csv", index=False)
