"""Model cards and saliency cards: what a reader must know of a network, or of a kind of heatmap.

A model card (Mitchell et al. 2019) is computed from the run folders of one model and the tables
beside them; a saliency card (Boggust et al. 2023) joins what is known of a method with what
the course measured. No field may stay empty: what a corpus does not tell is said to be unknown,
what is missing raises `CardError`, and with it the build stops.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from osteo_utils.data.audit import read_audit
from osteo_utils.data.splits import PARTS, read_split, split_hash
from osteo_utils.errors import CourseError
from osteo_utils.escape import markdown
from osteo_utils.registry import (
    ARCHITECTURES,
    CLASS_NAMES,
    CLASS_SCORES,
    SCORES,
    get_architecture,
    get_profile,
)
from osteo_utils.runs import Run, model_digest, probabilities, read_run
from osteo_utils.saliency.gradcam import METHODS, TITLES
from osteo_utils.scoring.evaluate import (
    IF_CALIBRATED,
    TEMPERATURES,
    beside_calibrated,
    bootstrap,
    temperature,
    tempered,
    with_interval,
)
from osteo_utils.store import replace_file

MEASURED_BY: Final = "the page Deeper: Six methods measured"  # it writes saliency.csv
# Its columns; `run` is `model_digest` of the network that was measured.
FIGURES: Final = ("method", "model", "metric", "value", "low", "high", "run")
TEXTS: Final = Path(__file__).parent / "card_texts"
_PAGES: Final = Environment(
    loader=FileSystemLoader(TEXTS), undefined=StrictUndefined, autoescape=False
)
_BRIEF: Final = ("accuracy", "balanced_accuracy")
_WEIGHTS: Final = (None, "members", "imagenet")  # whose origin the licence explains


class CardError(CourseError):
    """A card with an empty field: of which run or method, which field, what to do."""


class Findings(NamedTuple):
    """What lies beside the runs of a corpus and profile."""

    images: pd.DataFrame  # audit.csv
    split: dict[str, Any]  # split.json
    figures: pd.DataFrame  # saliency.csv, columns FIGURES


# ---------------------------------------------------------------------------------------------
# Pages


def write_cards(
    models: Mapping[str, Sequence[Run]],
    found: Findings,
    target: Path | str,
) -> list[Path]:
    """Write every card into the folder `target`, index first; nothing if a field is empty.

    `models` as `read_models` and `found` as `read_findings` give them. Files: index.md,
    model_<model>.md for each model, saliency_<method>.md. Raises `CardError` for an empty field,
    and for figures of a network that has been trained again since.
    """
    target = Path(target)
    for runs in models.values():
        _check_measured(runs, found.figures)
    pages = {"index.md": index_page(models)}
    pages |= {f"model_{name}.md": model_card(models[name], found) for name in models}
    pages |= {f"saliency_{name}.md": saliency_card(name, found.figures) for name in METHODS}
    target.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        replace_file(target / name, partial(Path.write_text, data=text, encoding="utf-8"))
    return [target / name for name in pages]


def read_models(runs: Path, shown: Iterable[Path]) -> dict[str, list[Run]]:
    """The runs in the folders `shown`, which lie below `runs/<corpus>/<profile>`, by model.

    `shown` are those of the book: of its networks, in the seeds of the profile, and fitting what
    would be trained now. Models come in the registry's order, seeds in theirs. Other finished runs
    there are left out, in a line on stderr. Raises `RunError` for a damaged run and for one on
    another split than split.csv, `CardError` if there is none.
    """
    known, order, shown = split_hash(read_split(runs / "split.csv")), list(ARCHITECTURES), {*shown}
    if other := sorted({file.parent for file in runs.glob("*/seed*/run.json")} - shown):
        names = ", ".join(str(folder.relative_to(runs)) for folder in other)
        print(f"{runs}: left out, since they are no runs of the book: {names}", file=sys.stderr)
    found = [read_run(folder, known) for folder in shown]
    found.sort(key=lambda run: (order.index(run.info["model"]), run.info["seed"]))
    if not found:
        remedy = "Train a model first."
        raise CardError(runs, "the field 'scores' of its card", "no finished run", remedy)
    return {name: list(each) for name, each in groupby(found, lambda run: run.info["model"])}


def read_findings(runs: Path) -> Findings:
    """What the chapters left beside the runs; `CardError` if there are no figures."""
    if not (file := runs / "saliency.csv").exists():
        remedy = f"Run {MEASURED_BY} first."
        raise CardError(runs, "the field 'saliency' of its cards", f"no {file.name}", remedy)
    figures = pd.read_csv(file, dtype={"run": str})
    if missing := [name for name in FIGURES if name not in figures]:
        remedy = f"Run {MEASURED_BY} again."
        raise CardError(file, "the field 'saliency' of its cards", f"no columns {missing}", remedy)
    split: dict[str, Any] = json.loads((runs / "split.json").read_text("utf-8"))
    return Findings(read_audit(runs).images, split, figures)


def _check_measured(runs: Sequence[Run], figures: pd.DataFrame) -> None:
    measured = set(figures.loc[figures["model"] == runs[0].info["model"], "run"])
    if measured - {model_digest(run) for run in runs}:
        found, remedy = "figures of another training in saliency.csv", f"Run {MEASURED_BY} again."
        raise CardError(runs[0].folder, "the field 'saliency' of its card", found, remedy)


def index_page(models: Mapping[str, Sequence[Run]]) -> str:
    """The page that leads to every card."""
    first = {name: runs[0] for name, runs in models.items()}
    return _page("index", first=first, methods=TITLES)


def _page(template: str, **facts: Any) -> str:  # noqa: ANN401
    """A template of `card_texts`, filled.

    `chapter("comparison")` in a template is a link with the title of the notebook of that name.
    """
    pieces = {
        "chapter": "{{doc}}`/notebooks/{}`".format,
        "notice": (TEXTS / "notice.md").read_text("utf-8").strip(),
        "architecture": get_architecture,
        "class_names": CLASS_NAMES,
        "class_scores": CLASS_SCORES,
        "digest": model_digest,
        "fact": _fact,
        "markdown": markdown,
        "number": _number,
        "score": lambda run, name: with_interval(_score(run, name)),
        "told": lambda run, key, field: markdown(_fact(run, key, field)),
    }
    return _PAGES.get_template(f"{template}.md").render(pieces | facts).rstrip() + "\n"


# ---------------------------------------------------------------------------------------------
# Model cards


def model_card(runs: Sequence[Run], found: Findings) -> str:
    """The page of one model, whose runs differ in the seed alone; the first is told in full.

    Markdown. Raises `CardError` naming the field and the run where a field would be empty.
    """
    run, test, images = runs[0], _test(runs[0]), found.images
    facts = {
        "run": run,
        "runs": runs,
        "images": images,
        "counts": {part: found.split["counts"][part] for part in PARTS},
        "films": f"{len(test)} test films in {test['group'].nunique()} groups (patients, copies "
        "united)",
        "films_of_class": [(test["label"] == label).sum() for label in range(len(CLASS_NAMES))],
        "scores": SCORES,
        "brief": {name: SCORES[name].title for name in _BRIEF},
        "by_site": _by_site(run, images),
    }
    facts |= _calibration(run) | _saliency(run, found.figures) | _limits(run)
    return _page("model", **facts)


def _by_site(run: Run, images: pd.DataFrame) -> str:
    """Scores by site; "" where the corpus does not say at which a film was made."""
    test = _test(run)
    site = test["path"].map(images.set_index("path")["site"]).fillna("")
    if (site == "").all():
        return ""
    return _table([_site_row(run, str(name), test[site == name]) for name in sorted(site.unique())])


def _site_row(run: Run, name: str, rows: pd.DataFrame) -> dict[str, str]:
    found = _bootstrap(run, rows, probabilities(rows))
    scores = {SCORES[s].title: _interval(found.loc[s]) for s in _BRIEF}
    counts = ", ".join(str((rows["label"] == i).sum()) for i in range(len(CLASS_NAMES)))
    return {
        "site": markdown(name) or "not stated",
        f"films ({', '.join(CLASS_NAMES)})": counts,
        **scores,
    }


def _calibration(run: Run) -> dict[str, Any]:
    validation = run.predictions[run.predictions["part"] == "validation"]
    t = temperature(validation["label"], probabilities(validation))
    after = _bootstrap(run, _test(run), tempered(probabilities(_test(run)), t)).T.to_dict()
    return {
        "ece": beside_calibrated(_score(run, "ece"), _score(run, IF_CALIBRATED)),
        "tempered_ece": beside_calibrated(after["ece"], after[IF_CALIBRATED]),
        "temperature": f"{t:.2f}",
        "at_the_end": t in TEMPERATURES,
        "too_sure": t > 1,
    }


def _saliency(run: Run, figures: pd.DataFrame) -> dict[str, str]:
    own = figures[figures["model"] == run.info["model"]]
    others = sorted({get_architecture(name).title for name in figures["model"].unique()})
    shown = own.assign(method=own["method"].map(_method_title))
    table = "" if own.empty else _figures_table(shown, "method", "metric")
    return {"measured": table, "others": ", ".join(others)}


def _limits(run: Run) -> dict[str, Any]:
    recalls = {name: _score(run, f"recall_{name.lower()}") for name in CLASS_NAMES}
    known = {name: value for name, s in recalls.items() if (value := s["value"]) is not None}
    weakest = min(known, key=lambda name: known[name]) if known else ""
    if (weights := run.info.get("weights")) not in _WEIGHTS:
        expected = f"one of {', '.join(map(str, _WEIGHTS))} for the field 'licence' of its card"
        remedy = "Train it again, or explain the licence of these weights in card_texts/model.md."
        raise CardError(run.folder, expected, f"the weights {weights!r} in run.json", remedy)
    return {
        "for_tests": get_profile(_fact(run, "profile", "limits")).for_tests,
        "weakest": weakest,
        "weakest_recall": with_interval(recalls[weakest]) if weakest else "",
        "last_was_best": run.info["best_epoch"] == run.info["epochs_run"],
        "weights": weights or "random",
    }


# ---------------------------------------------------------------------------------------------
# Saliency cards


def saliency_card(method: str, figures: pd.DataFrame) -> str:
    """The page of one method of `gradcam.METHODS`; `figures` has the columns FIGURES.

    What is known of the method before anything is measured stands in card_texts/saliency.
    Markdown. Raises `CardError` for a method that is not described or was not measured.
    """
    if not (known := TEXTS / f"saliency/{method}.md").is_file():
        remedy = f"Describe the method in {known}."
        raise CardError(method, "the field 'idea' of its card", "none", remedy)
    own = figures[figures["method"] == method]
    if own.empty:
        remedy = f"Run {MEASURED_BY} with it."
        raise CardError(method, "the field 'measured here' of its card", "no figures", remedy)
    shown = own.assign(model=own["model"].map(lambda name: get_architecture(name).title))
    facts = {"title": TITLES[method], "known": known.read_text("utf-8").strip()}
    return _page("saliency", measured=_figures_table(shown, "metric", "model"), **facts)


def _method_title(method: str) -> str:
    return TITLES.get(method) or markdown(method.replace("_", " "))


def _figures_table(figures: pd.DataFrame, down: str, across: str) -> str:
    """A row and a column for each of two of "method", "model", "metric", in the file's order."""
    named = figures.assign(metric=figures["metric"].str.replace("_", " ").map(markdown))
    cells = {(row[down], row[across]): row for row in named.to_dict("records")}
    return _table(
        [
            {down: name} | {c: _figure(cells.get((name, c))) for c in dict.fromkeys(named[across])}
            for name in dict.fromkeys(named[down])
        ]
    )


