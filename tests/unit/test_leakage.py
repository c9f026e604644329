"""The leakage laboratory: who may meet whom under each protocol, and the arithmetic of optimism."""

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from osteo_utils.chapters import leakage
from osteo_utils.chapters.leakage import KIN, Protocol


def record(patients=30):
    """A true record: two knees a patient, and a copy of the left knee of every third patient."""
    number = np.repeat(np.arange(patients), 2)
    knees = pd.DataFrame({"patient": [f"P{n}" for n in number], "label_index": number % 3})
    knees = knees.assign(path=[f"{i}.png" for i in range(len(knees))], source="", fault="")
    copies = knees[::6].assign(source=lambda t: t["path"], fault="byte copy")
    copies["path"] = [f"copy of {path}" for path in copies["path"]]
    return pd.concat([knees, copies], ignore_index=True)


def audit_of(truth):
    """What an audit makes of it: copies united with their patient and not kept."""
    copy = truth["fault"] != ""
    seen_as = truth["patient"].where(~copy, "new " + truth["patient"])
    images = pd.DataFrame({"label": truth["label_index"], "patient": seen_as, "keep": ~copy})
    return images.assign(group=pd.factorize(truth["patient"])[0])


TRUTH = record()
IMAGES = audit_of(TRUTH)
EVERYONE = np.arange(len(TRUTH))


def parts_of(protocol, seed=0):
    return leakage.deal(IMAGES, EVERYONE, protocol, seed)


def crossing(parts, column):
    """Values of a column that occur in training and in test."""
    return set(column.iloc[parts["train"]]) & set(column.iloc[parts["test"]])


def test_study_and_world_share_no_patient_and_leave_nobody_out():
    study, world = leakage.study_and_world(TRUTH, seed=1)
    inside, outside = (set(TRUTH["patient"][rows]) for rows in (study, world))
    assert not inside & outside
    assert inside | outside == set(TRUTH["patient"])
    people = TRUTH.iloc[study].drop_duplicates("patient")
    assert people["label_index"].value_counts().to_dict() == {0: 6, 1: 6, 2: 6}  # 0.6 of 10 each


def test_study_keeps_the_copies_and_the_world_has_none():
    study, world = leakage.study_and_world(TRUTH, seed=1)
    inside = TRUTH["patient"].isin(TRUTH["patient"][study])
    assert len(study) == inside.sum()
    assert len(world) == 2 * TRUTH["patient"][world].nunique()
    assert (TRUTH["fault"][world] == "").all()


def test_another_seed_deals_other_people():
    assert not np.array_equal(*(leakage.study_and_world(TRUTH, seed)[0] for seed in (0, 1)))


def test_audited_by_group_tears_nobody_apart():
    parts = parts_of(Protocol(audited=True, unit="group"))
    dealt = np.concatenate(list(parts.values()))
    assert sorted(dealt) == list(np.flatnonzero(IMAGES["keep"]))
    assert not crossing(parts, TRUTH["patient"])


def test_raw_by_patient_believes_that_a_copy_is_a_new_patient():
    parts = parts_of(Protocol(audited=False, unit="patient"))
    assert sorted(np.concatenate(list(parts.values()))) == list(EVERYONE)
    assert not crossing(parts, IMAGES["patient"])
    assert crossing(parts, TRUTH["patient"])


def test_by_image_tears_knees_apart():
    assert crossing(parts_of(Protocol(audited=True, unit="image")), TRUTH["patient"])


def test_twice_takes_every_film_of_half_the_groups_two_times():
    parts = parts_of(Protocol(audited=True, unit="image", twice=True))
    rows, times = np.unique(np.concatenate(list(parts.values())), return_counts=True)
    assert (times == 2).all()
    assert IMAGES["group"][rows].nunique() == 15
    assert crossing(parts, TRUTH["path"])


