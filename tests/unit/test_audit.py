"""The audit: what it groups, keeps, scores and writes, by hand and on whole corpora."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from osteo_utils.data import audit as module
from osteo_utils.data.audit import audit, counts, measure_shortcuts, summary, write_audit
from osteo_utils.data.corpus import list_corpus
from osteo_utils.phantom import sample_anatomy, sample_setting, simulate_knee
from osteo_utils.phantom.corpus import FAULTS, make_simulated, read_truth

TABLES = ("images", "pairs", "candidates", "shortcuts")


def listing(rows):
    """A listing from (path, label, patient, width); every file has its own content."""
    table = pd.DataFrame(rows, columns=["path", "label", "patient", "width"])
    table = table.assign(height=10, bytes=1, site="", side="", mode="L", problem="")
    return table.assign(format="PNG", extension=".png", sha256=table["path"])


def pairs_of(*edges):
    return pd.DataFrame(edges, columns=["a", "b"]).assign(kind="near", similarity=0.9)


def knee(seed=0, size=256):
    return simulate_knee(-1.0, np.random.default_rng(seed), size).image


@pytest.fixture(scope="module")
def simulated_audit(simulated):
    return audit(simulated, list_corpus(simulated))


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 200)


def save(root, files):
    """Save grey arrays (or raw bytes) as <class>/<name>: the listing of what is there."""
    for path, image in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            (root / path).write_bytes(image)
        else:
            Image.fromarray(np.ascontiguousarray(image)).save(root / path)
    return list_corpus(root)


# Grouping and what is kept


def test_duplicates_and_patients_are_united_by_hand():
    images = listing([(f"{i}.png", 0, patient, 9) for i, patient in enumerate("ab b c")])
    images["patient"] = images["patient"].str.strip()
    grouped = module._grouped(images, pairs_of((0, 3), (2, 5)))
    assert grouped["duplicate_group"].tolist() == [0, -1, 1, 0, -1, 1]
    # a-b by the pair 0-3, b by patient, 2 (no patient) and 5 by their pair, 4 has no patient.
    assert grouped["group"].tolist() == [0, 0, 1, 0, 2, 1]


def test_the_largest_copy_is_kept_and_ties_go_to_the_first_path():
    images = listing([("a", 0, "", 5), ("b", 0, "", 9), ("c", 0, "", 9), ("d", 0, "", 99)])
    kept = module._keep_one(module._grouped(images, pairs_of((0, 1), (1, 2))))
    assert kept["keep"].tolist() == [False, True, False, True]
    assert kept["reason"].tolist() == ["copy of b", "", "copy of b", ""]
    assert not kept["conflict"].any()


def test_no_copy_is_kept_where_labels_differ():
    images = listing([("a", 0, "", 5), ("b", 1, "", 9), ("c", 0, "", 9)])
    kept = module._keep_one(module._grouped(images, pairs_of((0, 1), (0, 2))))
    assert not kept["keep"].any()
    assert kept["conflict"].all()
    expected = ["label conflict with b", "label conflict with a", "label conflict with b"]
    assert kept["reason"].tolist() == expected


def test_a_patient_with_two_labels_is_no_conflict():
    images = listing([("a", 0, "P1", 5), ("b", 1, "P1", 5)])
    kept = module._keep_one(module._grouped(images, pairs_of()))
    assert kept["keep"].all()
    assert kept["group"].nunique() == 1


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
@settings(deadline=None, max_examples=60)
def test_groups_are_connected_components(edges):
    found = module._components(pairs_of(*edges), 20)
    reach = np.eye(20, dtype=bool)
    for a, b in edges:
        reach[a, b] = reach[b, a] = True
    for _ in range(5):
        reach = (reach.astype(int) @ reach) > 0
    assert ((found[:, None] == found) == reach).all()
    assert found[0] == 0
    assert sorted(set(found)) == list(range(found.max() + 1))


def test_components_that_were_not_counted_are_refused(monkeypatch):
    """SciPy 1.11.0 to 1.11.2 printed an error, returned 0 components, and one number for all."""
    monkeypatch.setattr(module, "connected_components", lambda *_, **__: (0, np.zeros(4, int)))
    with pytest.raises(RuntimeError, match="Update SciPy"):
        module._components(pairs_of((0, 1)), 4)


# Which pairs are found


def test_each_kind_of_copy_gets_its_kind(tmp_path):
    image, other, third = knee(0), knee(1), knee(2)
    small = np.asarray(Image.fromarray(third).resize((150, 150)))
    gamma = np.uint8(255 * (other / 255) ** 1.4)
    films = {f"Normal/{name}": image for name in ("1.png", "2.png", "3.bmp")}
    films |= {"Normal/4.jpg": image[:, ::-1]}
    films |= {"Osteopenia/1.png": other, "Osteopenia/2.jpg": gamma}
    films |= {"Osteoporosis/1.png": third, "Osteoporosis/2.png": small}
    report = audit(tmp_path, save(tmp_path, films))
    kinds = {(p.path_a, p.path_b): p.kind for p in report.pairs.itertuples()}
    assert kinds == {
        ("Normal/1.png", "Normal/2.png"): "bytes",
        ("Normal/1.png", "Normal/3.bmp"): "pixels",
        ("Normal/1.png", "Normal/4.jpg"): "mirrored",
        ("Osteopenia/1.png", "Osteopenia/2.jpg"): "near",
        ("Osteoporosis/1.png", "Osteoporosis/2.png"): "near",
    }
    assert report.images["duplicate_group"].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert report.pairs["same_label"].all()


@pytest.mark.parametrize("size", [96, 256])
def test_the_two_knees_of_a_patient_are_not_duplicates(tmp_path, size):
    rng = np.random.default_rng(5)
    files = {}
    for number in range(6):
        anatomy = sample_anatomy(rng)
        for side in "LR":
            path = f"{module.CLASS_NAMES[number % 3]}/{number}{side}.png"
            setting = sample_setting(rng, side)
            files[path] = simulate_knee(-2.0, rng, size, setting, anatomy).image
    report = audit(tmp_path, save(tmp_path, files))
    assert report.pairs.empty
    assert report.candidates["similarity"].max() < module.SAME_IMAGE - 0.03  # a margin


def test_blank_and_tiny_images_are_no_twins_of_anything(tmp_path):
    flat = np.full((40, 30), 7, np.uint8)
    films = {"Normal/1.png": flat, "Normal/2.png": flat + 1, "Osteoporosis/1.png": knee()}
    films |= {"Osteopenia/1.png": np.zeros((1, 1), np.uint8)}
    assert audit(tmp_path, save(tmp_path, films)).pairs.empty


def test_unreadable_files_are_reported_and_left_out(tmp_path):
    files = {"Normal/1.png": knee(0), "Normal/2.png": b"", "Normal/3.png": b""}
    files |= {"Osteopenia/1.png": knee(1), "Osteoporosis/1.png": b"not an image at all"}
    report = audit(tmp_path, save(tmp_path, files))
    assert counts(report)["unreadable"] == 3
    assert counts(report)["distinct"] == 2
    assert report.images["reason"].tolist() == ["", "unreadable", "unreadable", "", "unreadable"]
    assert "Normal/2.png" in summary(report)


def three_knees(root):
    return save(root, {f"{name}/1.png": knee(i) for i, name in enumerate(module.CLASS_NAMES)})


def test_a_file_that_breaks_after_the_listing_is_reported(tmp_path):
    table = three_knees(tmp_path)
    (tmp_path / "Normal/1.png").write_bytes(b"")
    report = audit(tmp_path, table)
    assert report.images["reason"].tolist() == ["unreadable", "", ""]
    assert "Normal" in report.images["problem"][0]


def test_all_unreadable(tmp_path):
    table = save(tmp_path, {f"{name}/1.png": b"" for name in module.CLASS_NAMES})
    report = audit(tmp_path, table)
    assert counts(report)["kept"] == 0
    assert report.pairs.empty
    assert "not measured" in summary(report)


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda t: t.drop(columns="sha256"), "sha256"), (lambda t: t.iloc[:0], "found 0 files")],
)
def test_bad_listings_are_refused(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        audit(tmp_path, change(listing([("a", 0, "", 5)])))


# Shortcuts


def table_for_shortcuts(groups=90, seed=0):
    """Two images a group, class by group, every fact drawn without a look at the class."""
    rng = np.random.default_rng(seed)
    n = 2 * groups
    facts = {"width": rng.integers(200, 900, n), "height": rng.integers(200, 900, n)}
    facts |= {name: rng.random(n) for name in module.BORDER}
    facts |= {"format": rng.choice(["PNG", "JPEG"], n), "bytes": rng.integers(9, 99, n)}
    label = np.repeat(np.arange(groups) % 3, 2)
    table = pd.DataFrame(facts).assign(extension=".x", mode="L", label=label)
    return table.assign(group=np.repeat(np.arange(groups), 2))


def test_a_format_that_is_the_class_predicts_it():
    table = table_for_shortcuts()
    table["format"] = table["label"].map({0: "JPEG", 1: "PNG", 2: "DICOM"})
    found = measure_shortcuts(table).set_index("features")
    assert list(found.index) == ["format", "size", "aspect ratio", "border", "file size", "all"]
    assert found.loc["format", ["balanced_accuracy", "low", "high"]].tolist() == [1, 1, 1]
    assert found.loc["all", "balanced_accuracy"] == 1
    assert found.loc["format", "p_value"] == pytest.approx(6 / 201)  # none of 200 as good, by 6
    assert found["chance"].unique() == pytest.approx([1 / 3])


def test_facts_that_are_drawn_apart_from_the_class_stay_at_chance():
    found = pd.concat([measure_shortcuts(table_for_shortcuts(seed=s), s) for s in range(3)])
    assert abs(found["balanced_accuracy"].mean() - 1 / 3) < 0.05
    assert (found["p_value"] < 0.05).sum() <= 1
    assert ((found["low"] < found["balanced_accuracy"]) | (found["low"] == found["high"])).all()


def test_a_fact_of_the_group_does_not_pass_for_a_shortcut():
    """Width names the group: only a split that tears groups apart could learn from it."""
    table = table_for_shortcuts()
    table["width"] = table["height"] = np.random.default_rng(0).permutation(90)[table["group"]]
    found = measure_shortcuts(table).set_index("features")
    assert found.loc["size", "balanced_accuracy"] < 0.5


def test_a_constant_fact_scores_chance_with_p_one():
    table = table_for_shortcuts().assign(bytes=5)
    found = measure_shortcuts(table).set_index("features").loc["file size"]
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["p_value"] == 1


def test_two_classes_have_chance_one_half_and_one_class_is_not_measured():
    table = table_for_shortcuts()
    assert measure_shortcuts(table[table["label"] < 2])["chance"].unique() == [0.5]
    assert measure_shortcuts(table[table["label"] == 0]).empty


def test_a_resample_that_lacks_a_class_is_left_out_of_the_interval():
    """Of 200 resamples of 3 groups many lack the one group of a class: they have no answer."""
    labels, groups = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3])
    score, low, high, p_value = module._judged(labels, np.array([0, 1, 1, 2]), groups, 0)
    assert score == pytest.approx((1 / 2 + 1 + 1) / 3)
    # With every class in the resample, the recall of class 0 is 0, 1/2 or 1, the others' is 1.
    assert (low, high) == pytest.approx((2 / 3, 1))
    assert p_value <= 1


def test_folds_keep_groups_whole_and_deal_out_each_class_evenly():
    groups = np.repeat(np.arange(23), 2)
    labels = np.where(groups < 11, 0, np.where(groups < 18, 1, 2))
    labels[1] = 2  # group 0 has two classes, and counts for the rarer one
    fold = module._folds(labels, groups, 4, seed=0)
    assert (fold[::2] == fold[1::2]).all()
    of_class = [fold[::2][1:11], fold[::2][11:18], fold[::2][[0, *range(18, 23)]]]
    for folds in of_class:
        assert np.ptp(np.bincount(folds, minlength=4)) <= 1
    assert (module._folds(labels, groups, 4, seed=0) == fold).all()
    assert (module._folds(labels, groups, 4, seed=1) != fold).any()


def test_a_constant_fact_scores_chance_though_the_classes_differ_in_size():
    table = table_for_shortcuts(groups=100).assign(bytes=5).iloc[:171]
    found = measure_shortcuts(table).set_index("features").loc["file size"]
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_exchanging_labels_moves_whole_groups(rows):
    groups = pd.factorize(np.array([g for g, _ in rows]))[0]
    labels = np.array([label for _, label in rows])
    swapped = module._exchanged(labels, groups, np.random.default_rng(0))

    def bags(of):
        return sorted(tuple(of[groups == g]) for g in np.unique(groups))

    assert bags(swapped) == bags(labels)


# On whole corpora


def test_planted_faults_are_found(simulated, simulated_audit):
    found = module.score_against_truth(simulated_audit, read_truth(simulated)).set_index("kind")
    assert found.loc["byte copies", ["precision", "recall"]].tolist() == [1, 1]
    assert found.loc["label conflicts", ["precision", "recall"]].tolist() == [1, 1]
    assert found.loc["near-duplicates", "precision"] >= 0.98
    assert (found["planted"] > 0).all()
    assert_recall(simulated_audit, simulated)


def assert_recall(report, root):
    """Every planted copy is found but close-ups, which are known to be missed."""
    found = module.recall_by_fault(report, read_truth(root)).set_index("fault")
    assert set(found.index) == set(FAULTS)
    others = found.drop("close-up")
    assert others["found"].sum() >= 0.95 * others["planted"].sum(), others
    assert found.loc["close-up", "recall"] <= 0.5


def test_planted_faults_are_found_among_more_and_larger_knees(tmp_path):
    root = make_simulated(tmp_path / "corpus", 30, 144, seed=1, workers=1)
    report = audit(root, list_corpus(root))
    found = module.score_against_truth(report, read_truth(root)).set_index("kind")
    exact = found.loc[["byte copies", "label conflicts"], ["precision", "recall"]]
    assert (exact.to_numpy() == 1).all()
    assert found.loc["near-duplicates", "precision"] >= 0.98
    assert_recall(report, root)


def test_scoring_notices_what_was_missed_and_what_was_invented():
    images = listing([(path, 0, "", 5) for path in "abcdef"])
    pairs = pd.DataFrame({"a": [0, 2], "b": [1, 4], "kind": "near", "similarity": 0.9})
    grouped = module._keep_one(module._grouped(images, pairs))
    report = module.Audit(grouped, module._named(grouped, pairs), pairs, pd.DataFrame())
    truth = pd.DataFrame({"path": list("abcdef"), "source": ["", "a", "", "c", "", ""]})
    truth["fault_detail"] = ["", "quality 70", "", "quality 80", "", ""]
    truth["fault"] = ["", "re-encoded", "", "re-encoded", "", ""]
    found = module.score_against_truth(report, truth).set_index("kind").loc["near-duplicates"]
    assert found.tolist() == [0.5, 0.5, 2, 2]  # a-b found, c-d missed, c-e invented
    by_fault = module.recall_by_fault(report, truth).iloc[0]
    assert by_fault.tolist()[:4] == ["re-encoded", 2, 1, 0.5]
    assert 0 < by_fault["low"] < 0.5 < by_fault["high"] < 1
    with pytest.raises(ValueError, match="every audited path"):
        module.score_against_truth(report, truth.iloc[:3])


def test_the_groups_of_an_audit_hold_patients_and_copies(simulated, simulated_audit):
    images, truth = simulated_audit.images, read_truth(simulated)
    assert (images.groupby("duplicate_group")["group"].nunique().drop(-1) == 1).all()
    assert (images.groupby("patient")["group"].nunique() == 1).all()
    truth = truth[truth["fault"] != "close-up"]  # what is missed cannot be grouped
    merged = images.merge(truth[["path", "patient"]], on="path", suffixes=("", "_true"))
    assert (merged.groupby("patient_true")["group"].nunique() == 1).all()


def test_the_real_radiographs(real_knees):
    report = audit(real_knees, list_corpus(real_knees))
    found = counts(report)
    expected = {"files": 239, "distinct": 217, "duplicate_groups": 21, "surplus": 22}
    expected |= {"conflict_groups": 7, "unreadable": 0, "conflicts": 15, "kept": 210}
    assert {name: found[name] for name in expected} == expected
    assert set(report.pairs["kind"]) == {"bytes"}
    assert report.candidates["similarity"].max() < module.SAME_IMAGE - 0.03  # a margin
    assert "217" in summary(report)


# Writing and reading


def test_an_audit_survives_being_written(simulated_audit, tmp_path):
    write_audit(simulated_audit, tmp_path)
    again = module.read_audit(tmp_path)
    for name in TABLES:
        left, right = getattr(simulated_audit, name), getattr(again, name)
        pd.testing.assert_frame_equal(left, right, check_dtype=False)
    assert summary(again) == summary(simulated_audit)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(module.FILES)


def test_awkward_values_survive_being_written(tmp_path):
    table = three_knees(tmp_path)
    table["patient"] = ["007", "NA", ""]
    (tmp_path / "Normal/1.png").write_bytes(b"")
    report = audit(tmp_path, table)
    out = tmp_path / "out"
    out.mkdir()
    write_audit(report, out)
    again = module.read_audit(out)
    assert again.images["patient"].tolist() == ["007", "NA", ""]
    assert again.images["border_mean"].isna().tolist() == [True, False, False]
    assert again.images["keep"].tolist() == [False, True, True]


@pytest.mark.parametrize("damage", ["missing", "empty", "broken"])
def test_a_damaged_audit_is_named(simulated_audit, tmp_path, damage):
    write_audit(simulated_audit, tmp_path)
    path = tmp_path / "pairs.csv"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("" if damage == "empty" else 'path_a,b\n"x')
    with pytest.raises(ValueError, match=r"pairs\.csv.*Audit again"):
        module.read_audit(tmp_path)


def test_the_same_audit_twice_is_the_same(simulated, simulated_audit):
    again = audit(simulated, list_corpus(simulated))
    for name in TABLES[:3]:
        pd.testing.assert_frame_equal(getattr(simulated_audit, name), getattr(again, name))
