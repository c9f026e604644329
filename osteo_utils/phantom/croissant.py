"""Croissant metadata of a simulated corpus, so that other programs find and load it.

    python -m osteo_utils.phantom.croissant FOLDER

It writes `croissant.json` beside the films (https://docs.mlcommons.org/croissant).
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

import pandas as pd

from osteo_utils.errors import CorpusError
from osteo_utils.phantom.corpus import corpus_info, read_truth
from osteo_utils.registry import IMAGE_FOLDER, METADATA_COLUMNS

LICENCE: Final = "https://creativecommons.org/licenses/by/4.0/"
TABLES: Final = {
    "metadata.csv": "What a hospital would export: patient, side and site of each film",
    "truth.csv": "What only the simulator knows: T-score, planted faults, facts of the exposure",
}
_CONTEXT: Final = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "key": "cr:key",
    "recordSet": "cr:recordSet",
    "source": "cr:source",
}


def croissant(root: Path | str) -> dict[str, Any]:
    """What `croissant.json` of a simulated corpus holds.

    Args:
        root: Folder of the corpus.

    Returns:
        JSON-LD: the tables with their checksums, the films and masks as sets of files, the columns.

    Raises:
        CorpusError: It is another corpus.

    Example:
        >>> import tempfile
        >>> from osteo_utils.phantom.corpus import make_simulated
        >>> with tempfile.TemporaryDirectory() as home:
        ...     croissant(make_simulated(f"{home}/corpus", 10, 32))["@type"]
        'sc:Dataset'
    """
    root = Path(root)
    if not (info := corpus_info(root)):
        raise CorpusError(root, "a simulated corpus", "another one", "Real sets have pages.")
    settings, tables = info["settings"], [_table(root / name) for name in TABLES]
    films = [f"{IMAGE_FOLDER}/*/*.{kind}" for kind in ("jpg", "JPEG", "png")]
    columns = [[str(name) for name in table] for table in (METADATA_COLUMNS, read_truth(root))]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"simulated-knees-{settings['patients']}-{settings['size']}-{settings['seed']}",
        "description": (
            "Phantom knee radiographs with known T-score, masks and planted faults of public "
            "collections. Simulated: no image shows a person, and no result holds for patients."
        ),
        "license": LICENCE,
        "version": f"{settings['version']}.0.0",
        "citeAs": "The osteoporosis X-ray course team: Reading bone in knee X-rays",
        "distribution": [
            *tables,
            _files("films", films),
            _files("masks", ["masks/**/*.png"]),
        ],
        "recordSet": [
            _records(root, name, each) for name, each in zip(TABLES, columns, strict=True)
        ],
    }


def write_croissant(root: Path | str) -> Path:
    """Write `croissant.json` into the folder of a simulated corpus; its path."""
    file, text = Path(root) / "croissant.json", json.dumps(croissant(root), indent=1)
    file.write_text(text + "\n", encoding="utf-8")
    return file


def _table(file: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "description": TABLES[file.name],
        "contentUrl": file.name,
        "encodingFormat": "text/csv",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def _files(name: str, patterns: list[str]) -> dict[str, Any]:
    kinds = sorted({"png" if each.endswith("png") else "jpeg" for each in patterns})
    formats = [f"image/{kind}" for kind in kinds]
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": formats if len(formats) > 1 else formats[0],
        "includes": patterns if len(patterns) > 1 else patterns[0],
    }


def _records(root: Path, table: str, columns: list[str]) -> dict[str, Any]:
    name = Path(table).stem
    kinds = pd.read_csv(root / table, keep_default_na=False).dtypes
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": TABLES[table],
        "key": {"@id": f"{name}/path"},
        "field": [_field(name, table, column, kinds[column]) for column in columns],
    }


def _field(name: str, table: str, column: str, kind: Any) -> dict[str, Any]:  # noqa: ANN401
    types = {"b": "sc:Boolean", "i": "sc:Integer", "f": "sc:Float"}
    return {
        "@type": "cr:Field",
        "@id": f"{name}/{column}",
        "name": column,
        "dataType": types.get(kind.kind, "sc:Text"),
        "source": {"fileObject": {"@id": table}, "extract": {"column": column}},
    }


if __name__ == "__main__":
    print(write_croissant(sys.argv[1]))
