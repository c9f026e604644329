"""Model cards and saliency cards: what a reader must know of a network, or of a kind of heatmap.

A model card (Mitchell et al. 2019) is computed from the run folders of one model and the tables
beside them; a saliency card (Boggust et al. 2023) joins what is known of a method with what
chapter 19 measured. No field may stay empty: what a corpus does not tell is said to be unknown,
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

from osteo_utils.data.audit import read_audit
from osteo_utils.data.splits import PARTS, read_split, split_hash
from osteo_utils.escape import markdown
from osteo_utils.figures.reports import beside_calibrated, with_interval
from osteo_utils.registry import ARCHITECTURES, CLASS_NAMES, get_architecture, get_profile
from osteo_utils.runs import Run, model_digest, probabilities, read_run
from osteo_utils.saliency.gradcam import METHODS, TITLES
from osteo_utils.scoring.evaluate import (
    IF_CALIBRATED,
    TEMPERATURES,
    bootstrap,
    temperature,
    tempered,
)
from osteo_utils.store import replace_file

# Columns of saliency.csv; `run` is `model_digest` of the network that was measured.
FIGURES: Final = ("method", "model", "metric", "value", "low", "high", "run")
NOTICE: Final = """:::{warning}
For teaching and research only. This is not a medical device, it has not been tested for any use on
patients, and nothing it puts out says anything about a person.
:::"""
_SCORES: Final = {  # of `evaluate.scores`, and what a perfect classifier has
    "balanced_accuracy": ("balanced accuracy", "1"),
    "accuracy": ("accuracy", "1"),
    "f1_macro": ("macro F1", "1"),
    "kappa_quadratic": ("quadratic weighted kappa", "1"),
    "auc_macro": ("area under the ROC curve, macro", "1"),
    "brier": ("Brier score", "0"),
}
_CLASS_SCORES: Final = {
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "f1": "F1",
}
_BRIEF: Final = ("accuracy", "balanced_accuracy")
_CORPORA: Final = {  # by name of the corpus; "" is a reader's own folder
    "simulated": (
        "Phantom knees drawn by this course's own program; no film of a person is among them.",
        "Phantoms are not people: they have no age, no arthritis, no implant and no second "
        "disease, and their trabeculae are coarser than real ones.",
        "the phantoms are output of the course's program and may be used like it",
    ),
    "kaggle": (
        "The public set of 1,947 knee radiographs on Kaggle {cite}`sarhan2024`.",
        "How the labels were obtained is not stated, and there are no patient identifiers: two "
        "films of one patient can be on both sides of the split.",
        "statements about the licence of the set differ between places (Apache 2.0, CC BY 4.0); "
        "read its page before you use it",
    ),
    "": (
        "A folder of radiographs that the reader supplied.",
        "The course does not know how these films were chosen or how their labels were obtained.",
        "the films belong to whoever supplied them; the course has no licence to state",
    ),
}
_STARTS: Final = {
    "None": "They were trained from random ones.",
    "members": "The branches start from the finished runs of the members, on the same split.",
    "imagenet": (
        "They start from the ImageNet weights that Keras Applications hands out, under the terms "
        "of their authors; ImageNet's photographs {cite}`deng2009` are for research that earns "
        "nothing."
    ),
}


class CardError(ValueError):
    """A card with an empty field: which field, of which run or method, what to do."""

    def __init__(self, field: str, where: object, found: object, remedy: str) -> None:
        super().__init__(f"{where}: expected the field {field!r} of its card, {found}; {remedy}")


class Findings(NamedTuple):
    """What lies beside the runs of a corpus and profile."""

    images: pd.DataFrame  # audit.csv
    split: dict[str, Any]  # split.json
    figures: pd.DataFrame  # saliency.csv, columns FIGURES


# ---------------------------------------------------------------------------------------------
# Pages


def write_cards(
    models: Mapping[str, Sequence[Run]], found: Findings, target: Path | str
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
        raise CardError("scores", runs, "found no finished run", "train a model first")
    return {name: list(each) for name, each in groupby(found, lambda run: run.info["model"])}


def read_findings(runs: Path) -> Findings:
    """What the chapters left beside the runs; `CardError` if chapter 19 left no figures."""
    if not (file := runs / "saliency.csv").exists():
        raise CardError("saliency", runs, f"found no {file.name}", "run chapter 19 first")
    figures = pd.read_csv(file, dtype={"run": str})
    if missing := [name for name in FIGURES if name not in figures]:
        raise CardError("saliency", file, f"found no columns {missing}", "run chapter 19 again")
    split: dict[str, Any] = json.loads((runs / "split.json").read_text("utf-8"))
    return Findings(read_audit(runs).images, split, figures)


def _check_measured(runs: Sequence[Run], figures: pd.DataFrame) -> None:
    measured = set(figures.loc[figures["model"] == runs[0].info["model"], "run"])
    if measured - {model_digest(run) for run in runs}:
        found = "found figures of another training in saliency.csv"
        raise CardError("saliency", runs[0].folder, found, "run chapter 19 again")


def index_page(models: Mapping[str, Sequence[Run]]) -> str:
    """The page that leads to every card."""
    rows = [_index_row(runs[0]) for runs in models.values()]
    methods = [f"- [{title}](saliency_{name}.md)" for name, title in TITLES.items()]
    return "\n".join(
        [
            "# Model cards and saliency cards\n",
            "A network that is handed on without its papers invites misuse. A model card "
            "{cite}`mitchell2019` says what a network is for, what it learned from, how good it "
            "is and for whom, and where it ends. These are computed from the run folders at every "
            "build, which stops if a field would stay empty.\n",
            NOTICE,
            "\n## Models\n",
            _table(rows),
            "\nBalanced accuracy of the test part with its 95 % interval, first seed. The "
            "comparison is in [chapter 17](../../notebooks/17_comparison.ipynb).\n",
            "## Saliency methods\n",
            "Heatmaps need papers, too. A saliency card {cite}`boggust2023` says what a method "
            "assumes, what it costs, and what its maps can and cannot show.\n",
            *methods,
            "",
        ]
    )


def _index_row(run: Run) -> dict[str, str]:
    info, name = run.info, run.info["model"]
    return {
        "model": f"[{_title(run)}](model_{name}.md)",
        "pixels": str(info["image_size"]),
        "parameters": f"{_number(run, 'parameters', 'model'):,}",
        "balanced accuracy": with_interval(run.metrics["test"]["balanced_accuracy"]),
        "seconds": f"{_number(run, 'seconds', 'cost'):.0f}",
    }


# ---------------------------------------------------------------------------------------------
# Model cards


def model_card(runs: Sequence[Run], found: Findings) -> str:
    """The page of one model, whose runs differ in the seed alone; the first is told in full.

    Markdown. Raises `CardError` naming the field and the run where a field would be empty.
    """
    run = runs[0]
    fields = {
        "Use and misuse": _use(run),
        "Model": _model(run),
        "Data": _data(run, found.split, found.images),
        "Scores": _overall(runs),
        "By class": _by_class(run),
        "By site": _by_site(run, found.images),
        "Calibration": _calibration(run),
        "Saliency": _saliency(run, found.figures),
        "Limits": _limits(run),
        "Licence": _licence(run),
        "Cost": _cost(runs),
    }
    return _page(f"Model card: {_title(run)}", fields, run.folder)


def _page(title: str, fields: Mapping[str, str], where: object) -> str:
    for name, text in fields.items():
        if not text.strip():
            raise CardError(name, where, "found it empty", "write it, or say why it is not known")
    sections = [f"## {name}\n\n{text.strip()}" for name, text in fields.items()]
    back = "[All cards](index.md)"
    return "\n\n".join([f"# {title}", NOTICE, *sections, back]) + "\n"


def _use(run: Run) -> str:
    return (
        f"**For** learning how such networks are built, scored and questioned, with the "
        f"[chapters](../../notebooks/17_comparison.ipynb) of this course at hand. It takes one "
        f"knee radiograph and gives three probabilities: {', '.join(CLASS_NAMES)}.\n\n"
        "**Not for** deciding anything about a person; other joints, projections or devices; "
        "films of another collection without scoring it there first; reading bone density, of "
        "which it has learned three steps and no scale; a share of answers without the interval "
        "that stands beside it here."
    )


def _model(run: Run) -> str:
    architecture = get_architecture(run.info["model"])
    members = [get_architecture(name) for name in architecture.members] or [architecture]
    papers = " ".join(f"{{cite}}`{each.paper}`" for each in members)
    versions = _fact(run, "versions", "model").items()
    rows = {
        "architecture": f"{architecture.title} {papers}",
        "input": f"one grey film, {run.info['image_size']} x {run.info['image_size']} pixels",
        "preprocessing": f"{_told(run, 'preprocessing', 'model')}, inside the network",
        "parameters": f"{_number(run, 'parameters', 'model'):,}",
        "training": f"{_number(run, 'epochs_run', 'model')} epochs in batches of "
        f"{_number(run, 'batch_size', 'model')}, kept epoch {_number(run, 'best_epoch', 'model')} "
        "(lowest validation loss)",
        "starting weights": markdown(run.info.get("weights") or "random"),
        "profile and seed": f"{_told(run, 'profile', 'model')}, seed {run.info['seed']}",
        "finished": _told(run, "finished", "model"),
        "made with": ", ".join(markdown(f"{name} {number}") for name, number in versions),
        "file": f"`model.keras`, SHA-256 `{model_digest(run)[:16]}`",
    }
    return _table([{"item": name, "value": value} for name, value in rows.items()])


def _data(run: Run, split: Mapping[str, Any], images: pd.DataFrame) -> str:
    kept, copies = int(images["keep"].sum()), int((~images["keep"]).sum())
    rows = [
        {"part": part, **dict(zip(CLASS_NAMES, counts, strict=True)), "all": sum(counts)}
        for part, counts in ((part, split["counts"][part]) for part in PARTS)
    ]
    return (
        f"{_corpus(run)[0]} Of {len(images):,} files the audit "
        f"([chapter 02](../../notebooks/02_data_audit.ipynb)) kept {kept:,} and set {copies:,} "
        "aside: copies, conflicting labels, unreadable files. Copies of a film and the films of a "
        f"patient stay in one part.\n\n{_table(rows)}\n\n"
        f"Hash of the split: `{run.info['split_hash']}`."
    )


def _overall(runs: Sequence[Run]) -> str:
    run = runs[0]
    rows = [
        {"score": title, "test": with_interval(_score(run, name)), "perfect": best}
        for name, (title, best) in _SCORES.items()
    ]
    text = f"Seed {run.info['seed']}, {_films(run)}, 95 % intervals by bootstrap over these groups."
    seeds = [
        {"seed": str(each.info["seed"])}
        | {_SCORES[n][0]: with_interval(_score(each, n)) for n in _BRIEF}
        for each in runs
    ]
    several = f"\n\nEvery seed that was trained:\n\n{_table(seeds)}" if len(runs) > 1 else ""
    alone = "" if several else "\n\nOne seed was trained; how much another would differ is unknown."
    return f"{text}\n\n{_table(rows)}{several}{alone}"


def _by_class(run: Run) -> str:
    test = _test(run)
    rows = []
    for index, name in enumerate(CLASS_NAMES):
        shown = {
            title: with_interval(_score(run, f"{score}_{name.lower()}"))
            for score, title in _CLASS_SCORES.items()
        }
        rows.append({"class": name, "films": str((test["label"] == index).sum()), **shown})
    return _table(rows)


def _by_site(run: Run, images: pd.DataFrame) -> str:
    test = _test(run)
    site = test["path"].map(images.set_index("path")["site"]).fillna("")
    if (site == "").all():
        return (
            "The corpus does not say at which site a film was made, so how the scores differ "
            "between sites is not known."
        )
    rows = [_site_row(run, str(name), test[site == name]) for name in sorted(site.unique())]
    return (
        f"{_table(rows)}\n\nA site differs in more than its machines: where one class is rare, "
        "balanced accuracy rests on few films, and without any film of a class it cannot be "
        "measured."
    )


def _site_row(run: Run, name: str, rows: pd.DataFrame) -> dict[str, str]:
    found = _bootstrap(run, rows, probabilities(rows))
    scores = {_SCORES[s][0]: _interval(found.loc[s]) for s in _BRIEF}
    counts = ", ".join(str((rows["label"] == i).sum()) for i in range(len(CLASS_NAMES)))
    return {
        "site": markdown(name) or "not stated",
        f"films ({', '.join(CLASS_NAMES)})": counts,
        **scores,
    }


def _calibration(run: Run) -> str:
    validation = run.predictions[run.predictions["part"] == "validation"]
    t = temperature(validation["label"], probabilities(validation))
    after = _bootstrap(run, _test(run), tempered(probabilities(_test(run)), t)).T.to_dict()
    now = beside_calibrated(_score(run, "ece"), _score(run, IF_CALIBRATED))
    then = beside_calibrated(after["ece"], after[IF_CALIBRATED])
    how = "too sure of themselves" if t > 1 else "too shy"
    end = ", where the search ends" if t in TEMPERATURES else ""
    return (
        f"Expected calibration error on the test part {{cite}}`guo2017`: **{now}**. On so few "
        "films no model has an error of 0: in brackets is where that of a perfectly calibrated "
        "one lies in 95 % of cases. The temperature that fits "
        f"validation best is {t:.2f}{end}: before it, the probabilities were {how}. With it the "
        f"error is {then}. The run folder and the export keep the "
        "probabilities as they came, without the temperature."
    )


def _saliency(run: Run, figures: pd.DataFrame) -> str:
    own = figures[figures["model"] == run.info["model"]]
    if own.empty:
        others = ", ".join(sorted({get_architecture(n).title for n in figures["model"].unique()}))
        return (
            "The maps of this network were not measured: [chapter 19](../../notebooks/"
            f"19_can_you_trust_a_heatmap.ipynb) measured those of {others or 'no network'}. "
            "Take no map of it for more than a picture."
        )
    shown = own.assign(method=own["method"].map(_method_title))
    return (
        f"Measured in [chapter 19](../../notebooks/19_can_you_trust_a_heatmap.ipynb), with 95 % "
        f"intervals. What each method can show is on [its card](index.md).\n\n"
        f"{_figures_table(shown, 'method', 'metric')}"
    )


def _limits(run: Run) -> str:
    recalls = {name: _score(run, f"recall_{name.lower()}") for name in CLASS_NAMES}
    known = {name: value for name, s in recalls.items() if (value := s["value"]) is not None}
    lines = [_corpus(run)[1], f"Its scores rest on {_films(run)}."]
    if run.info["profile"] == "smoke":
        lines.insert(
            0,
            "**A run of the profile smoke, made to test the course: its scores mean nothing.**",
        )
    if known:
        weakest = min(known, key=lambda name: known[name])
        lines.append(f"It is weakest on {weakest}: recall {with_interval(recalls[weakest])}.")
    if run.info["best_epoch"] == run.info["epochs_run"]:
        lines.append("Its last epoch was its best, so a longer training might have gone further.")
    size = run.info["image_size"]
    lines.append(f"It sees {size} x {size} pixels; a structure finer than that is lost to it.")
    lines.append("Age, sex and origin are not in the data, so whom it fails is not known.")
    lines.append("It answers whatever it is shown, also if that is no knee.")
    return "\n".join(f"- {line}" for line in lines)


def _licence(run: Run) -> str:
    if (weights := _STARTS.get(str(run.info.get("weights")))) is None:
        found = f"found the weights {run.info['weights']!r} in run.json"
        raise CardError("licence", run.folder, found, f"expected one of {', '.join(_STARTS)}")
    return (
        "- **Code**: MIT.\n"
        f"- **Data**: {_corpus(run)[2]}.\n"
        "- **Weights**: made by this build, under the licence of the code as far as data and "
        f"starting weights allow. {weights}\n"
        "- **Text and figures**: [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)."
    )


def _cost(runs: Sequence[Run]) -> str:
    rows = [
        {
            "seed": str(run.info["seed"]),
            "seconds": f"{_number(run, 'seconds', 'cost'):,.0f}",
            "epochs": f"{_number(run, 'epochs_run', 'cost')}",
            "device": _told(run, "device", "cost"),
            "arithmetic": _told(run, "precision", "cost"),
        }
        for run in runs
    ]
    return (
        f"{_table(rows)}\n\nThe seconds are those in which the network learned, on the machine of "
        "the build. Energy was not metered: multiply by the power of your own machine."
    )


# ---------------------------------------------------------------------------------------------
# Saliency cards


class Method(NamedTuple):
    """What is known of a saliency method before anything is measured; Markdown."""

    idea: str
    assumes: str
    costs: str
    shows: str
    hides: str


_AS_GRAD_CAM: Final = (
    "As Grad-CAM: one pass forward, one back, no random draw, one layer to choose."
)
KNOWN: Final[dict[str, Method]] = {
    "grad_cam": Method(
        idea="""How much does the logit $s_c$ of a class rise if a feature map $A_k$ grows? The
