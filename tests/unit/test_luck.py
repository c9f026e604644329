"""The trainings behind the chapter on luck: who trains, who validates and who is tested."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[2] / "book"))
from luck import FOLDS, POOL, Training, parts_of, trainings

PATIENTS = pd.Series([f"p{number}" for number in range(2128) for _ in range(2)])  # two knees each


def test_every_patient_of_the_pool_is_tested_in_one_fold_and_validates_in_another():
    folds = [parts_of(Training("split", "vgg16", 0, fold, 384), PATIENTS) for fold in range(FOLDS)]
    table = np.stack(folds)
    pool = table[:, : 2 * POOL]
    for part, times in (("test", 1), ("validation", 1), ("train", FOLDS - 2)):
        assert ((pool == part).sum(axis=0) == times).all()
    assert (table[:, 2 * POOL :] == "").all()


def test_more_patients_train_and_the_others_stay():
    few, many = (parts_of(Training("patients", "vgg16", 0, 0, n), PATIENTS) for n in (100, 1600))
    assert few.value_counts().to_dict() == {"": 3000, "test": 800, "validation": 256, "train": 200}
    assert (many != "").all()
    held = few.isin(["test", "validation"])
    assert (few[held] == many[held]).all()
    assert set(few.index[few == "train"]) < set(many.index[many == "train"])


def test_both_knees_of_a_patient_are_in_one_part_of_every_training():
    for training in trainings():
        assert parts_of(training, PATIENTS).groupby(PATIENTS).nunique().eq(1).all()
    assert len({(t.name, t.model, t.seed) for t in trainings()}) == len(trainings())
