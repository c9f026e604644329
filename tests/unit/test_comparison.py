from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from osteo_utils.chapters import comparison
from osteo_utils.chapters.comparison import Entrant, counterpart, films, scoreboard
from osteo_utils.course import open_course
from osteo_utils.registry import ARCHITECTURES, CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS, Run, RunError, probabilities
from osteo_utils.scoring.evaluate import bootstrap, holm, paired_difference

DATA = Path(__file__).resolve().parents[2] / "data"
SUMMARY, REPORTS = DATA / "published_summary.csv", DATA / "published_reports.csv"
PUBLISHED = pd.read_csv(SUMMARY)


def predictions(seed, skill=1.5, n=90):
    """Probabilities that know something of the labels, two films a group, both parts alike."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) // 2 % 3
    logits = skill * np.eye(3)[y] + rng.normal(size=(n, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "label": y})
    table["group"] = [f"{i // 2:03}" for i in range(n)]
    table["part"] = np.where(np.arange(n) // 6 % 2, "validation", "test")
    return table.assign(**dict(zip(PROBABILITY_COLUMNS, p.T, strict=True)))


def run_of(model, seed, table):
    info = {"model": model, "seed": seed, "split_hash": "a" * 64, "class_names": list(CLASS_NAMES)}
    return Run(Path(model) / f"seed{seed}", info, table, {}, pd.DataFrame())


@pytest.fixture(scope="module")
def runs():
    """All ten models: three seeds of the first, one of each other."""
    return {
        name: [run_of(name, s, predictions((i, s))) for s in (range(3) if i == 0 else [0])]
        for i, name in enumerate(ARCHITECTURES)
    }


@pytest.fixture(scope="module")
def baselines():
    kept = [predictions(100 + i, 0.3).assign(baseline=n) for i, n in enumerate(("LBP", "HOG"))]
    return pd.concat(kept)


@pytest.fixture(scope="module")
def field(runs, baselines):
    return comparison.gather(runs, baselines)


# ---------------------------------------------------------------------------------------------
# Who takes part


def test_baselines_of_the_same_films_may_join(runs, baselines):
    assert comparison.same_films(runs, baselines)
    assert not comparison.same_films(runs, baselines[baselines["path"] != "6.png"])
    assert not comparison.same_films(runs, None)
    assert not comparison.same_films({}, baselines)


@pytest.mark.parametrize("name", PUBLISHED["model"])
def test_every_published_row_has_its_counterpart_in_the_comparison(name, field):
    kind = PUBLISHED.set_index("model").loc[name, "kind"]
    assert field[counterpart(name)].kind == kind


def test_no_two_published_rows_share_a_counterpart():
    assert PUBLISHED["model"].map(counterpart).nunique() == len(PUBLISHED) == 19


def test_a_published_name_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="found 'EfficientNet'"):
        counterpart("EfficientNet")


def test_the_field_is_ten_models_nine_pairs_the_ensembles_and_the_baselines(field):
    kinds = pd.Series([entrant.kind for entrant in field.values()]).value_counts().to_dict()
    assert kinds == {"single": 9, "fusion": 1, "pair": 9, "ensemble": 5, "baseline": 2}
    assert len(field["Custom CNN"].tables) == 3
    assert field["Custom CNN, three seeds"].models == ("custom_cnn",) * 3
    assert len(field["All ten, stacked"].models) == 10


def test_a_pair_is_the_mean_of_two_prediction_files(runs, field, tmp_path):
    members = []
    for name in ("vgg16", "vgg19"):  # through a file and back: nothing else of the run is used
        runs[name][0].predictions.to_csv(tmp_path / name, index=False)
        members.append(probabilities(pd.read_csv(tmp_path / name).query("part == 'test'")))
    found = field["VGG16 + VGG19"].probabilities("test")
    np.testing.assert_allclose(found, [sum(members) / 2], atol=1e-12)


def test_a_pair_is_formed_from_the_seeds_that_both_members_have(runs):
    dense = [run_of("densenet121", s, predictions(s)) for s in (2, 7, 1)]
    more = {"custom_cnn": runs["custom_cnn"], "densenet121": dense}
    (found,) = comparison.pairs(more)
    assert found.name == "Custom CNN + DenseNet121"
    tables = [run.predictions.query("part == 'test'") for run in (runs["custom_cnn"][1], dense[2])]
    first, second = map(probabilities, tables)
    assert len(found.tables) == 2
    np.testing.assert_allclose(found.probabilities("test")[0], (first + second) / 2)


def test_members_without_a_common_seed_are_refused(runs):
    other = runs | {"densenet121": [run_of("densenet121", 7, predictions(7))]}
    with pytest.raises(RunError, match="a seed that all members"):
        comparison.pairs(other)


def test_pairs_of_absent_models_are_left_out(runs):
    few = comparison.gather({name: runs[name] for name in ("vgg16", "vgg19", "xception")})
    assert [name for name, e in few.items() if e.kind == "pair"] == ["VGG16 + VGG19"]
    assert "All three, equal weights" in few


def test_a_table_about_other_films_is_refused(runs, baselines):
    with pytest.raises(RunError, match=r"LBP: expected the validation films of the others"):
        comparison.gather({"vgg16": runs["vgg16"]}, baselines[baselines["path"] != "6.png"])


def test_an_empty_field_is_refused():
    with pytest.raises(RunError, match="at least one entrant"):
        films({}, "test")


def test_a_course_without_runs_says_which_are_missing(tmp_path, simulated, capsys):
    course = open_course("quick", str(simulated), runs=tmp_path / "runs")
    assert comparison.finished(course) == {}
    assert "No finished run of Custom CNN, AlexNet, VGG16" in capsys.readouterr().out
    assert comparison.read_baselines(course) is None


# ---------------------------------------------------------------------------------------------
# Scores and differences


def test_the_scores_of_one_seed_are_those_of_the_plain_bootstrap(field):
    board = scoreboard(field, "test", resamples=40, seed=3)
    rows = field["VGG16"].tables[0].query("part == 'test'")
    plain = bootstrap(rows["label"], probabilities(rows), rows["group"], 40, 3)
    for score in (*comparison.SCORES, "ece", "ece_if_calibrated"):
        found = board[score].loc["VGG16", ["value", "low", "high"]].astype(float)
        np.testing.assert_allclose(found, plain.loc[score])


def test_several_seeds_are_averaged_and_widen_the_interval():
    same = [predictions(0)] * 3
    apart = [predictions(s, skill) for s, skill in enumerate((0.2, 1.5, 4.0))]
    entrants = {"one": same[:1], "same": same, "apart": apart}
    field = {n: Entrant(n, "single", (), tuple(tables)) for n, tables in entrants.items()}
    table = scoreboard(field, "test", resamples=300)["accuracy"]
    columns = ["value", "low", "high"]
    one, alike = (table.loc[name, columns].astype(float) for name in ("one", "same"))
    np.testing.assert_allclose(one, alike)
    assert table["chance"].tolist() == ["films only", "films and seeds", "films and seeds"]
    rows = [each.query("part == 'test'") for each in apart]
    right = [(probabilities(r).argmax(axis=1) == r["label"]).mean() for r in rows]
    assert table.loc["apart", "value"] == pytest.approx(np.mean(right))
    width = table["high"] - table["low"]
    assert width["apart"] > 1.5 * width["same"]


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_chance_of_the_training_is_as_large_as_between_repeated_studies(k):
    # Many studies of k seeds each; every seed is worth a normal draw of variance 1. The mean of a
    # study has the variance 1 / k; the resamples must say so, and said (k - 1) / k of it before.
    worth = np.random.default_rng(0).normal(size=(2000, k))
    share = comparison._seed_shares(k, 4000, 0)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    assert worth.mean(axis=1).var() == pytest.approx(1 / k, rel=0.1)
    assert np.var(worth @ share.T, axis=1).mean() == pytest.approx(1 / k, rel=0.05)


def test_one_seed_has_no_chance_of_its_own():
    assert (comparison._seed_shares(1, 5, 0) == 1).all()


def test_balanced_accuracies_are_those_of_the_scoreboard(field):
    values, drawn = comparison.balanced_accuracies(field, "test", resamples=60, seed=1)
    board = scoreboard(field, "test", resamples=60, seed=1)["balanced_accuracy"]
    np.testing.assert_allclose(values, board["value"])
    np.testing.assert_allclose(drawn.quantile(0.025), board["low"])
    rows = field["LBP"].rows("test")[0]
    sklearn = balanced_accuracy_score(rows["label"], probabilities(rows).argmax(axis=1))
    assert values["LBP"] == pytest.approx(sklearn)


def test_a_difference_is_that_of_the_paired_bootstrap(field):
    values, drawn = comparison.balanced_accuracies(field, "test", resamples=500, seed=2)
    table = comparison.differences(values, drawn, "LBP")
    (a,), (b,) = (field[name].probabilities("test") for name in ("VGG16", "LBP"))
    known = films(field, "test")
    plain = paired_difference(known["label"], a, b, known["group"], resamples=500, seed=2)
    np.testing.assert_allclose(table.loc["VGG16", list(plain)].astype(float), list(plain.values()))
    assert "LBP" not in table.index
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))


# ---------------------------------------------------------------------------------------------
# Cost


def test_nobody_on_the_pareto_front_is_beaten():
    price, quality = [1, 2, 3, 3, 4, 1], [0.5, 0.7, 0.7, 0.9, 0.8, 0.5]
    assert comparison.pareto(price, quality).tolist() == [True, True, False, True, False, True]


def test_a_bill_is_what_the_runs_recorded_and_the_mean_of_their_seconds():
    facts = {"image_size": 64, "parameters": 10, "multiply_adds": 100}
    nothing = pd.DataFrame(), {}, pd.DataFrame()
    runs = [Run(Path(f"seed{s}"), facts | {"seconds": s}, *nothing) for s in (1.0, 3.0)]
    bill = {"pixels": 64, "parameters": 10, "multiply_adds": 100, "seconds": 2.0}
    assert comparison.bill({"vgg16": runs}).loc["vgg16"].to_dict() == bill
    uncounted = Run(Path("seed0"), facts | {"multiply_adds": None, "seconds": 1.0}, *nothing)
    with pytest.raises(RunError, match=r"seed0: expected multiply_adds in run\.json, found none"):
        comparison.bill({"vgg16": [uncounted]})


def test_a_fusion_that_began_from_its_members_pays_for_their_training():
    facts = {"image_size": 64, "parameters": 10, "multiply_adds": 100}
    nothing = pd.DataFrame(), {}, pd.DataFrame()
    members = ARCHITECTURES["late_fusion"].members
    runs = {name: [Run(Path(name), facts | {"seconds": 5.0}, *nothing)] for name in members}
    fused = Run(Path("f"), facts | {"seconds": 1.0, "weights": "members"}, *nothing)
    assert comparison.bill(runs | {"late_fusion": [fused]}).loc["late_fusion", "seconds"] == 11.0
    assert np.isnan(comparison.bill({"late_fusion": [fused]}).loc["late_fusion", "seconds"])
    fresh = Run(Path("f"), facts | {"seconds": 1.0, "weights": None}, *nothing)
    assert comparison.bill({"late_fusion": [fresh]}).loc["late_fusion", "seconds"] == 1.0


def test_an_ensemble_costs_the_sum_of_its_members_and_a_baseline_nothing(field):
    place = {name: i for i, name in enumerate(ARCHITECTURES, start=1)}
    one = {"parameters": 10.0, "multiply_adds": 100.0, "seconds": 1.0}
    prices = pd.DataFrame([pd.Series(one) * i for i in place.values()], index=list(place))
    found = comparison.costs(field, prices)
    assert found.loc["VGG16 + VGG19", "parameters"] == 10 * (place["vgg16"] + place["vgg19"])
    assert found.loc["Custom CNN, three seeds", "seconds"] == 3
    assert found.loc["All ten, majority", "multiply_adds"] == 5500
    assert not {"LBP", "HOG"} & set(found.index)


# ---------------------------------------------------------------------------------------------
# What the reference publishes


def test_published_rows_stand_beside_their_own_reports():
    found = comparison.read_published(SUMMARY, REPORTS)
    assert found.index.tolist() == PUBLISHED["model"].tolist()
    assert found["n"].unique().tolist() == [390]
    assert found.index[found["differs"] != ""].tolist() == ["MobileNetV2"]
    assert "accuracy 0.84, report 0.79" in found.loc["MobileNetV2", "differs"]
    resnet = found.loc["ResNet50"]
    assert resnet["balanced_accuracy"] == pytest.approx((0.35 + 0.92 + 0.55) / 3)
    assert resnet["lowest_recall"] == 0.35
    # 0.655 * 390 = 255.45 and 0.665 * 390 = 259.35; Wilson for 257 of 390 by the formula
    assert (resnet["least"], resnet["most"]) == (256, 259)
    k, n, z = 257, 390, 1.959964
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    centre = (k + z**2 / 2) / (n + z**2)
    assert (resnet["low"], resnet["high"]) == pytest.approx((centre - half, centre + half))


def test_a_published_row_without_a_report_is_refused(tmp_path):
    reports = pd.read_csv(REPORTS)
    (tmp_path / "r.csv").write_text(reports[reports["model"] != "VGG16"].to_csv(index=False))
    with pytest.raises(ValueError, match=r"missing \['VGG16'\]"):
        comparison.read_published(SUMMARY, tmp_path / "r.csv")