mean gradient over the $N$ places of the map is its weight, the weighted maps are added, and what is
negative is cut off {cite}`selvaraju2017`:

$$
L(y, x) = \\max\\Big(0, \\sum_k \\alpha_k A_k(y, x)\\Big), \\qquad
\\alpha_k = \\frac{1}{N} \\sum_{y, x} \\frac{\\partial s_c}{\\partial A_k(y, x)} .
$$""",
        assumes="""That one number a map is enough: the map matters alike wherever it is active. For
a network that ends in global average pooling and one Dense layer this holds exactly, and the map is
the older CAM {cite}`zhou2016`; elsewhere it is an approximation. And that what the layer keeps is
still where it was in the film.""",
        costs="""One pass forward and one back to the layer. There is no random draw: the same film
gives the same map. One choice decides much, the layer.""",
        shows="""Which regions of the layer raise the score of *this* class, class by class, in
units of the logit, so that maps of one network can be compared.""",
        hides="""What speaks against the class. Anything finer than a cell of the layer: the smooth
edge of the blob is drawn by the enlargement. What in the region counts, be it trabeculae or a
letter. And whether the network is right.""",
    ),
    "grad_cam_plus_plus": Method(
        idea="""Grad-CAM with other weights {cite}`chattopadhay2018`: of the gradient $g_k$ only the