def _figure(row: Mapping[Any, Any] | None) -> str:
    return "not measured" if row is None else _interval(row)


# ---------------------------------------------------------------------------------------------
# Pieces


def _fact(run: Run, key: str, field: str) -> Any:  # noqa: ANN401
    value = run.info.get(key)
    if value is None or value in ("", {}):
        expected = f"the field {field!r} of its card"
        raise CardError(run.folder, expected, f"no {key!r} in run.json", "Train it again.")
    return value


def _number(run: Run, key: str, field: str) -> float:
    value = _fact(run, key, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        expected = f"a number for the field {field!r} of its card"
        found = f"{key!r} to be {value!r} in run.json"
        raise CardError(run.folder, expected, found, "Train it again.")
    return value


def _score(run: Run, name: str) -> dict[str, float | None]:
    """A score of the test part; its value may be None where it could not be measured."""
    found = run.metrics.get("test", {}).get(name)
    if not found:
        missing = f"no test {name!r} in metrics.json"
        raise CardError(run.folder, "the field 'scores' of its card", missing, "Train it again.")
    return {
        key: None if value is None or math.isnan(value) else value for key, value in found.items()
    }


def _interval(row: Any) -> str:  # noqa: ANN401  (of a table: a Series or a dict)
    return with_interval({end: float(row[end]) for end in ("value", "low", "high")})


def _test(run: Run) -> pd.DataFrame:
    return run.predictions[run.predictions["part"] == "test"]


def _bootstrap(run: Run, rows: pd.DataFrame, p: Any) -> pd.DataFrame:  # noqa: ANN401
    resamples = get_profile(_fact(run, "profile", "scores")).resamples
    return bootstrap(rows["label"], p, rows["group"], resamples, run.info["seed"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
