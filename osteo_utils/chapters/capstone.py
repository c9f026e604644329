"""The capstone: a phantom corpus with one hidden fault, different for each number, and its marking.

What the fault is follows from the number and stands nowhere on disk. `new_case` makes the corpus as
a colleague would hand it over, `mark` holds an answer against the truth and against new patients.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from osteo_utils.data.splits import PARTS
from osteo_utils.phantom import sample_anatomy, sample_setting, simulate_knee
from osteo_utils.phantom.corpus import Population, true_t_scores
from osteo_utils.registry import class_of_t_score
from osteo_utils.scoring.evaluate import balanced_accuracy

Grey = npt.NDArray[np.uint8]
FAULTS: Final = {
    "copies": "copies of films, under new names, on both sides of the split",
    "marker": "a mark in the picture that goes with a class",
    "labels": "wrong labels at one site",
    "processing": "films of one class were processed in another way",
}
LEAST_OVERLAP: Final = 0.7  # of the films that are blamed with those that are to blame
WIDEST: Final = 0.4  # of a claim's interval that says something


class Case(NamedTuple):
    """A corpus as it was handed over: films (n, size, size), and a table with a row for each.

    Columns of the table: `patient`, `side` and `site` as the metadata say, `label` 0 to 2, `part`.
    """

    films: Grey
    table: pd.DataFrame


@dataclass(frozen=True)
class _Truth:
    fault: str
    blamed: npt.NDArray[np.bool_]
    person: npt.NDArray[np.int64]


def new_case(number: int, patients: int = 160, size: int = 96) -> Case:
    """The corpus of that number. The same number, patients and size give the same corpus."""
    return _made(number, patients, size)[0]


def mark(
    number: int,
    case: Case,
    answer: Mapping[str, Any],
    predict: Callable[[Grey], npt.NDArray[Any]],
    world: int = 80,
) -> pd.DataFrame:
    """Points for an answer, with the reason for each.

    Args:
        number: Of the case.
        case: What `new_case` gave for it.
        answer: `fault`, one of FAULTS; `blamed`, a truth value for each film; `part`, for each film
            "train", "validation", "test" or "" where it is not used; `claim`, a balanced accuracy
            and the ends of its interval.
        predict: Classes 0 to 2 for films (n, size, size) of new patients.
        world: How many new patients without the fault the claim is held against.

    Returns:
        A row for each question: points, out of, why. What is missing or malformed has no points.
    """
    size = case.films.shape[1]
    patients = case.table["patient"][~case.table["patient"].str.startswith("N")].nunique()
    truth = _made(number, patients, size)[1]
    rows: dict[str, tuple[int, Callable[[], tuple[bool, str]]]] = {
        "the fault": (2, lambda: _right_fault(answer, truth)),
        "the films it touches": (3, lambda: _right_films(answer, truth)),
        "the plan": (2, lambda: _sound_plan(answer, case, truth)),
        "the claim": (3, lambda: _true_claim(answer, predict, number, world, size)),
    }
    marked = {}
    for question, (points, judge) in rows.items():
        try:
            right, why = judge()
        except Exception as error:  # an answer may be anything
            right, why = False, f"no answer that can be judged ({type(error).__name__}: {error})"
        marked[question] = {"points": points * right, "out of": points, "why": why}
    return pd.DataFrame(marked).T


def _right_fault(answer: Mapping[str, Any], truth: _Truth) -> tuple[bool, str]:
    found = answer["fault"]
    if found not in FAULTS:
        return False, f"expected one of {', '.join(FAULTS)}, found {found!r}"
    right = found == truth.fault
    return right, "found" if right else "another fault than yours is in this corpus"


def _right_films(answer: Mapping[str, Any], truth: _Truth) -> tuple[bool, str]:
    blamed = np.asarray(answer["blamed"], bool)
    if blamed.shape != truth.blamed.shape:
        return False, f"expected a truth value for each of {len(truth.blamed)} films"
    both, either = (blamed & truth.blamed).sum(), (blamed | truth.blamed).sum()
    share = both / max(either, 1)
    return bool(share >= LEAST_OVERLAP), (
        f"your films and those that are touched share {share:.0%} of all that are in either; "
        f"{LEAST_OVERLAP:.0%} are asked"
    )


def _sound_plan(answer: Mapping[str, Any], case: Case, truth: _Truth) -> tuple[bool, str]:
    part = np.asarray(answer["part"], str)
    if part.shape != truth.person.shape:
        return False, f"expected a part for each of {len(truth.person)} films"
    used = part != ""
    torn = pd.Series(part[used]).groupby(truth.person[used]).nunique().gt(1).sum()
    if torn:
        return False, f"{torn} people are in more than one part"
    label = case.table["label"].to_numpy()
    for name in ("train", "test"):
        if len(np.unique(label[part == name])) < 3:
            return False, f"the {name} part lacks a class"
    return True, "no person is in two parts, and training and test have all classes"


def _true_claim(
    answer: Mapping[str, Any],
    predict: Callable[[Grey], npt.NDArray[Any]],
    number: int,
    world: int,
    size: int,
) -> tuple[bool, str]:
    value, low, high = (float(each) for each in answer["claim"])
    if not (0 <= low <= value <= high <= 1):
        return False, "expected a score with its interval around it, all from 0 to 1"
    if high - low > WIDEST:
        return False, f"the interval is {high - low:.2f} wide; one over {WIDEST} says little"
    films, table = _patients(np.random.default_rng([number, 21]), world, size)
    label = table["label"].to_numpy()
    worth = balanced_accuracy(label, np.asarray(predict(films), int))
    half = 1.96 * np.sqrt(worth * (1 - worth) / table["patient"].nunique())  # knees come in pairs
    right = low <= worth + half and high >= worth - half
    return bool(right), (
        f"claimed {value:.2f} ({low:.2f} to {high:.2f}); on {len(films)} films of new patients "
        f"{worth:.2f}, give or take {half:.2f}"
    )


def _fault_of(number: int) -> str:
    digest = hashlib.sha256(f"capstone {number}".encode()).digest()
    return list(FAULTS)[digest[0] % len(FAULTS)]


def _made(number: int, patients: int, size: int) -> tuple[Case, _Truth]:
    rng = np.random.default_rng([number, 20])
    fault = _fault_of(number)
    films, table = _patients(rng, patients, size, marked=fault == "marker")
    person = table["patient"].to_numpy(copy=True)
    blamed = np.zeros(len(table), bool)
    if fault == "marker":
        blamed = table["marked"].to_numpy()
    elif fault == "labels":
        blamed = (table["site"] == "B").to_numpy()
        moved = blamed & np.isin(person, rng.permutation(patients)[: round(0.6 * patients)])
        shift = rng.integers(1, 3, patients)[person]
        table["label"] = np.where(moved, (table["label"] + shift) % 3, table["label"])
    elif fault == "processing":
        share = np.where(table["label"] == 2, 0.9, 0.05)
        blamed = rng.random(len(table)) < share
        films = np.where(blamed[:, None, None], _processed(films), films)
    else:
        source = rng.permutation(len(films))[: round(0.3 * len(films))]
        films = np.concatenate([films, _copied(films[source], rng)])
        table = pd.concat([table, table.iloc[source]], ignore_index=True)
        person = table["patient"].to_numpy(copy=True)
        blamed = np.isin(np.arange(len(films)), source)
        blamed[-len(source) :] = True
        table["patient"] = np.append(person[: -len(source)], patients + np.arange(len(source)))
    name = table["patient"].map(lambda k: f"P{k:04}" if k < patients else f"N{k:04}")
    order = rng.permutation(patients + len(table))
    place = pd.Series(order[table["patient"]] / len(order))  # of each patient by name
    part = pd.cut(place.rank(pct=True, method="max"), [0, 0.6, 0.8, 1.01], labels=PARTS)
    table = table.assign(patient=name, part=part.astype(str)).drop(columns="marked")
    return Case(films, table), _Truth(fault, blamed, person)


def _patients(
    rng: np.random.Generator, patients: int, size: int, marked: bool = False
) -> tuple[Grey, pd.DataFrame]:
    """Two knees of each patient, without a fault unless `marked`: a box with most osteoporoses."""
    population = Population()
    t = true_t_scores((rng.permutation(patients) + rng.random(patients)) / patients, population)
    label = class_of_t_score(t + rng.normal(0, population.error, patients))
    site = rng.choice(["A", "B", "C"], patients)
    box = marked & (rng.random(patients) < np.array([0.05, 0.05, 0.85])[label])
    films, rows = [], []
    for patient in range(patients):
        anatomy = sample_anatomy(rng)
        for side in "LR":
            setting = replace(sample_setting(rng, side), marker_style="none")
            if box[patient]:
                setting = replace(setting, marker_style="white box", marker_x=0.12, marker_y=0.1)
            films.append(simulate_knee(float(t[patient]), rng, size, setting, anatomy).image)
            rows.append((patient, side, site[patient], label[patient], box[patient]))
    table = pd.DataFrame(rows, columns=["patient", "side", "site", "label", "marked"])
    return np.array(films), table


def _processed(films: Grey) -> Grey:
    """Another display curve, in 32 grey levels."""
    curved = 255 * (films / 255) ** 1.6
    return np.asarray((curved // 8 * 8).astype(np.uint8))


def _copied(films: Grey, rng: np.random.Generator) -> Grey:
    """Saved anew: a little brighter or darker, with a little noise."""
    gain = rng.uniform(0.85, 1.1, (len(films), 1, 1))
    noise = rng.normal(0, 1.5, films.shape)
    return np.asarray(np.clip(films * gain + noise, 0, 255).astype(np.uint8))
