"""HTML that the app shows and the report that it hands out: every text from outside is escaped."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from answers import Answer, Film, Map, Maps, Member, Record
from matplotlib import colormaps
from PIL import Image

from osteo_utils.cli import NOTICE
from osteo_utils.course import installed
from osteo_utils.data.images import fit_square
from osteo_utils.data.novelty import REMARK
from osteo_utils.registry import CLASS_COLOURS
from osteo_utils.saliency.gradcam import TITLES, peak
from osteo_utils.scoring.evaluate import IF_CALIBRATED, beside_calibrated, with_interval
from osteo_utils.widgets.cam_explorer import SIGNED_COLOURS
from osteo_utils.widgets.live_gradcam import overlay

Pixels = npt.NDArray[np.uint8]

SIDE: Final = 448  # of the pictures, in pixels
ALIKE: Final = (
    "Like the films of the training, as far as a check of layout and brightness can tell."
)
UNCHECKED: Final = "Not checked: the run has no record of what its training films look like."
_OTHER: Final = "#6b7280"  # a class that is none of the course's
_PACKAGES: Final = ("osteo-utils", "tensorflow", "keras", "numpy", "pillow", "streamlit")

STYLE: Final = """<style>
.osteo-called { font-size: 1.15rem; margin: 0 0 .4rem; }
.osteo-bars { width: 100%; border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
.osteo-bars caption { text-align: left; opacity: .8; font-size: .85rem; padding-bottom: .2rem; }
.osteo-bars th, .osteo-bars td { border: 0; padding: .2rem .15rem; text-align: left;
  vertical-align: top; }
.osteo-bars thead th { font-weight: normal; font-size: .75rem; opacity: .8; }
.osteo-bars tbody th { font-weight: normal; white-space: nowrap; }
.osteo-bars tr.osteo-top th, .osteo-bars tr.osteo-top td { font-weight: 600; }
.osteo-bars .osteo-number { text-align: right; width: 3.4rem; }
.osteo-track { background: rgba(128, 128, 128, .22); height: .6rem; margin-top: .15rem; }
.osteo-bar { height: 100%; }
.osteo-dot { display: inline-block; width: .7rem; height: .7rem; margin-right: .4rem; }
.osteo-note { font-size: .85rem; opacity: .85; margin: .4rem 0; }
.osteo-name { overflow-wrap: anywhere; font-size: 1.25rem; font-weight: 600; margin: 0; }
.osteo-notice { position: fixed; inset: auto 0 0 0; z-index: 1000; padding: .45rem 1rem;
  background: #fff3cd; color: #332701; text-align: center; font-size: .85rem; }
</style>"""


class Picture(NamedTuple):
    """A picture with what is seen in it (`alt`) and what it is (`caption`)."""

    pixels: Pixels
    alt: str
    caption: str


class Section(NamedTuple):
    """All that a report says about one model or ensemble."""

    title: str
    members: Sequence[Member]
    record: Record
    answer: Answer
    pictures: Sequence[Picture]
    flat: Sequence[str]  # a line for each map that shows nothing


def picture_of(film: Film) -> Picture:
    """The film on its black square, as the networks see it but larger."""
    alt = f"The radiograph {film.name}, without a map"
    return Picture(fit_square(film.image, SIDE), alt, "The film on its square, without a map")


def picture_of_map(
    film: Film, found: Map, method: str, class_name: str, colours: str, opacity: float
) -> Picture | None:
    """The map over the film, on its own scale; None where it is flat."""
    if found.cam is None:
        return None
    (rows, columns), at = found.cam.shape, peak(found.cam)
    across, down = (at[1] + 0.5) / columns, (at[0] + 0.5) / rows
    what = f"{TITLES[method]} for {class_name}: {found.title}"
    place = f"strongest {across:.0%} from the left and {down:.0%} from the top"
    low, top = _range(found.cam)
    caption = f"{what}, {place}. The scale below goes from {low:.2g} to {top:.2g}."
    laid = overlay(fit_square(film.image, SIDE), found.cam, colours, opacity)
    pixels = np.concatenate([laid, _scale(low < 0, colours)])
    return Picture(pixels, f"{what}, over {film.name}; {place}", caption)


def _range(cam: Maps) -> tuple[float, float]:
    """The ends of the scale: 0 and the largest value, or both ends around 0 of a signed map."""
    top = float(np.abs(cam).max())
    return (-top if cam.min() < 0 else 0.0), top


def _scale(signed: bool, colours: str) -> Pixels:
    """The colours from the lowest value (left) to the largest, below a black line."""
    table = colormaps[SIGNED_COLOURS if signed else colours]
    strip = np.rint(table(np.linspace(0, 1, SIDE))[:, :3] * 255).astype(np.uint8)
    return np.concatenate([np.zeros((4, SIDE, 3), np.uint8), np.repeat(strip[None], 14, axis=0)])


def flat_line(found: Map, method: str, class_name: str) -> str:
    """What is told where there is no map to show."""
    why = f"nothing in this film speaks for {class_name}"
    return f"{TITLES[method]}, {found.title}: no map, for {why}."


def dot(name: str) -> str:
    """A square in the colour of a class; its name always stands beside it."""
    return f'<span class="osteo-dot" style="background:{_colour(name)}"></span>'


def verdict(answer: Answer) -> str:
    """The called class, and the probabilities raw and calibrated as a table with bars."""
    name = answer.classes[answer.called]
    rows = "".join(_row(answer, i) for i in range(len(answer.classes)))
    return (
        f'<p class="osteo-called">{dot(name)}Called <strong>{escape(name)}</strong></p>'
        '<table class="osteo-bars"><caption>Probabilities; the bar is the calibrated one</caption>'
        '<thead><tr><th scope="col">Class</th>'
        '<th scope="col" class="osteo-number">calibrated</th>'
        f'<th scope="col" class="osteo-number">raw</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(answer: Answer, i: int) -> str:
    name, p, raw = answer.classes[i], answer.calibrated[i], answer.raw[i]
    top = ' class="osteo-top"' if i == answer.called else ""
    return (
        f'<tr{top}><th scope="row">{dot(name)}{escape(name)}{_bar(p, name)}</th>'
        f'<td class="osteo-number">{p:.3f}</td><td class="osteo-number">{raw:.3f}</td></tr>'
    )


def counts(classes: Sequence[str], numbers: Sequence[int]) -> str:
    """How often each class was called, as a table with bars."""
    most = max(numbers) or 1
    rows = "".join(
        f'<tr><th scope="row">{dot(name)}{escape(name)}{_bar(n / most, name)}</th>'
        f'<td class="osteo-number">{n}</td></tr>'
        for name, n in zip(classes, numbers, strict=True)
    )
    caption = "How often each class was called"
    return f'<table class="osteo-bars"><caption>{caption}</caption><tbody>{rows}</tbody></table>'


def _bar(share: float, name: str) -> str:
    bar = f'<div class="osteo-bar" style="width:{share:.1%};background:{_colour(name)}"></div>'
    return f'<div class="osteo-track">{bar}</div>'


def _colour(name: str) -> str:
    return CLASS_COLOURS.get(name, _OTHER)


def unlike_line(answer: Answer) -> str:
    """Whether the film is like those of the training, as far as it was checked."""
    return UNCHECKED if answer.unlike is None else REMARK if answer.unlike else ALIKE


def record_line(known: Record) -> str:
    """Temperature and scores of a model or a vote, with intervals."""
    scores = known.scores
    error = beside_calibrated(scores["ece"], scores[IF_CALIBRATED])
    return (
        f"Calibrated with temperature {known.temperature:.2f}, fitted on "
        f"{known.validation_films:,} validation films. On {known.test_films:,} test films: "
        f"balanced accuracy {with_interval(scores['balanced_accuracy'])}; of the raw "
        f"probabilities, expected calibration error {error} and Brier score "
        f"{with_interval(scores['brier'])}, lower being better."
    )


def facts_of(member: Member) -> dict[str, str]:
    """What the run says about a model."""
    info = member.run.info
    versions = ", ".join(f"{k} {v}" for k, v in dict(info.get("versions", {})).items())
    scaled = f"scaled inside the network ({info['preprocessing']})"
    return {
        "Model": member.title,
        "Trained on": f"{info.get('corpus', 'unknown')}, {info.get('profile', 'own settings')}",
        "Class order": ", ".join(info["class_names"]),
        "Input": f"{member.size} x {member.size} grey pixels, {scaled}",
        "Split": str(info["split_hash"])[:12],
        "Trained with": versions or "not recorded",
        "Finished": str(info.get("finished", "not recorded")),
    }


# ---------------------------------------------------------------------------------------------
# The report


def report_html(film: Film, sections: Sequence[Section]) -> str:
    """One self-contained page: film, answers, maps, models and versions. It loads nothing."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    title, facts = escape(film.name), film.facts
    told = f"{facts.format}, mode {facts.mode}, {facts.width} x {facts.height} pixels"
    body = "".join(_section(section) for section in sections)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: what the models say</title>{STYLE}{_PAGE}</head><body>"
        f'<h1 class="osteo-name">{title}</h1>'
        f'<p class="notice"><strong>{escape(NOTICE)}</strong></p>'
        f"<div class='grid'>{figure(picture_of(film))}<div><h2>The file</h2><p>{escape(told)}; "
        f"{film.size:,} bytes; sha256 {film.digest[:12]}</p></div></div>{body}"
        f'<footer class="osteo-note">Made {made} with {escape(installed(_PACKAGES))}.</footer>'
        "</body></html>"
    )


_PAGE: Final = """<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1.5rem auto;
  padding: 0 1rem; }
h2 { font-size: 1.1rem; margin: .8rem 0 .4rem; }
.notice { background: #fff3cd; color: #332701; padding: .5rem .8rem; }
.grid { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.grid > * { flex: 1 1 15rem; max-width: 19rem; min-width: 0; }
figure { margin: 0; }
img { width: 100%; height: auto; background: #000; }
figcaption, dl { font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem;
  margin: .8rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
section { border-top: 1px solid #8888; margin-top: 1rem; break-inside: avoid; }
</style>"""


def _section(section: Section) -> str:
    pictures = "".join(figure(picture) for picture in section.pictures)
    flat = "".join(f"<p>{escape(line)}</p>" for line in section.flat)
    facts = "".join(map(_facts, section.members))
    unlike = escape(unlike_line(section.answer))
    unlike = f"<strong>{unlike}</strong>" if section.answer.unlike else unlike
    return (
        f"<section><h2>{escape(section.title)}</h2><div class='grid'><div>"
        f"{verdict(section.answer)}<p>{unlike}</p><p class='osteo-note'>"
        f"{escape(record_line(section.record))}</p></div>{pictures}{flat}</div>{facts}</section>"
    )


def _facts(member: Member) -> str:
    rows = facts_of(member).items()
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<dl>{items}</dl>"


def figure(picture: Picture) -> str:
    """A picture inside the page."""
    buffer = BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "webp", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/webp;base64,{data}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