positive part counts, and each place is weighted by how much of the class it still has to explain:

$$
\\alpha_k = \\sum_{y, x} w_k(y, x)\\, \\max\\big(0, g_k(y, x)\\big), \\qquad
w_k = \\frac{g_k^2}{2 g_k^2 + g_k^3 \\sum A_k} .
$$""",
        assumes="""That the score is the exponential of the logit, for then second and third
derivatives are powers of the first. And that a map which lowers the score has nothing to say. In a
network that ends in global average pooling and one Dense layer the gradient of a map is one number
$g$, and its weight becomes $N g / (2 + g \\sum A_k)$: the stronger a map already is, the less it
counts.""",
        costs=_AS_GRAD_CAM,
        shows="""Several separate regions of one class more evenly than Grad-CAM, which favours the
largest.""",
        hides="""All of the evidence against a class, already in the weights. Its weights are not
those by which the network adds up its logit, so the size of the map does not say how much a region
adds. The grid stays as coarse as Grad-CAM's.""",
    ),
    "layer_cam": Method(
        idea="""Each place of each map has its own weight, the positive part of its gradient
{cite}`jiang2021`:

$$
L(y, x) = \\max\\Big(0, \\sum_k \\max\\big(0, g_k(y, x)\\big)\\, A_k(y, x)\\Big) .
$$""",
        assumes="""That the gradient at a place can be believed place by place, without a mean to
calm it. In early layers it is noisy; in the last layer of a network with global average pooling it
is the same at every place, and the map is Grad-CAM without the maps of negative weight.""",
        costs=_AS_GRAD_CAM,
        shows="""Finer regions than Grad-CAM, from earlier and larger layers, where a mean over the
map would wash everything out.""",
        hides="""What speaks against the class. In early layers a bright line often says no more
than "here is an edge that is used somewhere": fine is not the same as right.""",
    ),
    "score_cam": Method(
        idea="""No gradients {cite}`wang2020`. Each feature map, enlarged to the film and scaled to
0..1, becomes a mask; the film is shown through it, and the scores that it still gets, after a
softmax over the maps, are their weights. The weighted maps are added and cut at 0.""",
        assumes="""That a film with most of it darkened is still a film to the network, though it
has never learned from such. That the scale of a map says nothing, for each is stretched to 0..1: a
map that is nearly flat gets the same voice as a strong one.""",
        costs="""One pass forward for every map of the layer, hundreds to thousands a film, where
Grad-CAM needs two passes. No random draw; the layer and how the film is darkened are choices.""",
        shows="""Regions that are enough for the class by themselves, also in networks whose
gradient is flat or noisy.""",
        hides="""What only works together with what was darkened. What speaks against the class. And
it is as coarse as its layer.""",
    ),
    "occlusion": Method(
        idea="""Cover a square of the film, look how far the score falls, move on
{cite}`zeiler2014`. Where covering lowers the score the map is positive; where it raises the score,
negative.""",
        assumes="""That covering takes something away and adds nothing. Yet the patch is a picture,
too, with edges that no knee has. That one square at a time is enough.""",
        costs="""One pass forward for every position of the patch. No random draw. Patch, step and
what it is filled with are choices, and each changes the map.""",
        shows="""What really happens to the score if a region is gone: an experiment, not a
derivative, and in both directions. It needs nothing from inside the network.""",
        hides="""What stands twice in the film: cover one wall of the cortex, and the other still
tells. Anything smaller than the patch.""",
    ),
    "integrated_gradients": Method(
        idea="""Go from a baseline film $x'$ in small steps to the film $x$, and add up each pixel's
gradient on the way {cite}`sundararajan2017`:

$$
L_i = (x_i - x'_i) \\int_0^1 \\frac{\\partial s_c}{\\partial x_i}\\big(x' + t (x - x')\\big)\\, dt .
$$""",
        assumes="""That the baseline, here black, shows nothing, and that films halfway to it mean
something. A pixel that equals the baseline gets 0, whatever it is worth to the network. A network
that standardises each film sees the same picture almost all the way; its whole change lies just
beside the baseline, so the steps are finer there.""",
        costs="""A pass forward and one back for every step on the way. No random draw, unless noise
is added on purpose. The baseline and the number of steps are choices; whether the steps were enough
can be checked, because the sum of the map must be the difference of the two scores.""",
        shows="""A full account, to the pixel and with sign: the parts add up to the score. No layer
has to be chosen.""",
        hides="""The region: neighbouring pixels get opposite signs, and what the eye sees in the
grain is partly its own work. A share of the score is not a reason, and another baseline gives
another account.""",
    ),
}


