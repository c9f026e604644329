"""HTML that the app shows and the report that it hands out: every text from outside is escaped."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

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
_PAGES: Final = Environment(
    loader=FileSystemLoader(_HERE), undefined=StrictUndefined, autoescape=True
)
_PAGES.globals |= {"class_names": CLASS_NAMES, "colours": CLASS_COLOURS}
_PARTS: Final[Any] = _PAGES.get_template("parts.html").module


class Section(NamedTuple):
    """All that a report says about one model or ensemble."""

    title: str
    members: Sequence[Member]
    record: Record
    answer: Answer
    pictures: Sequence[Picture]
    flat: Sequence[str]  # a line for each map that shows nothing


def verdict(answer: Answer) -> str:
    """The predicted class, and the probabilities raw and calibrated as a table with bars."""
    return str(_PARTS.verdict(answer))


def counts(numbers: Mapping[str, int]) -> str:
    """How often each class was predicted, as a table with bars."""
    return str(_PARTS.counts(numbers))


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
    return _PAGES.get_template("report.html").render(
        film=film,
        picture=picture_of_film(film.image, film.name, SIDE),
        sections=sections,
        notice=NOTICE,
        style=Markup(STYLE + _PAGE),
        figure=lambda picture: Markup(figure_html(picture)),
        unlike=unlike_line,
        known=record_line,
        facts_of=facts_of,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=installed(_PACKAGES),
    )
