"""From a film to an answer and its maps: what command line, app, live widget and export share.

A member is a finished run with its network in memory. Films are grey images, uint8 (height, width),
in whatever size they came; a member sees them on a black square in its own size. Importing this
module loads no Keras; opening a member does.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from osteo_utils.data.images import fit_square
from osteo_utils.data.novelty import FILE, Novelty, load_novelty
from osteo_utils.errors import ImageError
from osteo_utils.formats.films import ImageFacts, examine, read_bytes
from osteo_utils.formats.pixels import Grey
from osteo_utils.networks.saved import load_with_note
from osteo_utils.overlay import SaliencyMap, saliency_map
from osteo_utils.phantom import simulate_knee
from osteo_utils.registry import get_architecture
from osteo_utils.runs import Run, RunError
from osteo_utils.scoring.ensembles import soft_vote

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.float64]
Target = int | Sequence[int]

MAX_UPLOAD_BYTES: Final = 50_000_000  # also in interface/.streamlit/config.toml and try_it.js
MAX_FOLDERS: Final = 10_000  # that are looked through for runs
NAME_SHOWN: Final = 60  # characters of the name of an upload
EXAMPLE_T_SCORES: Final = (0.4, -1.7, -3.8)
EXAMPLE_SIDE: Final = 384  # pixels of an example film
_BATCH: Final = 32  # films that go through a network at a time
_QUIET: Final = Lock()  # the filters of warnings belong to the whole process


# ---------------------------------------------------------------------------------------------
# Films


class Film(NamedTuple):
    """A radiograph in memory."""

    name: str  # to be shown; of a file on disk its path
    image: Grey  # (height, width), native size
    facts: ImageFacts
    size: int  # bytes of the file
    digest: str  # sha256 of the file


def read_film(path: Path | str) -> Film:
    """The film in a file on disk.

    Args:
        path: Of the file; as text it is the film's name.

    Returns:
        The film.

    Raises:
        ImageError: The file cannot be read or is no radiograph.
    """
    return _film(read_bytes(Path(path)), str(path))


def uploaded_film(data: bytes, name: str) -> Film:
    """The film in the bytes of an upload.

    Args:
        data: The bytes of the file, at most MAX_UPLOAD_BYTES.
        name: Of the file; its printable end is kept, to be shown, and nothing is opened by it.

    Returns:
        The film.

    Raises:
        ImageError: They are too many or no radiograph.
    """
    name = "".join(c for c in name if c.isprintable())[-NAME_SHOWN:] or "image"
    if len(data) > MAX_UPLOAD_BYTES:
        expected, found = f"at most {MAX_UPLOAD_BYTES:,} bytes", f"{len(data):,}"
        raise ImageError(name, expected, found, "Export it smaller.")
    return _film(data, name)


def example_film(t_score: float) -> Film:
    """A knee phantom with this T-score, the same at every call."""
    knee = simulate_knee(t_score, np.random.default_rng(3), EXAMPLE_SIDE)
    buffer = BytesIO()
    Image.fromarray(knee.image).save(buffer, "png")
    return _film(buffer.getvalue(), f"phantom, T-score {t_score:g}")


def _film(data: bytes, name: str) -> Film:
    facts, image = examine(data, name)
    return Film(name, image, facts, len(data), hashlib.sha256(data).hexdigest())


# ---------------------------------------------------------------------------------------------
# Runs and members


def find_runs(root: Path | str) -> list[Path]:
    """Every finished run in a folder and what is below it.

    Args:
        root: The folder to look through.

    Returns:
        The folders of the runs, sorted.

    Raises:
        RunError: More folders than MAX_FOLDERS would have to be looked through.
    """
    found = []
    for number, (folder, below, files) in enumerate(os.walk(root)):
        if number == MAX_FOLDERS:
            many = f"more than {MAX_FOLDERS:,} folders in it"
            remedy = "Name the folder that holds the runs."
            raise RunError(root, "a folder of trained runs", many, remedy)
        if "run.json" in files:
            found.append(Path(folder))
            below.clear()
    return sorted(found)


def title_of(model: str) -> str:
    """The title of an architecture; the name itself of one that the course does not know."""
    try:
        return get_architecture(model).title
    except ValueError:
        return model


@dataclass(frozen=True, eq=False)
class Member:
    """A finished run with its network in memory."""

    run: Run
    network: "keras.Model"
    novelty: Novelty | None  # what its training films look like, where the run tells
    # Where saliency methods look, by branch, "" if there is one; None if nothing has maps.
    layers: dict[str, str | None]
    note: str = ""  # what a reader must know of the network before believing it

    @property
    def size(self) -> int:
        """Side of the square that the network takes, in pixels."""
        return int(self.run.info["image_size"])

    @property
    def title(self) -> str:
        """Architecture and seed, for people."""
        return f"{title_of(str(self.run.info['model']))}, seed {self.run.info['seed']}"

    def pixels(self, images: Sequence[Grey]) -> Grey:
        """What the network takes of grey images: uint8 (n, size, size, 1)."""
        squares = [fit_square(image, self.size) for image in images]
        return np.array(squares, dtype=np.uint8).reshape(-1, self.size, self.size, 1)


def open_member(run: Run) -> Member:
    """Load the network of a run and what its training films look like.

    Args:
        run: A finished run.

    Returns:
        The member.

    Raises:
        RunError: A file of the run is damaged.
    """
    network, note = load_with_note(run)
    novelty = load_novelty(run.folder) if (run.folder / FILE).exists() else None
    return Member(run, network, novelty, map_layers(run, network), note)


def map_layers(run: Run, network: "keras.Model") -> dict[str, str | None]:
    """`gradcam.maps_of_run`, or {"": layer} if there is one branch; None if no layer has maps."""
    from osteo_utils.saliency.gradcam import layer_candidates, maps_of_run

    if not layer_candidates(network):
        return {"": None}
    layers = maps_of_run(run, network)
    return dict(layers) if len(layers) > 1 else {"": next(iter(layers.values()))}


# ---------------------------------------------------------------------------------------------
# Answers


class Answers(NamedTuple):
    """What members say about n films."""

    probabilities: Floats  # (n, 3), the soft vote
    votes: list[Floats]  # (n, 3) of each member
    unlike: list[bool | None]  # unlike the training films of a member; None: no member can tell


def answer(members: Sequence[Member], images: Sequence[Grey]) -> Answers:
    """Ask members about films; several vote with the mean of their probabilities.

    Args:
        members: One or more.
        images: Grey films, uint8 (height, width) each, in any size.

    Returns:
        Probabilities, votes, and whether each film is unlike those of the training.
    """
    pixels = [member.pixels(images) for member in members]
    votes = [_predicted(member, x) for member, x in zip(members, pixels, strict=True)]
    flags = [m.novelty.is_new(x) for m, x in zip(members, pixels, strict=True) if m.novelty]
    unlike: list[bool | None] = [None] * len(images)
    if flags:
        unlike = list(map(bool, np.any(flags, axis=0)))
    return Answers(soft_vote(votes), votes, unlike)


def _predicted(member: Member, x: Grey) -> Floats:
    # Not predict, which would compile each network first.
    parts = [member.network(x[i : i + _BATCH], training=False) for i in range(0, len(x), _BATCH)]
    return np.concatenate([np.zeros((0, 3)), *map(np.asarray, parts)])


# ---------------------------------------------------------------------------------------------
# Maps


def explain(
    member: Member,
    images: Sequence[Grey],
    method: str,
    target: Target,
    layer: str | None = None,
) -> dict[str, list[SaliencyMap]]:
    """Where a member looks on films.

    Args:
        member: The member.
        images: Grey films, uint8 (height, width) each, in any size.
        method: A key of `gradcam.METHODS`.
        target: The class to explain, or one for each film.
        layer: Another layer than the usual one.

    Returns:
        The map of every film, by branch of the network ("" if it has one).

    Raises:
        CamError: The method cannot work on the network or the layer.
    """
    from osteo_utils.saliency.gradcam import METHODS, CamWarning

    x, maps = member.pixels(images), {}
    for branch, (title, name) in _looks(member, method, layer).items():
        with _QUIET, warnings.catch_warnings():  # a flat map is told by whoever shows it
            warnings.simplefilter("ignore", CamWarning)
            cams = METHODS[method](member.network, x, target=target, layer=name, flat="nan")
        maps[branch] = [saliency_map(title, cam) for cam in cams]
    return maps


def explain_vote(
    members: Sequence[Member], image: Grey, method: str, target: int
) -> list[SaliencyMap]:
    """Where members look on one film: the maps of a member alone, of several first their mean.

    In the mean every member counts the same, however many branches it has, and each map by its
    shape alone.

    Args:
        members: One or more.
        image: A grey film, uint8 (height, width), in any size.
        method: A key of `gradcam.METHODS`.
        target: The class to explain.

    Returns:
        The maps, the mean first.

    Raises:
        CamError: The method cannot work on a network.
    """
    from osteo_utils.saliency.gradcam import CamWarning, ensemble_maps

    if len(members) == 1:
        return [maps[0] for maps in explain(members[0], [image], method, target).values()]
    looks = [(member, _looks(member, method)) for member in members]
    each = [(m, title, name, 1 / len(many)) for m, many in looks for title, name in many.values()]
    chosen, titles, layers, weights = zip(*each, strict=True)
    films = [member.pixels([image]) for member in chosen]
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)
        networks = [member.network for member in chosen]
        found = ensemble_maps(networks, films, target, method, layers, weights, flat="nan")
    maps = [saliency_map(t, cam[0]) for t, cam in zip(titles, found.members, strict=True)]
    return [saliency_map("mean of the members", found.mean[0]), *maps]


def _looks(
    member: Member, method: str, layer: str | None = None
) -> dict[str, tuple[str, str | None]]:
    """Title and layer of each branch that a method looks at; one on pixels has no layer."""
    from osteo_utils.saliency.gradcam import PIXEL_METHODS

    pixels = layer is None and method in PIXEL_METHODS
    layers = {"": layer} if pixels or layer is not None else member.layers
    titles = {branch: f", {title_of(branch)} branch" if branch else "" for branch in layers}
    return {
        branch: (f"{member.title}{titles[branch]}{f', layer {name}' if name else ''}", name)
        for branch, name in layers.items()
    }