def saliency_card(method: str, figures: pd.DataFrame) -> str:
    """The page of one method of `gradcam.METHODS`; `figures` has the columns FIGURES.

    Markdown. Raises `CardError` for a method that is not described or was not measured.
    """
    if method not in KNOWN:
        raise CardError("idea", method, "found none", "describe the method in cards.KNOWN")
    own = figures[figures["method"] == method]
    if own.empty:
        raise CardError("measured here", method, "found no figures", "run chapter 19 with it")
    known = KNOWN[method]
    shown = own.assign(model=own["model"].map(lambda name: get_architecture(name).title))
    fields = {
        "Idea": known.idea,
        "What it assumes": known.assumes,
        "What it costs": known.costs,
        "What it can show": known.shows,
        "What it cannot show": known.hides,
        "Measured here": "By [chapter 19](../../notebooks/19_can_you_trust_a_heatmap.ipynb), which "
        "says what each figure means, with 95 % intervals (of a time: the least and the most of "
        "three batches).\n\n"
        f"{_figures_table(shown, 'metric', 'model')}",
    }
    return _page(f"Saliency card: {TITLES[method]}", fields, method)


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


def _title(run: Run) -> str:
    return get_architecture(run.info["model"]).title


def _corpus(run: Run) -> tuple[str, str, str]:
    """What the data are, what limits them, and their licence."""
    return _CORPORA.get(_fact(run, "corpus", "data"), _CORPORA[""])


