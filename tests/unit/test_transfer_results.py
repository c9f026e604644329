"""The shipped results of transfer from ImageNet are those of the shipped answers."""

import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "data/reference"
sys.path.append(str(SHIPPED))
from transfer_results import SETTING, scored


@pytest.fixture(scope="module")
def films():
    return pd.read_csv(SHIPPED / "transfer_films.csv")


@pytest.fixture(scope="module")
def answers():
    return pd.read_csv(SHIPPED / "transfer_answers.csv", dtype={"answers": str})


def test_every_shipped_score_and_interval_is_that_of_the_shipped_answers(films, answers):
    shipped = pd.read_csv(SHIPPED / "transfer_results.csv")
    again = scored(films, answers)
    assert shipped[SETTING].equals(again[SETTING])
    for column in ("value", "low", "high"):
        assert shipped[column].to_numpy() == pytest.approx(again[column].to_numpy(), abs=1e-4)


def test_every_network_has_answered_every_film(films, answers):
    counts = films["films"].value_counts()
    assert (answers["answers"].str.len() == answers["films"].map(counts)).all()
    assert set("".join(answers["answers"])) <= set("012")


def test_simulated_films_are_the_test_part_of_the_reference_study(films):
    study = pd.read_csv(SHIPPED / "study/films.csv").query("part == 'test'")
    mine = films[films["films"] == "simulated"]
    for column in ("path", "label", "group"):
        assert mine[column].tolist() == study[column].tolist()


def test_a_score_is_the_mean_recall_over_draws_and_a_difference_is_paired():
    films = pd.DataFrame({"films": "toy", "label": [0, 1, 2, 2], "group": [0, 1, 2, 3]})
    rows = [("ImageNet", "0122"), ("ImageNet", "0112"), ("random", "0000")]
    answers = pd.DataFrame(rows, columns=["weights", "answers"])
    answers = answers.assign(films="toy", layer="last", patients=4)
    found = scored(films, answers).set_index("weights")["value"]
    # ImageNet: recalls 1, 1 and the mean of 1 and 1/2; random: 1, 0, 0
    assert found["ImageNet"] == pytest.approx((1 + 1 + 0.75) / 3)
    assert found["random"] == pytest.approx(1 / 3)
    assert found["difference"] == pytest.approx(found["ImageNet"] - found["random"])
