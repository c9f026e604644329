"""Heatmaps of any finished run, of example films or one of your own: computed as you choose.

Unlike its siblings this one needs a running kernel, because it runs the networks themselves.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, Final

import ipywidgets
import numpy as np

from osteo_utils import NOTICE, inference, overlay
from osteo_utils.data.novelty import REMARK
from osteo_utils.formats.pixels import Grey
from osteo_utils.inference import Answers, Member, open_member
from osteo_utils.overlay import COLOURS, SaliencyMap, figure_html
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import RunError, read_run

NETWORKS_KEPT: Final = 3
SIDE: Final = 300  # of the pictures, in pixels
OWN: Final = "your own film"
AS_PREDICTED: Final = -1


class LiveGradCam(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Choose run, film, class, method and layer; heatmap and probabilities follow.

    `runs` is searched for finished runs, in whatever sub-folders; `films` are the examples by
    title, uint8 (height, width), three phantoms if none are given. An upload stays in memory.
    Raises `RunError` if there is no finished run; all later trouble is told in a line of text.
    """

    def __init__(self, runs: Path | str, films: Mapping[str, Grey] | None = None) -> None:
        if not (folders := inference.find_runs(runs)):
            raise RunError(runs, "finished runs", "none", "Train a network first.")
        super().__init__()
        if films is None:
            examples = map(inference.example_film, inference.EXAMPLE_T_SCORES)
            films = {film.name: film.image for film in examples}
        self._films = dict(films)
        self._member = lru_cache(NETWORKS_KEPT)(lambda folder: open_member(read_run(folder)))
        self._answer = lru_cache(32)(self._predicted)
        self._map = lru_cache(32)(self._explained)
        self._quiet = False  # while one control sets another
        self._arrange([(folder.relative_to(runs).as_posix(), folder) for folder in folders])
        self._choose_run()

    def __repr__(self) -> str:
        return "LiveGradCam: needs a running kernel (Colab, JupyterLab, VS Code)"

    def _arrange(self, folders: list[tuple[str, Path]]) -> None:
        from osteo_utils.saliency.gradcam import METHODS, TITLES

        classes = [
            ("as predicted", AS_PREDICTED),
            *((name, i) for i, name in enumerate(CLASS_NAMES)),
        ]
        self.run = _dropdown("Run", folders)
        self.film = _dropdown("Film", list(self._films))
        self.upload = ipywidgets.FileUpload(description="Your own film", accept="image/*,.dcm")
        self.method = _dropdown("Method", [(TITLES[name], name) for name in METHODS])
        self.target = _dropdown("Class", classes)
        self.layer = _dropdown("Layer", [])
        self.opacity = _control(ipywidgets.BoundedIntText, "Opacity, %", value=50, max=100, step=10)
        self.colours = _dropdown("Colours", [(title, name) for name, title in COLOURS.items()])
        self.picture, self.text, self.status = (ipywidgets.HTML() for _ in range(3))
        chosen = (self.film, self.method, self.target, self.layer, self.opacity, self.colours)
        rows = ((self.run, self.film, self.upload), chosen[1:])
        layout = ipywidgets.Layout(flex_flow="row wrap")
        boxes = [ipywidgets.Box(row, layout=layout) for row in rows]
        notice = ipywidgets.HTML(f"<p>{NOTICE}</p>")
        self.children = (*boxes, self.status, self.picture, self.text, notice)
        self.run.observe(self._choose_run, "value")
        self.upload.observe(self._take_upload, "value")
        for control in chosen:
            control.observe(self._show, "value")

    def _choose_run(self, _: object = None) -> None:
        """Offer the layers of the chosen network, the usual ones first, and show its answer."""
        with self._telling("Loading the network ...", self.picture, self.text):
            layers = _layer_choices(self._member(self.run.value))
            with self._silently():
                self.layer.options, self.layer.index = layers, 0 if layers else None
        if not self.status.value:
            self._show()

    def _take_upload(self, _: object = None) -> None:
        """Decode what was uploaded, in memory; its name is told in an error and is never a path."""
        if not self.upload.value:
            return
        with self._telling("Reading the film ..."):
            name, content = _uploaded(self.upload.value)
            self._films[OWN] = inference.uploaded_film(content, name).image
            self._answer.cache_clear()  # they may know an earlier upload
            self._map.cache_clear()
            with self._silently():
                self.film.options, self.film.value = list(self._films), OWN
        if not self.status.value:
            self._show()

    def _show(self, _: object = None) -> None:
        """Draw and say all anew for what is chosen."""
        if self._quiet:
            return
        folder, title = self.run.value, self.film.value
        with self._telling("Asking the network ...", self.picture, self.text):
            member, said = self._member(folder), self._answer(folder, title)
            self.text.value = _answer_html(member, said)
        if self.status.value:
            return
        with self._telling("Computing the map ...", self.picture):
            called = int(said.probabilities[0].argmax())
            target = called if self.target.value == AS_PREDICTED else self.target.value
            found = self._map(folder, title, self.method.value, target, self.layer.value)
            self._draw(target, found)

    def _predicted(self, folder: Path, film: str) -> Answers:
        return inference.answer([self._member(folder)], [self._films[film]])

    def _explained(
        self, folder: Path, film: str, method: str, target: int, layer: str | None
    ) -> SaliencyMap:
        from osteo_utils.saliency.gradcam import PIXEL_METHODS

        layer = None if method in PIXEL_METHODS else layer
        maps = inference.explain(self._member(folder), [self._films[film]], method, target, layer)
        return next(iter(maps.values()))[0]

    def _draw(self, target: int, found: SaliencyMap) -> None:
        """The film and the film under the map, each with a text that says what is seen."""
        title, film = self.film.value, self._films[self.film.value]
        what = f"{self.method.label} for {CLASS_NAMES[target]}, in raw units"
        how = (self.colours.value, self.opacity.value / 100, SIDE)
        if (drawn := overlay.picture_of_map(film, title, what, found, *how)) is None:
            raise overlay.flat_map(found, self.method.label, CLASS_NAMES[target])
        figures = figure_html(overlay.picture_of_film(film, title, SIDE)) + figure_html(drawn)
        layout = "display: flex; flex-wrap: wrap; gap: 0.6rem"
        self.picture.value = f'<div style="{layout}">{figures}</div>'

    @contextmanager
    def _telling(self, work: str, *outdated: ipywidgets.HTML) -> Iterator[None]:
        """Say what is being done; where it fails say why, and empty what would then be outdated."""
        self.status.value = f'<p role="status">{work}</p>'
        try:
            yield
        except ValueError as error:  # a CourseError or Keras's own: a line for the reader
            self.status.value = f'<p role="alert"><strong>{escape(str(error))}</strong></p>'
            for shown in outdated:
                shown.value = ""
        else:
            self.status.value = ""

    @contextmanager
    def _silently(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False


def _layer_choices(member: Member) -> list[tuple[str, str]]:
    """Titles and names: where each branch is usually looked at, then all others, last first."""
    from osteo_utils.saliency.gradcam import layer_candidates

    usual = [name for name in member.layers.values() if name]
    others = [name for name in reversed(layer_candidates(member.network)) if name not in usual]
    return [*((f"{name} (usual)", name) for name in usual), *((name, name) for name in others)]


def _uploaded(value: Any) -> tuple[str, bytes]:  # noqa: ANN401  (ipywidgets has no types)
    """Name and content of the latest file of an upload.

    `FileUpload.value` is a tuple of dicts in ipywidgets 8; in 7, which Colab has, it is a dict of
    dicts by name.
    """
    if isinstance(value, dict):
        name, file = list(value.items())[-1]
        return str(name), bytes(file["content"])
    return str(value[-1]["name"]), bytes(value[-1]["content"])


def _answer_html(member: Member, said: Answers) -> str:
    """Probabilities by name, the largest first, and what makes them doubtful."""
    p = said.probabilities[0]
    order = np.argsort(-p)
    items = "".join(f"<li>{CLASS_NAMES[i]}: {p[i]:.2f}</li>" for i in order)
    remark = f"<p><strong>{REMARK}</strong></p>" if said.unlike[0] else ""
    note = f'<p role="note">{escape(member.note)}</p>' if member.note else ""
    return f"<p>Called <strong>{CLASS_NAMES[order[0]]}</strong></p><ul>{items}</ul>{remark}{note}"


def _dropdown(title: str, options: list[Any]) -> Any:  # noqa: ANN401  (ipywidgets has no types)
    return _control(ipywidgets.Dropdown, title, options=options)


def _control(kind: Any, title: str, **options: Any) -> Any:  # noqa: ANN401
    layout = ipywidgets.Layout(width="20rem", max_width="100%")
    return kind(description=title, layout=layout, **options)
