"""The page: controls at the side, films with their answers, and the history below."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import streamlit as st

from interface import report, runs
from interface.report import Section
from interface.runs import Answer, Listed, Record
from osteo_utils import NOTICE, inference, overlay
from osteo_utils.data.images import fit_square
from osteo_utils.errors import ImageError
from osteo_utils.escape import csv_text, markdown
from osteo_utils.formats.pixels import Grey
from osteo_utils.inference import Film, Member, title_of
from osteo_utils.overlay import COLOURS, Picture, SaliencyMap
from osteo_utils.registry import CLASS_NAMES, OSTEOPENIA_BELOW, OSTEOPOROSIS_AT_OR_BELOW
from osteo_utils.runs import RunError, read_run
from osteo_utils.saliency.gradcam import TITLES, CamError

RUNS: Final = Path(__file__).resolve().parents[1] / "runs"
MAX_FILMS: Final = 8  # on the page at a time
MAX_MEMBERS: Final = 4  # of a vote that is put together here
OWN_VOTE: Final = "Soft vote of runs that I choose"
AS_PREDICTED: Final = "the predicted class"
GUIDE: Final = f"""
- **Normal**: T-score of {OSTEOPENIA_BELOW:g} or above.
- **Osteopenia**: between {OSTEOPENIA_BELOW:g} and {OSTEOPOROSIS_AT_OR_BELOW:g}.
- **Osteoporosis**: {OSTEOPOROSIS_AT_OR_BELOW:g} or below.