def test_kin_is_the_nearest_relative_in_training():
    truth = pd.DataFrame({"path": ["a", "b", "copy of a", "c", "d"]})
    truth["patient"] = ["P1", "P1", "P1", "P2", "P1"]
    truth["source"] = ["", "", "a", "", ""]
    parts = {"train": np.array([0, 1]), "test": np.array([2, 3, 4])}
    assert list(leakage.kin(truth, parts)) == ["copy", "nobody", "other knee"]


def test_judge_counts_scores_and_hits_by_hand():
    labels = np.array([0, 0, 1, 2, 2, 1, 1, 0])
    called = np.array([0, 1, 1, 2, 0, 1, 2, 0])
    parts = {"train": np.array([0, 2, 3]), "validation": np.array([1, 2, 3, 4])}
    parts["test"] = np.array([3, 4, 5])
    world, elsewhere = np.array([3, 6, 7]), np.array([7])
    row = leakage.judge(called, labels, parts, world, elsewhere, np.array([KIN[0], KIN[2], KIN[0]]))
    assert row["train"] == 1
    assert row["validation"] == pytest.approx((0 + 1 + 1 / 2) / 3)
    assert np.isnan(row["test"])  # no film of class 0, so no mean over the three
    assert row["world"] == pytest.approx((1 + 0 + 1) / 3)
    assert np.isnan(row["elsewhere"])
    assert [row[f"hits {name}"] for name in KIN] == [2, 0, 0]
    assert [row[f"films {name}"] for name in KIN] == [2, 0, 1]


def test_best_of_two_of_three_by_hand():
    claimed, true = leakage.best_of([0.5, 0.7, 0.6], [0.1, 0.2, 0.3], 2)
    assert claimed == pytest.approx((0.7 + 0.6 + 0.7) / 3)
    assert true == pytest.approx((0.2 + 0.3 + 0.2) / 3)


@pytest.mark.parametrize("claimed", [[np.nan, 0.7, 0.6], [0.7, 0.6, np.nan]])
def test_best_of_runs_of_which_one_cannot_be_measured_is_unknown_in_any_order(claimed):
    assert np.isnan(leakage.best_of(claimed, [0.1, 0.2, 0.3], 1)).all()


def test_jackknife_of_a_mean_is_the_t_interval():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    found = leakage.jackknife(lambda chosen: float(values[chosen].mean()), 4)
    half = student.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert found == pytest.approx((3, 3 - half, 3 + half))


def test_jackknife_of_two_repeats_has_no_interval():
    value, low, high = leakage.jackknife(lambda chosen: float(chosen.mean()), 2)
    assert value == 0.5
    assert np.isnan([low, high]).all()


def test_optimism_is_claimed_minus_true_of_the_chosen_columns():
    runs = pd.DataFrame({"test": [0.6, 0.7, 0.8], "validation": 1.0, "world": [0.5, 0.6, 0.7]})
    found = leakage.optimism(runs)
    expected = {"claimed": 0.7, "true": 0.6, "value": 0.1, "low": 0.1, "high": 0.1}
    assert found.to_dict() == pytest.approx(expected)
    assert leakage.optimism(runs, "validation")["value"] == pytest.approx(0.4)
    assert leakage.optimism(runs, k=2)["claimed"] == pytest.approx((0.7 + 0.8 + 0.8) / 3)


def test_results_are_read_back_only_with_the_same_settings(tmp_path):
    file, table = tmp_path / "leakage.csv", pd.DataFrame({"reader": ["network"], "test": [0.5]})
    assert leakage.read_results({"seed": 0}, file) is None
    leakage.write_results(table, {"seed": 0}, file)
    pd.testing.assert_frame_equal(leakage.read_results({"seed": 0}, file), table)
    assert leakage.read_results({"seed": 1}, file) is None


