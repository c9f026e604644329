"""HTML that the app shows and the report that it hands out: every text from outside is escaped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from interface.runs import Answer, Record
from osteo_utils import NOTICE
from osteo_utils.course import installed
from osteo_utils.data.novelty import REMARK
from osteo_utils.inference import Film, Member
from osteo_utils.overlay import Picture, figure_html, picture_of_film
from osteo_utils.registry import CLASS_COLOURS, CLASS_NAMES
from osteo_utils.scoring.evaluate import IF_CALIBRATED, beside_calibrated, with_interval

SIDE: Final = 448  # of the pictures, in pixels
ALIKE: Final = (
    "Like the films of the training, as far as a check of layout and brightness can tell."
)
UNCHECKED: Final = "Not checked: the run has no record of what its training films look like."
_PACKAGES: Final = ("osteo-utils", "tensorflow", "keras", "numpy", "pillow", "streamlit")

_HERE: Final = Path(__file__).resolve().parent
STYLE: Final = f"<style>{(_HERE / 'style.css').read_text('utf-8')}</style>"
_PAGE: Final = f"<style>{(_HERE / 'report.css').read_text('utf-8')}</style>"


class Section(NamedTuple):
    """All that a report says about one model or ensemble."""

    title: str
    members: Sequence[Member]
    record: Record
    answer: Answer
    pictures: Sequence[Picture]
    flat: Sequence[str]  # a line for each map that shows nothing


def dot(name: str) -> str:
    """A square in the colour of a class; its name always stands beside it."""
    return f'<span class="osteo-dot" style="background:{CLASS_COLOURS[name]}"></span>'


def verdict(answer: Answer) -> str:
    """The called class, and the probabilities raw and calibrated as a table with bars."""
    name = CLASS_NAMES[answer.called]
    rows = "".join(_row(answer, i) for i in range(len(CLASS_NAMES)))
    return (
        f'<p class="osteo-called">{dot(name)}Called <strong>{escape(name)}</strong></p>'
        '<table class="osteo-bars"><caption>Probabilities; the bar is the calibrated one</caption>'
        '<thead><tr><th scope="col">Class</th>'
        '<th scope="col" class="osteo-number">calibrated</th>'
        f'<th scope="col" class="osteo-number">raw</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(answer: Answer, i: int) -> str:
    name, p, raw = CLASS_NAMES[i], answer.calibrated[i], answer.raw[i]
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
    bar = (
        f'<div class="osteo-bar" style="width:{share:.1%};background:{CLASS_COLOURS[name]}"></div>'
    )
    return f'<div class="osteo-track">{bar}</div>'


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
        "Network": member.note or "Built by name; only numbers are read from its file.",
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
    picture = figure_html(picture_of_film(film.image, film.name, SIDE))
    body = "".join(_section(section) for section in sections)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: what the models say</title>{STYLE}{_PAGE}</head><body>"
        f'<h1 class="osteo-name">{title}</h1>'
        f'<p class="notice"><strong>{escape(NOTICE)}</strong></p>'
        f"<div class='grid'>{picture}<div><h2>The file</h2><p>{escape(told)}; "
        f"{film.size:,} bytes; sha256 {film.digest[:12]}</p></div></div>{body}"
        f'<footer class="osteo-note">Made {made} with {escape(installed(_PACKAGES))}.</footer>'
        "</body></html>"
    )


def _section(section: Section) -> str:
    pictures = "".join(figure_html(picture) for picture in section.pictures)
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
