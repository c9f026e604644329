"""The code on the page about data sources works on made-up files laid out like each collection."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_films import dicom, encoded

from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.images import read_image
from osteo_utils.registry import CLASS_NAMES, class_of_t_score

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/data_sources.md").read_text("utf-8")
NAMES: dict = {}
exec(re.search(r"^```python\n(.*?)^```", PAGE, re.M | re.S)[1], NAMES)
GREY = np.arange(1200, dtype=np.uint8).reshape(40, 30)


def film(file):
    """A made-up film, another for each name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = GREY + np.uint8(sum(file.as_posix().encode()) % 200)
    if file.suffix in (".jpg", ".JPEG"):
        file.write_bytes(encoded(Image.fromarray(pixels), "JPEG"))
    else:  # DICOM, with or without a suffix
        dicom(file, pixels)
    return str(file)


def most(root):
    """A folder a visit, a DICOM a knee; DXA in a table of persons."""
    t_scores = {"MB00001": 0.3, "MB00002": -1.7, "MB00003": -2.9}
    both = [(patient, side) for patient in t_scores for side in "RL"]
    knees = pd.DataFrame(both, columns=["patient", "side"])
    source = [film(root / f"baseline/{k.patient}/PA/{k.side}.dcm") for k in knees.itertuples()]
    label = NAMES["label_of"](knees["patient"].map(t_scores))
    return knees.assign(source=source, label=label, site="")


def oai(root):
    """A number a film, deep in folders, without a suffix; both knees on it."""
    label = dict(zip(("9000099", "9000296", "9000622"), CLASS_NAMES, strict=True))
    films = [film(root / f"0.C.2/{p}/20050901/00468704/001") for p in label]
    manifest = pd.DataFrame({"source": films, "patient": [*label], "label": label.values()})
    return manifest.assign(side="", site="")


def mrkr(root):
    """Folders of patient, study and series; codes in a table of their own."""
    codes = {"101": "Z00", "102": "M85.8", "103": "M81.0"}
    said = {"Z00": "Normal", "M85.8": "Osteopenia", "M81.0": "Osteoporosis"}
    films = [film(root / f"{p}/1.2.{p}/1.2.{p}.1/1.2.{p}.1.1.dcm") for p in codes]
    label = [said[code] for code in codes.values()]
    manifest = pd.DataFrame({"source": films, "patient": [*codes], "label": label})
    return manifest.assign(side="L", site="E")


@pytest.mark.parametrize("collection", [most, oai, mrkr])
def test_a_manifest_makes_a_folder_that_the_course_reads(tmp_path, collection):
    manifest = collection(tmp_path / "as it came")
    NAMES["arrange"](manifest, str(tmp_path / "arranged"))
    listing = list_corpus(tmp_path / "arranged")
    assert (listing["problem"] == "").all()
    wanted = sorted(zip(manifest["label"], manifest["patient"], manifest["side"], strict=True))
    names = listing["label"].map(dict(enumerate(CLASS_NAMES)))
    assert sorted(zip(names, listing["patient"], listing["side"], strict=True)) == wanted
    first = tmp_path / "arranged" / listing["path"][0]
    assert first.is_symlink()
    assert read_image(first).shape == GREY.shape


@pytest.mark.parametrize("layout", ["OS Collected Data/{0}/{0} 1.jpg", "Knee X-ray/{0}/X1.JPEG"])
def test_a_download_with_a_folder_a_class_is_read_as_it_is(tmp_path, layout):
    for name in CLASS_NAMES:
        film(tmp_path / layout.format(name))
    assert list_corpus(tmp_path)["label"].tolist() == [0, 1, 2]


def test_labels_are_cut_as_everywhere_in_the_course():
    t_scores = pd.Series([-4.0, -2.5, -2.499, -1.001, -1.0, 0.5])
    expected = [CLASS_NAMES[each] for each in class_of_t_score(t_scores)]
    assert NAMES["label_of"](t_scores).tolist() == expected
    assert NAMES["label_of"](pd.Series([np.nan])).tolist() == [""]


def test_a_film_that_is_not_there_is_not_passed_over(tmp_path):
    manifest = mrkr(tmp_path / "as it came")
    Path(manifest["source"][1]).unlink()
    with pytest.raises(FileNotFoundError):
        NAMES["arrange"](manifest, str(tmp_path / "arranged"))