The T-score is how many standard deviations the bone mineral density lies from the mean of young
adults (World Health Organization, 1994). A densitometer measures it; a model here guesses the class
from a knee radiograph alone. A heatmap says where a model looked, not whether it was right to.
"""


class Look(NamedTuple):
    """How maps are made and drawn."""

    method: str
    target: int | None  # None is the predicted class
    colours: str
    opacity: float


class Chosen(NamedTuple):
    """A model, or an ensemble of several members."""

    title: str
    members: tuple[Listed, ...]

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """Which runs, in which state: what cached results go by."""
        return tuple((str(member.folder), member.stamp) for member in self.members)


class Loaded(NamedTuple):
    """A choice with its networks in memory."""

    chosen: Chosen
    members: list[Member]
    record: Record


def show() -> None:
    """Everything, anew at each change of a control."""
    st.html(report.STYLE)
    st.title("Try a model on a knee radiograph")
    st.html(f'<div class="osteo-notice" role="note">{NOTICE}</div>')
    try:
        root = _root()
        listed, problems = _listed(root)
    except (RuntimeError, ValueError, OSError) as error:  # no such home, no such path
        st.error(f"Folder of trained runs: {markdown(error)}")
        return
    if not listed:
        _offer(root)
    else:
        _try(listed)
    _about(problems)


def _try(listed: Sequence[Listed]) -> None:
    models, look = _models(listed), _look()
    films = _films()
    if not films:
        st.info("Drop radiographs above, or take an example phantom, to see what the model says.")
    shown = [_film(i, film, models, look) for i, film in enumerate(films) if models]
    _remember({key: row for rows in shown for key, row in rows.items()})
    _history()
    st.html('<div style="height:2.5rem"></div>')  # so that the notice covers nothing


# ---------------------------------------------------------------------------------------------
# What is kept. What comes of a reader's film is kept for that reader's session alone.


_look_for_runs = st.cache_data(max_entries=8, ttl=10, show_spinner="Looking for runs")
_find_runs = _look_for_runs(inference.find_runs)
_example = st.cache_data(max_entries=8, show_spinner=False)(inference.example_film)


@st.cache_data(max_entries=8, show_spinner="Looking through the runs")
def _checked(found: list[tuple[Path, str]]) -> tuple[list[Listed], list[str]]:
    return runs.list_runs(found)


@st.cache_resource(max_entries=8, show_spinner="Loading the network")
def _member(folder: Path, stamp: str) -> Member:
    return inference.open_member(read_run(folder))


@st.cache_data(max_entries=64, show_spinner="Fitting the calibration")
def _record(key: object, _members: list[Member]) -> Record:
    return runs.record([member.run for member in _members])


@st.cache_data(max_entries=64, scope="session", show_spinner="Reading the film")
def _read(data: bytes, name: str) -> Film:
    return inference.uploaded_film(data, name)


@st.cache_data(max_entries=512, scope="session", show_spinner="Asking the network")
def _answer(key: object, digest: str, _loaded: Loaded, _film: Film) -> Answer:
    return runs.calibrated_answer(_loaded.members, _loaded.record.temperature, _film)


@st.cache_data(max_entries=128, scope="session", show_spinner="Computing the map")
def _maps(
    key: object, digest: str, method: str, target: int, _loaded: Loaded, _film: Film
) -> list[SaliencyMap]:
    return inference.explain_vote(_loaded.members, _film.image, method, target)


# ---------------------------------------------------------------------------------------------
# The controls at the side


def _root() -> Path:
    start = os.environ.get("OSTEO_RUNS", str(RUNS))
    st.sidebar.header("Models")
    text = st.sidebar.text_input(
        "Folder of trained runs", start, key="runs", help="On the machine that runs this app."
    )
    with st.sidebar:
        _note("Open only runs that you trained: the file of a network can hold more than numbers.")
    return Path(text or start).expanduser()


def _listed(root: Path) -> tuple[list[Listed], list[str]]:
    return _checked([(folder, runs.stamp(folder)) for folder in _find_runs(root)])


def _models(listed: Sequence[Listed]) -> list[Loaded]:
    """The chosen models that can be loaded; what is wrong with the others is told."""
    groups = sorted({each.group for each in listed})
    group = st.sidebar.selectbox(
        "Trained on", groups, key="group", help="Corpus, profile and split of the runs."
    )
    known = [each for each in listed if each.group == group]
    chosen = [_model("Model", known, 0)]
    if st.sidebar.toggle("Compare with a second model", key="compare"):
        chosen.append(_model("Second model", known, 1))
    return [model for each in chosen if each and (model := _load(each))]


def _model(label: str, known: Sequence[Listed], number: int) -> Chosen | None:
    offers = {each.title: (each,) for each in known} | runs.pairs(known)
    names = [*offers, *([OWN_VOTE] if len(known) > 1 else [])]
    ranked = sorted(known, key=lambda each: -np.nan_to_num(each.validation))
    start = ranked[min(number, len(ranked) - 1)].title
    key = f"model-{number}-{known[0].group}"
    title = st.sidebar.selectbox(
        label, names, names.index(start), key=key, help="Starts with the best on validation."
    )
    if title != OWN_VOTE:
        return Chosen(title, offers[title])
    members = st.sidebar.multiselect(
        f"Members ({label.lower()})",
        [each.title for each in known],
        max_selections=MAX_MEMBERS,
        key=f"members-{key}",
    )
    if len(members) < 2:
        st.warning(f"{label}: choose two or more members for the vote.")
        return None
    found = tuple(each for each in known if each.title in members)
    return Chosen(f"Soft vote of {', '.join(each.title for each in found)}", found)


def _load(chosen: Chosen) -> Loaded | None:
    try:
        members = [_member(each.folder, each.stamp) for each in chosen.members]
        known = _record(chosen.key, members)
    except RunError as error:
        st.error(markdown(error))
        return None
    for note in [member.note for member in members if member.note]:
        st.warning(markdown(note))
    return Loaded(chosen, members, known)


def _look() -> Look:
    st.sidebar.header("Heatmap")
    method = st.sidebar.selectbox("Method", list(TITLES), format_func=TITLES.__getitem__)
    target = st.sidebar.selectbox("Class", [AS_PREDICTED, *CLASS_NAMES])
    opacity = st.sidebar.slider("Opacity", 0, 100, 50, step=5, format="%d %%")
    colours = st.sidebar.selectbox("Colour map", list(COLOURS), format_func=COLOURS.__getitem__)
    index = None if target == AS_PREDICTED else CLASS_NAMES.index(target)
    return Look(method, index, colours, opacity / 100)


def _about(problems: Sequence[str]) -> None:
    for line in problems:
        st.sidebar.error(markdown(line))
    with st.sidebar.expander("The three classes"):
        st.markdown(GUIDE)


# ---------------------------------------------------------------------------------------------
# The films


def _films() -> list[Film]:
    """The uploads and the examples that can be read; a line about each that cannot."""
    uploads = st.file_uploader(
        "Radiographs: JPEG, PNG, WebP, BMP, TIFF, GIF or DICOM",
        accept_multiple_files=True,
        key="uploads",
        help="They stay in the memory of the machine that runs this app and are not kept.",
    )
    picked = st.pills(
        "Example phantoms, simulated now",
        inference.EXAMPLE_T_SCORES,
        format_func=lambda t: f"T-score {t:g}",
        selection_mode="multi",
        key="examples",
    )
    films: list[Callable[[], Film | None]] = [partial(_readable, file) for file in uploads or []]
    films += [partial(_example, t) for t in picked or []]
    if (left := len(films) - MAX_FILMS) > 0:
        st.warning(f"{MAX_FILMS} films are shown at a time; {left} of {len(films)} are left out.")
    return [film for read in films[:MAX_FILMS] if (film := read())]


def _readable(file: Any) -> Film | None:  # noqa: ANN401
    try:
        return _read(file.getvalue(), file.name)
    except ImageError as error:
        st.error(markdown(error))
        return None


def _film(
    number: int, film: Film, models: Sequence[Loaded], look: Look
) -> dict[object, dict[str, Any]]:
    """A film with the answers of the models; the rows that go into the history, by their key."""
    with st.container(border=True):
        st.html(f'<h2 class="osteo-name">{escape(film.name)}</h2>')
        columns = st.columns(3, gap="medium")
        with columns[0]:
            _picture(overlay.picture_of_film(film.image, film.name, report.SIDE))
        one = len(models) == 1
        spots = [columns[1:]] if one else [(column, column) for column in columns[1:]]
        sections = [
            _section(film, model, look, *spot) for model, spot in zip(models, spots, strict=True)
        ]
        _details(film, models)
        st.download_button(
            "Download the report",
            partial(report.report_html, film, sections),  # made when it is asked for
            f"knee-report-{film.digest[:8]}.html",
            "text/html",
            key=f"report-{number}",
            on_click="ignore",
            icon=":material/download:",
        )
    return {
        (film.name, film.digest, model.chosen.key): _row(film, section)
        for model, section in zip(models, sections, strict=True)
    }


def _section(film: Film, model: Loaded, look: Look, left: Any, right: Any) -> Section:  # noqa: ANN401
    """Show in two places, which may be one, what a model says and where it looks."""
    said = _answer(model.chosen.key, film.digest, model, film)
    with left:
        st.markdown(f"**{markdown(model.chosen.title)}**")
        st.html(report.verdict(said))
        (st.warning if said.unlike else _note)(report.unlike_line(said))
    with right:
        pictures, flat = _explained(film, model, look, said)
        for line in flat:
            st.info(markdown(line))
        for picture in pictures[:1]:
            _picture(picture)
        if pictures[1:]:
            more = "Maps of the members" if len(model.members) > 1 else "Map of the other branch"
            with st.expander(more):
                for picture in pictures[1:]:
                    _picture(picture)
    with left:
        _note(report.record_line(model.record))
    return Section(model.chosen.title, model.members, model.record, said, pictures, flat)


def _explained(
    film: Film, model: Loaded, look: Look, said: Answer
) -> tuple[list[Picture], list[str]]:
    """The maps that show something, and a line about each that does not."""
    target = said.called if look.target is None else look.target
    name = CLASS_NAMES[target]
    try:
        maps = _maps(model.chosen.key, film.digest, look.method, target, model, film)
    except CamError as error:
        return [], [str(error)]
    title, how = TITLES[look.method], (look.colours, look.opacity, report.SIDE)
    which = (film.image, film.name, f"{title} for {name}")
    drawn = [overlay.picture_of_map(*which, each, *how) for each in maps]
    flat = [str(overlay.flat_map(each, title, name)) for each in maps if each.peak is None]
    return [picture for picture in drawn if picture], flat


def _picture(picture: Picture) -> None:
    st.image(picture.pixels, alt=picture.alt, width="stretch")
    _note(picture.caption)


def _note(text: str) -> None:
    """Small print, darker than Streamlit's captions, which are too pale to read for some."""
    st.html(f'<p class="osteo-note">{escape(text)}</p>')


