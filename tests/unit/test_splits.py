"""The split: no group on both sides, every class everywhere, written once, checked when read."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from osteo_utils.data import splits
from osteo_utils.data.audit import audit
from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.splits import SplitError, make_split, read_split, split_hash, write_split
from osteo_utils.store import rows_digest


def table(groups, labels, keep=True):
    """An audit's table of images from a group and a label each."""
    path = [f"{number}.png" for number in range(len(groups))]
    images = pd.DataFrame({"path": path, "label": labels, "group": groups, "sha256": path})
    return images.assign(keep=keep)


def patients(number, seed=0):
    """`number` patients of two knees; every tenth has two labels."""
    rng = np.random.default_rng(seed)
    first = np.resize([0, 1, 2, 1], number)
    second = np.where(rng.random(number) < 0.1, (first + 1) % 3, first)
    return table(np.repeat(np.arange(number), 2), np.stack([first, second], axis=1).ravel())


def shares(split):
    return pd.crosstab(split["part"], split["label"], normalize="columns").loc[list(splits.PARTS)]


SPLIT = make_split(patients(24))


@pytest.fixture
def split():
    return SPLIT.copy()


# Dealing


@pytest.mark.parametrize("number", [24, 320])
def test_patients_are_dealt_whole_and_by_class(number):
    split = make_split(patients(number))
    assert (split.groupby("group")["part"].nunique() == 1).all()
    wanted = np.array([0.6, 0.2, 0.2])[:, None]
    assert np.abs(shares(split).to_numpy() - wanted).max() < (0.12 if number < 100 else 0.02)
    assert list(split.columns) == ["path", "label", "group", "part", "sha256"]


def test_single_images_are_dealt_to_the_nearest_image():
    split = make_split(table(range(300), np.repeat([0, 1, 2], [50, 150, 100])))
    counts = pd.crosstab(split["part"], split["label"]).loc[list(splits.PARTS)]
    assert counts.to_numpy().tolist() == [[30, 90, 60], [10, 30, 20], [10, 30, 20]]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=12, max_size=80),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=40)
def test_no_group_ever_crosses(groups, seed):
    labels = [label for group in groups for label in group]
    numbers = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    assume(all(sum(label in group for group in groups) >= 12 for label in range(3)))
    images = table(numbers, labels)
    split = make_split(images, seed=seed)
    assert (split.groupby("group")["part"].nunique() == 1).all()
    assert sorted(split["path"]) == sorted(images["path"])
    # A part misses its share by no more than about the largest group.
    largest = 2 * images.groupby("group").size().max() + 2
    expected = np.array([0.6, 0.2, 0.2]) * len(images)
    found = split["part"].value_counts().reindex(splits.PARTS, fill_value=0).to_numpy()
    assert np.abs(found - expected).max() <= largest + 0.05 * len(images)


def test_the_seed_alone_decides():
    images = patients(60)
    assert split_hash(make_split(images, seed=3)) == split_hash(make_split(images, seed=3))
    assert split_hash(make_split(images, seed=3)) != split_hash(make_split(images, seed=4))


def test_only_kept_images_are_dealt():
    images = patients(24)
    images.loc[:5, "keep"] = False
    assert set(make_split(images)["path"]) == set(images["path"][6:])


def test_a_simulated_corpus_from_the_audit_to_the_split(simulated):
    images = audit(simulated, list_corpus(simulated)).images
    split = make_split(images)
    assert len(split) == images["keep"].sum()
    known = split.merge(images[["path", "patient", "duplicate_group"]], on="path")
    assert (known.groupby("patient")["part"].nunique() == 1).all()


# What is refused


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.1), (0.8, 0.2), (0.8, 0.2, 0), (2, -0.5, -0.5)])
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(SplitError, match="sum 1"):
        make_split(patients(24), fractions)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (table([0, 1], [0, 1]).iloc[:0], "no Normal and no Osteopenia"),
        (table(range(9), [0, 1] * 4 + [0]), "no Osteoporosis in train"),
        (table(range(8), [0] * 3 + [1] * 3 + [2] * 2), "no Osteoporosis in test"),
        (table(range(8), [0, 1] * 4, keep=False), "no Normal"),
        (table(range(8), [0, 1] * 4).drop(columns="sha256"), "sha256"),
    ],
)
def test_sets_that_cannot_be_split_are_refused(images, words):
    with pytest.raises(SplitError, match=words):
        make_split(images)


