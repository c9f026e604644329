"""A soft vote of two members under the reader's hand: matrix and scores follow the weight."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import anywidget
import numpy as np
import numpy.typing as npt
import traitlets

from osteo_utils.ensembles import Aligned, aligned, choose_weights, soft_vote
from osteo_utils.evaluate import confusion
from osteo_utils.labels import CLASS_NAMES
from osteo_utils.runs import Run
from osteo_utils.widgets.base import css, esm

PARTS: Final = ("validation", "test")


class DecisionExplorer(anywidget.AnyWidget):
    """Slide the weight between the two members of a pair; all is recomputed in the browser.

    `runs` maps the name shown for each member to its run; `pairs` are pairs of these names, every
    pair if none are given. Raises `RunError` where the runs do not belong together.

    What is sent, once: the labels as bytes and the probabilities rounded to 32-bit floats, 12 bytes
    an image and member. The networks answer in 32-bit floats, so nothing of a run is lost; the
    browser adds in 64 bits as NumPy does, and its matrix is that of `matrix`, to the last film.
    """

    _esm = esm("decision_explorer")
    _css = css("decision_explorer")

    content = traitlets.Dict().tag(sync=True)  # names, pairs, sizes, weights from validation
    labels = traitlets.Bytes().tag(sync=True)  # uint8, one part after the other
    probabilities = traitlets.Bytes().tag(sync=True)  # little-endian float32: part, member, n, 3
    pair = traitlets.Int(0).tag(sync=True)  # index into content["pairs"]
    part = traitlets.Enum(PARTS, "validation").tag(sync=True)
    weight = traitlets.Float(0.5, min=0.0, max=1.0).tag(sync=True)  # of the pair's first member

    def __init__(
        self, runs: Mapping[str, Run], pairs: Sequence[tuple[str, str]] | None = None
    ) -> None:
        names = list(runs)
        chosen = list(combinations(names, 2)) if pairs is None else list(pairs)
        if not chosen or {name for pair in chosen for name in pair} - set(names):
            raise ValueError(f"pairs: expected one or more pairs of {names}, found {chosen}")
        parts = {part: aligned(list(runs.values()), part) for part in PARTS}
        sent = {part: np.asarray(each.members, dtype="<f4") for part, each in parts.items()}
        indices = [[names.index(a), names.index(b)] for a, b in chosen]
        self._parts = {part: (parts[part].labels, sent[part]) for part in PARTS}
        super().__init__(
            content=_content(names, indices, parts),
            labels=b"".join(parts[part].labels.astype(np.uint8).tobytes() for part in PARTS),
            probabilities=b"".join(sent[part].tobytes() for part in PARTS),
        )

    def matrix(self) -> npt.NDArray[np.int64]:
        """The confusion matrix that is on the screen, shape (3, 3): rows are true."""
        labels, members = self._parts[self.part]
        mixed = soft_vote(members[self.content["pairs"][self.pair]], [self.weight, 1 - self.weight])
        return confusion(labels, mixed.argmax(axis=1))


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
    }
