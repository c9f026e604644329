"""From probabilities to answers under the reader's hand: vote, thresholds and costs."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import anywidget
import numpy as np
import numpy.typing as npt
import traitlets

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import Run
from osteo_utils.scoring.ensembles import Aligned, Floats, Ints, aligned, choose_weights, soft_vote
from osteo_utils.scoring.evaluate import ORDINAL_COST, confusion
from osteo_utils.widgets.base import css, esm

PARTS: Final = ("validation", "test")
RULES: Final = ("largest", "thresholds", "costs")
PRICE_LISTS: Final = (  # rows true, columns called
    ("distance of the classes", ORDINAL_COST),
    ("distance squared", ((0, 1, 4), (1, 0, 1), (4, 1, 0))),
    ("every error 1", ((0, 1, 1), (1, 0, 1), (1, 1, 0))),
    ("missed Osteoporosis 5", ((0, 1, 1), (1, 0, 1), (5, 5, 0))),
)


class DecisionExplorer(anywidget.AnyWidget):
    """Slide the weight of a vote of two members; choose the rule by which it answers.

    `runs` maps the name shown for each member to its run; `pairs` are pairs of these names, or
    single names in a tuple; every pair if none are given. Raises `RunError` where the runs do not
    belong together. The rules, `rule`:

    - "largest": the most probable class;
    - "thresholds": Osteoporosis if its probability is at least `threshold_osteoporosis`; otherwise
      Osteopenia if that of Osteopenia or worse is at least `threshold_worse`; otherwise Normal;
    - "costs": the class with the lowest expected cost under `costs`, rows true, columns called.

    Intervals are over groups (patients), by `evaluate.design_effect` and `evaluate.wilson`.

    What is sent, once: the labels as bytes, the number of each image's group in 2 bytes, and the
    probabilities rounded to 32-bit floats, 12 bytes an image and member. The networks answer in
    32-bit floats, so nothing of a run is lost; the browser adds in 64 bits as NumPy does, and its
    matrix is that of `matrix`, to the last film.
    """

    _esm = esm("decision_explorer")
    _css = css("decision_explorer")

    content = traitlets.Dict().tag(sync=True)  # names, pairs, sizes, weights from validation
    labels = traitlets.Bytes().tag(sync=True)  # uint8, one part after the other
    groups = traitlets.Bytes().tag(sync=True)  # little-endian uint16, as the labels
    probabilities = traitlets.Bytes().tag(sync=True)  # little-endian float32: part, member, n, 3
    pair = traitlets.Int(0).tag(sync=True)  # index into content["pairs"]
    part = traitlets.Enum(PARTS, "validation").tag(sync=True)
    weight = traitlets.Float(0.5, min=0.0, max=1.0).tag(sync=True)  # of the pair's first member
    rule = traitlets.Enum(RULES, "largest").tag(sync=True)
    threshold_worse = traitlets.Float(0.5, min=0.0, max=1.0).tag(sync=True)
    threshold_osteoporosis = traitlets.Float(0.5, min=0.0, max=1.0).tag(sync=True)
    costs = traitlets.List([list(row) for row in ORDINAL_COST]).tag(sync=True)

    def __init__(
        self, runs: Mapping[str, Run], pairs: Sequence[Sequence[str]] | None = None
    ) -> None:
        names = list(runs)
        chosen = list(combinations(names, 2)) if pairs is None else list(pairs)
        if not chosen or not all(len(pair) in (1, 2) and {*pair} <= {*names} for pair in chosen):
            raise ValueError(f"pairs: expected one or two names each of {names}, found {chosen}")
        parts = {part: aligned(list(runs.values()), part) for part in PARTS}
        sent = {part: np.asarray(each.members, dtype="<f4") for part, each in parts.items()}
        indices = [[names.index(name) for name in pair] for pair in chosen]
        self._parts = {part: (parts[part].labels, sent[part]) for part in PARTS}
        super().__init__(
            content=_content(names, indices, parts),
            labels=b"".join(parts[part].labels.astype(np.uint8).tobytes() for part in PARTS),
            groups=b"".join(_numbered(parts[part].groups).tobytes() for part in PARTS),
            probabilities=b"".join(sent[part].tobytes() for part in PARTS),
        )

    @traitlets.validate("costs")
    def _three_by_three(self, proposal: Any) -> list[list[float]]:  # noqa: ANN401
        costs = [list(row) for row in proposal["value"]]
        cells = [cell for row in costs for cell in row]
        if [len(row) for row in costs] != [3] * 3 or not all(0 <= c < math.inf for c in cells):
            raise traitlets.TraitError(
                f"costs: expected three rows of three numbers, 0 or more, found {costs}"
            )
        return costs

    def called(self) -> Ints:
        """The class index of each film of the present part, by the present rule, shape (n,)."""
        pair = self.content["pairs"][self.pair]
        weights = [self.weight, 1 - self.weight] if len(pair) == 2 else [1.0]
        p = soft_vote(self._parts[self.part][1][pair], weights)
        if self.rule == "thresholds":
            worse = p[:, 1] + p[:, 2] >= self.threshold_worse
            return np.where(p[:, 2] >= self.threshold_osteoporosis, 2, worse.astype(np.int64))
        if self.rule == "costs":
            p = -_expected_costs(p, self.costs)
        return np.asarray(p.argmax(axis=1), np.int64)

    def matrix(self) -> npt.NDArray[np.int64]:
        """The confusion matrix that is on the screen, shape (3, 3): rows are true."""
        return confusion(self._parts[self.part][0], self.called())


def _expected_costs(p: Floats, costs: Sequence[Sequence[float]]) -> Floats:
    """Of each answer to each film, shape (n, 3); added in the order of the browser, for equals."""
    return np.asarray(sum(p[:, [true]] * np.asarray(row) for true, row in enumerate(costs)))


def _numbered(groups: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """The number of each image's group, (n,)."""
    names, number = np.unique(groups, return_inverse=True)
    if len(names) > np.iinfo(np.uint16).max:
        raise ValueError(f"groups: expected at most 65,535 in a part, found {len(names):,}")
    return number.astype("<u2")


def _content(
    names: list[str], pairs: list[list[int]], parts: Mapping[str, Aligned]
) -> dict[str, Any]:
    known = parts["validation"]
    chosen = [
        float(choose_weights(known.labels, [known.members[i] for i in pair])[0]) for pair in pairs
    ]
    return {
        "classes": list(CLASS_NAMES),
        "members": names,
        "pairs": pairs,
        "chosen": chosen,
        "parts": list(parts),
        "sizes": [len(each.labels) for each in parts.values()],
        "price_lists": [[name, [list(row) for row in costs]] for name, costs in PRICE_LISTS],
    }
