"""Heatmaps of any finished run, of example films or one of your own: computed as you choose.

Unlike its siblings this one needs a running kernel, because it runs the networks themselves.
"""

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import ipywidgets
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from osteo_utils.data.images import Grey, decode, fit_square
from osteo_utils.data.novelty import FILE, REMARK, Novelty, load_novelty
from osteo_utils.errors import ImageError
from osteo_utils.networks.saved import load_model
from osteo_utils.phantom import simulate_knee
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import RunError, read_run
from osteo_utils.widgets.cam_explorer import COLOURS, SIGNED_COLOURS

if TYPE_CHECKING:
    import keras

Maps = npt.NDArray[np.float32]

MAX_UPLOAD_BYTES: Final = 50_000_000
NETWORKS_KEPT: Final = 3
SIDE: Final = 300  # of the pictures, in pixels
NOTICE: Final = "For learning and research only: not a medical device."
OWN: Final = "your own film"
AS_CALLED: Final = -1
EXAMPLE_T_SCORES: Final = (0.4, -1.7, -3.8)


class Network(NamedTuple):
    """A trained model with what its run says about it; `novelty` where the run has one."""

    name: str
    size: int
    model: "keras.Model"
    novelty: Novelty | None


class LiveGradCam(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Choose run, film, class, method and layer; heatmap and probabilities follow.

    `runs` is searched for finished runs, in whatever sub-folders; `films` are the examples by
    title, uint8 (height, width), three phantoms if none are given. An upload stays in memory.
    Raises `RunError` if there is no finished run; all later trouble is told in a line of text.
    """

    def __init__(self, runs: Path | str, films: Mapping[str, Grey] | None = None) -> None:
        folders = sorted(file.parent for file in Path(runs).rglob("run.json"))
        if not folders:
            raise RunError(f"{runs}: expected finished runs, found none; run chapter 06 first")
        super().__init__()
        self._films = dict(_phantoms() if films is None else films)
        self._network = lru_cache(NETWORKS_KEPT)(_load)
        self._answer = lru_cache(32)(self._predicted)
        self._map = lru_cache(32)(self._explained)
        self._quiet = False  # while one control sets another
        self._arrange([(folder.relative_to(runs).as_posix(), folder) for folder in folders])
        self._choose_run()

    def __repr__(self) -> str:
        return "LiveGradCam: needs a running kernel (Colab, JupyterLab, VS Code)"

    def _arrange(self, folders: list[tuple[str, Path]]) -> None:
        from osteo_utils.saliency.gradcam import METHODS, TITLES

        classes = [("as called", AS_CALLED), *((name, i) for i, name in enumerate(CLASS_NAMES))]
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
            layers = _layers(self._network(self.run.value))
            with self._silently():
                self.layer.options, self.layer.value = layers, layers[0][1]
        if not self.status.value:
            self._show()

    def _take_upload(self, _: object = None) -> None:
        """Decode what was uploaded, in memory; its name is told in an error and is never a path."""
        if not self.upload.value:
            return
        with self._telling("Reading the film ..."):
            name, content = _uploaded(self.upload.value)
            self._films[OWN] = _decoded(content, name[-60:])
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
            network, p = self._network(folder), self._answer(folder, title)
            self.text.value = _told(network, self._films[title], p)
        if self.status.value:
            return
        with self._telling("Computing the map ...", self.picture):
            target = int(p.argmax()) if self.target.value == AS_CALLED else self.target.value
            cam = self._map(folder, title, self.method.value, target, self.layer.value)
            self._draw(network, target, cam)

    def _pixels(self, folder: Path, film: str) -> Grey:
        return fit_square(self._films[film], self._network(folder).size)[None, ..., None]

    def _predicted(self, folder: Path, film: str) -> npt.NDArray[np.float32]:
        """Probabilities (3,) that the network gives to a film."""
        x, model = self._pixels(folder, film), self._network(folder).model
        # Not predict, which would compile each network first.
        p: npt.NDArray[np.float32] = np.asarray(model(x, training=False))[0]
        return p

    def _explained(self, folder: Path, film: str, method: str, target: int, layer: str) -> Maps:
        """The raw map (h, w) of a film; `CamError` if it is flat."""
        from osteo_utils.saliency.gradcam import METHODS, PIXEL_METHODS

        x, model = self._pixels(folder, film), self._network(folder).model
        place = {} if method in PIXEL_METHODS else {"layer": layer}
        return np.asarray(METHODS[method](model, x, target=target, **place)[0])

    def _draw(self, network: Network, target: int, cam: Maps) -> None:
        """The film and the film under the map, each with a text that says what is seen."""
        from osteo_utils.saliency.gradcam import peak

        film, title = fit_square(self._films[self.film.value], SIDE), self.film.value
        mixed = overlay(film, cam, self.colours.value, self.opacity.value / 100)
        row, column = peak(cam)
        what = f"{self.method.label} for {CLASS_NAMES[target]}"
        caption = f"{what}, from {min(0, cam.min()):.2g} to {cam.max():.2g} (raw units)"
        alt = (
            f"{what}, {network.name}, over {title}: strongest in row {row + 1} of "
            f"{cam.shape[0]} and column {column + 1} of {cam.shape[1]}"
        )
        plain = _figure(film, f"The film without a map: {title}", "The film")
        self.picture.value = plain + _figure(mixed, alt, caption)

    @contextmanager
    def _telling(self, work: str, *outdated: ipywidgets.HTML) -> Iterator[None]:
        """Say what is being done; where it fails say why, and empty what would then be outdated."""
        self.status.value = f'<p role="status">{work}</p>'
        try:
            yield
        except ValueError as error:  # ImageError, CamError, RunError: each a line for the reader
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


def overlay(film: Grey, cam: Maps, colours: str, opacity: float) -> npt.NDArray[np.uint8]:
    """The map laid over a square film, uint8 (size, size, 3): its own scale, 0 to the largest.

    A map with negative values is drawn around 0, in colours that part there.
    """
    from osteo_utils.saliency.gradcam import resized

    top, signed = float(np.abs(cam).max()), bool(cam.min() < 0)
    share = resized(cam[None], len(film))[0] / top
    table = colormaps[SIGNED_COLOURS if signed else colours]
    colour = table((share + 1) / 2 if signed else share)[..., :3] * 255
    mixed = colour * opacity + film[..., None] * (1 - opacity)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _load(folder: Path) -> Network:
    run = read_run(folder)
    novelty = load_novelty(folder) if (folder / FILE).exists() else None
    return Network(run.info["model"], int(run.info["image_size"]), load_model(run), novelty)


def _layers(network: Network) -> list[tuple[str, str]]:
    """Titles and names: where each branch is usually looked at, then all others, last first."""
    from osteo_utils.registry import last_conv_layers
    from osteo_utils.saliency.gradcam import layer_candidates

    usual = list(last_conv_layers(network.name, network.size).values())
    others = [name for name in reversed(layer_candidates(network.model)) if name not in usual]
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


def _decoded(data: bytes, name: str) -> Grey:
    if len(data) > MAX_UPLOAD_BYTES:
        expected, found = f"at most {MAX_UPLOAD_BYTES:,} bytes", f"{len(data):,}"
        raise ImageError(name, expected, found, "Export it smaller.")
    return decode(data, name)


def _phantoms() -> dict[str, Grey]:
    return {
        f"phantom, T-score {t}": simulate_knee(t, np.random.default_rng(3), 256).image
        for t in EXAMPLE_T_SCORES
    }


def _told(network: Network, film: Grey, p: npt.NDArray[np.float32]) -> str:
    """Probabilities by name, the largest first, and the remark if the film is of another kind."""
    order = np.argsort(-p)
    items = "".join(f"<li>{CLASS_NAMES[i]}: {p[i]:.2f}</li>" for i in order)
    seen = fit_square(film, network.size)
    new = network.novelty is not None and bool(network.novelty.is_new([seen])[0])
    remark = f"<p><strong>{REMARK}</strong></p>" if new else ""
    return f"<p>Called <strong>{CLASS_NAMES[order[0]]}</strong></p><ul>{items}</ul>{remark}"


def _figure(pixels: npt.NDArray[np.uint8], alt: str, caption: str) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "webp", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        '<figure style="display: inline-block; margin: 0.3rem; max-width: 100%">'
        f'<img src="data:image/webp;base64,{data}" alt="{escape(alt)}" width="{SIDE}" '
        f'style="max-width: 100%; height: auto"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _dropdown(title: str, options: list[Any]) -> Any:  # noqa: ANN401  (ipywidgets has no types)
    return _control(ipywidgets.Dropdown, title, options=options)


def _control(kind: Any, title: str, **options: Any) -> Any:  # noqa: ANN401
    layout = ipywidgets.Layout(width="20rem", max_width="100%")
    return kind(description=title, layout=layout, **options)
