"""Audit the Mendeley knee set and write the findings, without any picture, to mendeley_audit.csv.

Usage, from the root of the repository: python data/reference/mendeley_audit.py FOLDER
"""

import sys
from pathlib import Path

import pandas as pd

from osteo_utils.data.audit import SAME_IMAGE, Audit, audit, counts
from osteo_utils.data.corpus import list_corpus
from osteo_utils.registry import CLASS_NAMES


def findings(report: Audit) -> pd.DataFrame:
    """Counts, highest similarity, files by kind, conflicts (group sizes) and shortcuts."""
    images = report.images
    apart = report.candidates.loc[report.candidates["similarity"] < SAME_IMAGE, "similarity"]
    kinds = (
        images["format"]
        + " "
        + images["mode"]
        + " "
        + images["label"].map(lambda k: CLASS_NAMES[k])
    )
    conflicts = images[images["conflict"]].groupby("duplicate_group")["path"]
    names = conflicts.agg(lambda paths: " = ".join(Path(path).stem for path in paths))
    tables = {
        "counts": pd.Series(counts(report)),
        "similarity": pd.Series({"highest of two different films": apart.max()}),
        "files": kinds.value_counts(sort=False).sort_index(),
        "conflicts": conflicts.size().set_axis(names),
    }
    rows = [series.rename("value").rename_axis("item").reset_index() for series in tables.values()]
    shortcuts = report.shortcuts.rename(columns={"features": "item", "balanced_accuracy": "value"})
    rows.append(shortcuts[["item", "value", "low", "high", "p_value"]])
    return pd.concat(rows, keys=[*tables, "shortcuts"], names=["table"]).reset_index(0)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    table = findings(audit(folder, list_corpus(folder))).round(4)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))
