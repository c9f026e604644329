"""The metadata of a simulated corpus fits its files, and other programs read it."""

import hashlib
import json
from itertools import chain
from pathlib import Path

import mlcroissant
import pytest

from osteo_utils.errors import CorpusError
from osteo_utils.phantom import croissant
from osteo_utils.phantom.corpus import read_truth


@pytest.fixture(scope="module")
def told(simulated):
    return croissant.croissant(simulated)


def test_every_table_has_its_checksum_and_its_columns(simulated, told):
    tables = {each["@id"]: each for each in told["distribution"] if "sha256" in each}
    for name, table in tables.items():
        assert table["sha256"] == hashlib.sha256((simulated / name).read_bytes()).hexdigest()
    columns = {each["name"]: [f["name"] for f in each["field"]] for each in told["recordSet"]}
    assert columns["truth"] == list(read_truth(simulated))
    assert columns["metadata"] == ["path", "patient", "side", "site"]


def test_the_kinds_of_columns(told):
    fields = chain(*(record["field"] for record in told["recordSet"]))
    fields = {field["@id"]: field["dataType"] for field in fields}
    kinds = {"t_score": "sc:Float", "label_index": "sc:Integer", "relabelled": "sc:Boolean"}
    assert {name: fields[f"truth/{name}"] for name in kinds} == kinds
    assert fields["metadata/patient"] == "sc:Text"


def test_the_sets_of_files_hold_every_film_and_every_mask(simulated, told):
    sets = [each for each in told["distribution"] if "includes" in each]
    patterns = {each["@id"]: each["includes"] for each in sets}
    films = {film for pattern in patterns["films"] for film in simulated.glob(pattern)}
    paths = {film.relative_to(simulated).as_posix() for film in films}
    assert paths == set(read_truth(simulated)["path"])
    assert len(list(simulated.glob(patterns["masks"]))) == len(films)


def test_it_is_written_as_json_and_read_by_mlcroissant(simulated, tmp_path):
    for name in ("corpus.json", *croissant.TABLES):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    file = croissant.write_croissant(tmp_path)
    assert json.loads(file.read_text("utf-8"))["license"] == croissant.LICENCE
    records = list(mlcroissant.Dataset(str(file)).records("truth"))
    assert len(records) == len(read_truth(tmp_path))


def test_another_corpus_has_none(tmp_path):
    with pytest.raises(CorpusError, match="a simulated corpus"):
        croissant.croissant(Path(tmp_path))
