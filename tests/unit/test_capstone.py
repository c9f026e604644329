"""The capstone: every number has one fault, and a right answer has all points."""

import numpy as np
import pytest

from osteo_utils.chapters import capstone

NUMBERS = {"copies": 7, "labels": 1, "marker": 11, "processing": 13}  # one of each fault
PATIENTS, SIZE = 40, 32


def right_answer(number):
    case, truth = capstone._made(number, PATIENTS, SIZE)
    part = np.array(["train", "validation", "test"])[np.array([0, 0, 1, 2])[truth.person % 4]]
    answer = {"fault": truth.fault, "blamed": truth.blamed, "part": part}
    return case, answer | {"claim": (0.34, 0.2, 0.5)}


def always_normal(films):
    return np.zeros(len(films), int)  # a balanced accuracy of a third


@pytest.mark.parametrize(("fault", "number"), NUMBERS.items())
def test_a_right_answer_has_all_points(fault, number):
    case, answer = right_answer(number)
    marks = capstone.mark(number, case, answer, always_normal, world=20)
    assert answer["fault"] == fault
    assert marks["points"].tolist() == marks["out of"].tolist() == [2, 3, 2, 3], marks["why"]


@pytest.mark.parametrize("number", NUMBERS.values())
def test_the_split_that_is_handed_over_keeps_names_together(number):
    table = capstone.new_case(number, PATIENTS, SIZE).table
    assert (table.groupby("patient")["part"].nunique() == 1).all()
    assert set(table["part"]) == {"train", "validation", "test"}


def test_the_same_number_is_the_same_corpus_and_another_is_not():
    one, again, other = (capstone.new_case(n, 12, SIZE) for n in (7, 7, 9))
    assert (one.films == again.films).all()
    assert one.table.equals(again.table)
    assert one.films.shape != other.films.shape or (one.films != other.films).any()


def test_a_wrong_answer_is_told_why():
    case, answer = right_answer(7)
    wrong = answer | {"fault": "labels", "blamed": ~answer["blamed"], "claim": (0.9, 0.85, 0.95)}
    wrong["part"] = np.resize(["train", "test"], len(case.films))
    marks = capstone.mark(7, case, wrong, always_normal, world=20)
    assert marks["points"].sum() == 0
    assert "people are in more than one part" in marks["why"]["the plan"]
    assert "0.33, give or take" in marks["why"]["the claim"]


def test_an_empty_answer_has_no_points_and_no_error():
    case = capstone.new_case(7, 12, SIZE)
    nothing = dict.fromkeys(("fault", "blamed", "part", "claim"))
    marks = capstone.mark(7, case, nothing, None)
    assert marks["points"].sum() == 0
    assert all(marks["why"])


def test_an_interval_that_says_nothing_is_no_claim():
    case, answer = right_answer(7)
    marks = capstone.mark(7, case, answer | {"claim": (0.5, 0.1, 0.9)}, always_normal, world=20)
    assert marks["points"]["the claim"] == 0