@pytest.fixture(scope="module")
def model():
    """A model that can tell dark from grey from bright films, compiled once."""
    x = inputs = keras.Input((4, 4, 1), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x))
    x = keras.layers.Dense(8, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy", jit_compile=False)
    return model


def brightness_films():
    labels = np.tile([0, 1, 2], 30)
    noise = np.random.default_rng(0).integers(0, 40, (90, 4, 4, 1))
    films = (labels[:, None, None, None] * 100 + noise).astype(np.uint8)
    rows = np.arange(90)
    return films, labels, {"train": rows[:60], "validation": rows[60:75], "test": rows[75:]}


def test_fit_learns_keeps_the_best_epoch_and_starts_anew(model):
    films, labels, parts = brightness_films()
    history = leakage.fit(model, films, labels, parts, epochs=12, seed=3, batch_size=10)
    rows = parts["validation"]
    p = leakage.predict(model, films, rows)
    loss = -np.log(p[np.arange(len(rows)), labels[rows]]).mean()
    assert loss == pytest.approx(history["loss"].min(), rel=1e-4)
    assert history["loss"].min() < history["loss"].iloc[0]
    leakage.fit(model, films, labels, parts, epochs=1, seed=4, batch_size=10)
    again = leakage.fit(model, films, labels, parts, epochs=12, seed=3, batch_size=10)
    np.testing.assert_allclose(again["loss"], history["loss"], rtol=1e-3)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_fit_keeps_the_best_of_the_epochs_whose_loss_is_a_number(model, monkeypatch, lost):
    films, labels, parts = brightness_films()
    look, seen = leakage._look, []

    def sometimes_lost(*args):
        seen.append(look(*args) | {"weights": model.get_weights()})
        return seen[-1] | ({"loss": np.nan} if len(seen) == lost + 1 else {})

    monkeypatch.setattr(leakage, "_look", sometimes_lost)
    leakage.fit(model, films, labels, parts, epochs=3, seed=3, batch_size=10)
    best = min((row for i, row in enumerate(seen) if i != lost), key=lambda row: row["loss"])
    assert all(map(np.array_equal, model.get_weights(), best["weights"]))


def test_fit_without_any_loss_that_is_a_number_is_an_error(model, monkeypatch):
    films, labels, parts = brightness_films()
    monkeypatch.setattr(leakage, "_look", lambda *_: {"loss": np.nan, "balanced_accuracy": 0.5})
    with pytest.raises(ValueError, match="expected a finite validation loss in one of 2 epochs"):
        leakage.fit(model, films, labels, parts, epochs=2, seed=3)


def test_predict_gives_a_row_for_each_film_whatever_their_number(model):
    films, _, _ = brightness_films()
    rows = np.array([5, 0, 7])
    expected = model.predict_on_batch(films)[rows]
    np.testing.assert_allclose(leakage.predict(model, films, rows, size=2), expected, atol=1e-5)


def test_new_patients_are_a_study_with_copies_and_a_place_that_is_left_out():
    films, images, truth = leakage.new_patients(20, 32, seed=5)
    assert films.shape == (len(truth), 32, 32, 1)
    assert images["path"].tolist() == truth["path"].tolist()
    assert images["keep"].sum() == 40
    assert (truth["fault"][images["keep"]] == "").all()
    assert images["group"].nunique() == 20 < images["patient"].nunique()
    away = truth[truth["site"] == "D"]
    assert not set(away["patient"]) & set(truth.loc[truth["site"] != "D", "patient"])
    assert away["label_index"].nunique() == 3


def test_other_seeds_are_other_people():
    one, other = (leakage.new_patients(10, 32, seed)[2] for seed in (1, 2))
    assert not set(one["t_score"].round(6)) & set(other["t_score"].round(6))


def test_spectra_tell_stripes_apart_by_coarseness_and_direction():
    x = np.arange(64)
    fine, coarse = (np.tile(127 + 100 * np.sin(2 * np.pi * x / p), (64, 1)) for p in (4, 8))
    films = np.stack([fine, coarse, fine.T]).astype(np.uint8)[..., None]
    strongest = leakage.spectra(films).argmax(axis=1)
    ring, direction = np.divmod(strongest, 6)
    # Of 48 pixels kept, period 4 is a frequency of 0.25: ring 5 of 10, and ring 0 is left out.
    assert ring.tolist() == [4, 1, 4]
    assert direction[0] == direction[1] == 0 != direction[2]