@pytest.mark.parametrize(
    ("rows", "column", "value", "words"),
    [
        (SPLIT["group"] == 0, "part", ["train", "test"], "found group 0 in train and test"),
        (0, "part", "holdout", "holdout"),
        (0, "label", 3, "3"),
        (1, "path", SPLIT["path"][0], "each path once"),
        (1, "sha256", SPLIT["sha256"][40], "each content once"),
        ((SPLIT["part"] == "test") & (SPLIT["label"] == 2), "label", 1, "no Osteoporosis in test"),
    ],
    ids=["crossing", "part", "label", "path twice", "content twice", "no class"],
)
def test_invalid_splits_are_refused(split, rows, column, value, words):
    split.loc[rows, column] = value
    with pytest.raises(SplitError, match=words):
        splits.check_split(split)


def test_a_missing_column_is_named(split):
    with pytest.raises(SplitError, match="group"):
        splits.check_split(split.drop(columns="group"))


# Writing and reading


def test_a_split_survives_being_written(split, tmp_path):
    path = tmp_path / "split.csv"
    digest = write_split(split, path)
    again = read_split(path)
    pd.testing.assert_frame_equal(again, split, check_dtype=False)
    assert split_hash(again) == digest == split_hash(split.sample(frac=1, random_state=0))
    info = json.loads((tmp_path / "split.json").read_text())
    assert info["split_hash"] == digest
    assert (info["seed"], info["fractions"]) == (0, [0.6, 0.2, 0.2])
    assert np.sum(list(info["counts"].values())) == len(split)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["split.csv", "split.json"]


def test_the_same_split_may_be_written_again_and_another_not(split, tmp_path):
    path = tmp_path / "split.csv"
    before = write_split(split, path), path.read_bytes()
    assert (write_split(split, path), path.read_bytes()) == before
    with pytest.raises(SplitError, match="another split"):
        write_split(make_split(patients(24), seed=9), path)
    assert path.read_bytes() == before[1]


def test_the_name_of_a_split_does_not_depend_on_the_encoder(split, tmp_path):
    split.attrs["films"] = "phantoms"
    digest = write_split(split, tmp_path / "split.csv")
    elsewhere = split.assign(sha256="x" + split["sha256"])
    assert split_hash(elsewhere) == digest
    assert write_split(elsewhere, tmp_path / "split.csv") == digest
    assert read_split(tmp_path / "split.csv").attrs["films"] == "phantoms"
    elsewhere.attrs["films"] = "other films"
    with pytest.raises(SplitError, match="or one of other films"):
        write_split(elsewhere, tmp_path / "split.csv")


def test_without_a_digest_of_the_films_one_over_the_rows_is_written(split, tmp_path):
    write_split(split, tmp_path / "split.csv")
    films = read_split(tmp_path / "split.csv").attrs["films"]
    assert films == rows_digest(split.sample(frac=1, random_state=0), ("path", "sha256"))
    assert films != rows_digest(split.assign(sha256="x"), ("path", "sha256"))


@pytest.mark.parametrize(
    "names", [["007", "08"], ["NA", "null"], ["1e3", "True"], ["1.50", ""], ["120", "0"]]
)
def test_groups_of_any_name_survive_being_written(split, tmp_path, names):
    split["group"] = split["group"].map(lambda n: names[n] if n < 2 else f"{n}").astype(str)
    write_split(split, tmp_path / "split.csv")
    again = read_split(tmp_path / "split.csv")
    assert again["group"].astype(str).tolist() == split["group"].tolist()


def tampered(path):
    lines = path.read_text().splitlines()
    swap = {"train": "test", "test": "train", "validation": "train"}
    first, other = lines[1].split(","), lines[2].split(",")
    for cells in (first, other):
        cells[3] = swap[cells[3]]
    path.write_text("\n".join([lines[0], ",".join(first), ",".join(other), *lines[3:]]))


def replaced(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


def written(suffix, text):
    return lambda path: path.with_suffix(suffix).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (tampered, r"split\.csv: expected .*, found one that was changed since"),
        (replaced("0.png\n", "1.png\n"), r"each content once"),
        (replaced("0.png\n", "x\n"), "changed"),
        (lambda path: path.unlink(), r"expected a split"),
        (written(".csv", ""), r"expected a split"),
        (written(".csv", "path,part\na,train\n"), "found none named label, group"),
        (lambda path: path.with_suffix(".json").unlink(), r"split\.json"),
        (written(".json", "{}"), r"split\.json"),
        (written(".json", "[]"), r"split\.json"),
        (written(".json", "{"), r"split\.json"),
        (written(".json", '{"split_hash": "0", "films": "0", "rows": "0"}'), "changed"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), r"expected a split"),
    ],
)
def test_a_damaged_split_is_refused(split, tmp_path, damage, words):
    path = tmp_path / "split.csv"
    write_split(split, path)
    damage(path)
    with pytest.raises(SplitError, match=words):
        read_split(path)
    if path.exists():
        with pytest.raises(SplitError):
            write_split(split, path)