def _details(film: Film, models: Sequence[Loaded]) -> None:
    members = {member.title: member for model in models for member in model.members}
    with st.expander("The file, and what the network sees of it"):
        facts = film.facts
        st.markdown(
            f"{facts.format}, mode {markdown(facts.mode)}, {facts.width} x {facts.height} pixels, "
            f"{film.size:,} bytes. Decoded to grey, centred on a black square, then shrunk by area "
            "or enlarged to the size that the network takes."
        )
        sizes = sorted({member.size for member in members.values()})
        side = max(film.image.shape)
        steps = {
            f"As it came: {film.image.shape[1]} x {film.image.shape[0]}": _small(film.image),
            f"On its square: {side} x {side}": fit_square(film.image, report.SIDE),
        }
        steps |= {f"For the network: {size} x {size}": _seen(film.image, size) for size in sizes}
        for column, (caption, pixels) in zip(st.columns(len(steps)), steps.items(), strict=True):
            with column:
                _picture(Picture(pixels, f"The film. {caption}", caption))
    with st.expander("About the models" if len(members) > 1 else "About the model"):
        table = pd.DataFrame([report.facts_of(m) for m in members.values()])
        st.table(table.map(markdown).set_index("Model").T)  # its cells are Markdown


def _small(image: Grey) -> Grey:
    """The whole film in its own shape, for a look: every k-th pixel of a large one."""
    step = max(1, max(image.shape) // report.SIDE)
    return image[::step, ::step]


def _seen(image: Grey, size: int) -> Grey:
    """The pixels that a network sees, each as a square."""
    times = max(1, report.SIDE // size)
    return np.kron(fit_square(image, size), np.ones((times, times), np.uint8))


# ---------------------------------------------------------------------------------------------
# The history


def _row(film: Film, section: Section) -> dict[str, Any]:
    said = section.answer
    row: dict[str, Any] = {
        "time": f"{datetime.now():%H:%M:%S}",
        "film": film.name,
        "model": section.title,
    }
    row |= {"called": CLASS_NAMES[said.called]}
    for how, p in (("calibrated", said.calibrated), ("raw", said.raw)):
        row |= {f"{n}, {how}": round(float(v), 4) for n, v in zip(CLASS_NAMES, p, strict=True)}
    unlike = {None: "not checked", True: "yes", False: "no"}[said.unlike]
    return row | {"unlike the training films": unlike, "sha256": film.digest[:12]}


def _remember(now: Mapping[object, dict[str, Any]]) -> None:
    """Add what was not on the page a moment ago."""
    state = st.session_state
    before = state.get("on_page", set())
    state["history"] = [
        *state.get("history", []),
        *(row for key, row in now.items() if key not in before),
    ]
    state["on_page"] = set(now)


def _history() -> None:
    rows = st.session_state["history"]
    if not rows:
        return
    st.header("History of this session")
    table = pd.DataFrame(rows)
    left, right = st.columns((1, 2), gap="medium")
    called = [row["called"] for row in rows]
    left.html(report.counts({name: called.count(name) for name in CLASS_NAMES}))
    right.dataframe(table, hide_index=True)
    left.button("Clear the history", on_click=st.session_state["history"].clear)
    left.download_button(
        "Download as CSV",
        csv_text(rows),
        "history.csv",
        "text/csv",
        on_click="ignore",
        icon=":material/download:",
    )


# ---------------------------------------------------------------------------------------------
# No runs yet


def _offer(root: Path) -> None:
    st.info(
        f"No finished run in {markdown(str(root))}. Choose another folder at the side, run the "
        "chapters of the course, or train small models here, which takes a minute or two. In smoke "
        "size they see a few dozen phantoms for two epochs, so their answers mean little."
    )
    names = st.multiselect("Models to train", runs.SMALL_MODELS, runs.SMALL_MODELS[:2], title_of)
    if st.button("Train them in smoke size", type="primary", disabled=not names):
        bar = st.progress(0.0, "Starting")
        try:
            runs.make_smoke(root, names, lambda done, what: bar.progress(done, what))
        except (ValueError, OSError) as error:
            st.error(markdown(error))
            return
        _find_runs.clear()
        st.rerun()