def _fact(run: Run, key: str, field: str) -> Any:  # noqa: ANN401
    value = run.info.get(key)
    if value is None or value in ("", {}):
        raise CardError(field, run.folder, f"found no {key!r} in run.json", "train it again")
    return value


def _told(run: Run, key: str, field: str) -> str:
    return markdown(_fact(run, key, field))


def _number(run: Run, key: str, field: str) -> float:
    value = _fact(run, key, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        found = f"found {key!r} to be {value!r} in run.json, no number"
        raise CardError(field, run.folder, found, "train it again")
    return value


def _score(run: Run, name: str) -> dict[str, float | None]:
    """A score of the test part; its value may be None where it could not be measured."""
    found = run.metrics.get("test", {}).get(name)
    if not found:
        raise CardError(
            "scores", run.folder, f"found no test {name!r} in metrics.json", "train it again"
        )
    return {
        key: None if value is None or math.isnan(value) else value for key, value in found.items()
    }


def _interval(row: Any) -> str:  # noqa: ANN401  (of a table: a Series or a dict)
    return with_interval({end: float(row[end]) for end in ("value", "low", "high")})


def _test(run: Run) -> pd.DataFrame:
    return run.predictions[run.predictions["part"] == "test"]


def _films(run: Run) -> str:
    test = _test(run)
    return f"{len(test)} test films in {test['group'].nunique()} groups (patients, copies united)"


def _bootstrap(run: Run, rows: pd.DataFrame, p: Any) -> pd.DataFrame:  # noqa: ANN401
    resamples = get_profile(_fact(run, "profile", "scores")).resamples
    return bootstrap(rows["label"], p, rows["group"], resamples, run.info["seed"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
