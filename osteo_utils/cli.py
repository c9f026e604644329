"""The command line: the functions that the chapters call, one command each.

`python -m osteo_utils COMMAND` (or `osteo COMMAND` where the package is installed). Results go to
stdout, as text or as JSON; progress, notes and errors go to stderr. Exit codes: 0 fine, 1 the input
or the data is wrong, 2 wrong usage, 130 interrupted. Heavy libraries are imported by the commands
that need them, so `--help` answers at once.
"""

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from inspect import cleandoc
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from osteo_utils import NOTICE, __version__
from osteo_utils.errors import CourseError
from osteo_utils.escape import csv_text, printable
from osteo_utils.registry import (
    ARCHITECTURES,
    CALIBRATION,
    CLASS_NAMES,
    CLASS_SCORES,
    PROFILES,
    SALIENCY_METHODS,
    SCORES,
    get_architecture,
    known_name,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from osteo_utils.inference import Film, Member
    from osteo_utils.overlay import SaliencyMap
    from osteo_utils.runs import Run

_LARGEST_PICTURE: Final = 1024  # pixels a side of an overlay
_LONGEST_STEM: Final = 180  # bytes of a film's name in the name of its map; systems allow 255


class Result(NamedTuple):
    """What a command hands back: `data` for --json, `text` for people, and the exit code."""

    data: dict[str, Any]
    text: str
    code: int = 0


def main(argv: Sequence[str] | None = None, prog: str = "osteo") -> int:
    """Run one command and return its exit code; `SystemExit` after --help and wrong usage."""
    arguments = build_parser(prog).parse_args(argv)
    try:
        with _notes_on_stderr(arguments.quiet):
            result: Result = arguments.command(arguments)
        if told := _as_json(result.data) if arguments.json else result.text:
            _say(told)
    except KeyboardInterrupt:
        return _complain("interrupted; the same command again goes on where it can", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        if not _is_expected(error):
            raise
        return _complain(error)
    return result.code


# ---------------------------------------------------------------------------------------------
# The parser


def build_parser(prog: str = "osteo") -> argparse.ArgumentParser:
    """The parser of all commands; each result has `command`, the function to call."""
    text = "Reading bone in knee X-rays, on the command line. COMMAND --help teaches a command."
    parser = argparse.ArgumentParser(prog, description=text, epilog=NOTICE)
    parser.add_argument("--version", action="version", version=f"osteo-utils {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _course_options(_command(commands, "corpus", _corpus), positional=True)
    audit = _course_options(_command(commands, "audit", _audit), positional=True)
    audit.add_argument("--out", type=Path, metavar="FOLDER", help="write the tables here")
    train = _command(commands, "train", _train)
    train.add_argument("model", metavar="MODEL", help="what to train, from the list above")
    _course_options(train).add_argument(
        "--seed", type=int, default=0, help="of initial weights and batches (default: %(default)s)"
    )
    _add_evaluate(_command(commands, "evaluate", _evaluate))
    _add_explain(_command(commands, "explain", _explain))
    predict = _command(commands, "predict", _predict)
    predict.usage = (
        "%(prog)s [-h] [--json] [--quiet] [--out FILE.csv] RUN [RUN ...] IMAGE [IMAGE ...]"
    )
    predict.add_argument("paths", nargs="+", metavar="PATH", help="run folders and radiographs")
    predict.add_argument("--out", type=Path, metavar="FILE.csv", help="write the table here, too")
    export = _command(commands, "export", _export)
    export.add_argument("run", metavar="RUN", help="a run folder")
    export.add_argument("images", nargs="*", metavar="IMAGE", help="a film to compare on")
    export.add_argument("--out", type=Path, default=Path("exported"), metavar="FOLDER")
    return parser


def _command(
    commands: Any,  # noqa: ANN401  (argparse keeps the type to itself)
    name: str,
    function: Callable[[argparse.Namespace], Result],
) -> argparse.ArgumentParser:
    short, text = cleandoc(function.__doc__ or "").split("\n\n", 1)
    pixels = [key for key, each in SALIENCY_METHODS.items() if each.reads == "pixels"]
    lists = {"MODELS": _in_lines(ARCHITECTURES, 7), "METHODS": _in_lines(SALIENCY_METHODS, 4)}
    for word, listed in (lists | {"PIXELS": ", ".join(pixels)}).items():
        text = text.replace(word, listed)
    raw = argparse.RawDescriptionHelpFormatter
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=short[0].lower() + short[1:].rstrip("."), description=text, formatter_class=raw
    )
    made.set_defaults(command=function)
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    made.add_argument("--quiet", action="store_true", help="no progress bars, no notes")
    return made


def _in_lines(names: Iterable[str], count: int) -> str:
    """Names in lines of so many."""
    known = list(names)
    lines = [", ".join(known[i : i + count]) for i in range(0, len(known), count)]
    return ",\n  ".join(lines)


def _course_options(
    parser: argparse.ArgumentParser, positional: bool = False
) -> argparse.ArgumentParser:
    corpus: dict[str, Any] = {"nargs": "?", "metavar": "CORPUS"} if positional else {}
    name = "corpus" if positional else "--corpus"
    default = "(default: %(default)s)"
    which = f"simulated, kaggle, or the path of a folder or zip {default}"
    parser.add_argument(name, default="simulated", help=which, **corpus)
    parser.add_argument(
        "--profile", **_one_of("profile", PROFILES), default="quick", help=f"size {default}"
    )
    where = f"folder of the runs; corpora/ lies beside it {default}"
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help=where)
    return parser


def _one_of(what: str, names: Collection[str]) -> dict[str, Any]:
    """How argparse takes one of these names; of an unknown one it tells which is like it."""

    def checked(name: str) -> str:
        try:
            return known_name(what, name, names)
        except CourseError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return {"type": checked, "choices": names}


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="+", metavar="RUN", help="a run folder")
    parts = ("test", "validation")
    parser.add_argument("--part", choices=parts, default=parts[0], help="(default: %(default)s)")
    parser.add_argument(
        "--score",
        **_one_of("score", SCORES),
        default=next(iter(SCORES)),
        metavar="SCORE",
        help="of the differences: %(choices)s (default: %(default)s)",
    )


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a radiograph")
    methods = _one_of("method", SALIENCY_METHODS)
    parser.add_argument("--method", **methods, default="grad_cam", metavar="METHOD")
    parser.add_argument(
        "--target",
        type=str.capitalize,
        choices=CLASS_NAMES,
        help="class to explain (default: the called one)",
    )
    parser.add_argument("--layer", help="layer to read; an unknown name lists the choices")
    parser.add_argument("--out", type=Path, default=Path("explained"), metavar="FOLDER")
    parser.add_argument("--raw", action="store_true", help="write the raw maps as .npy, too")


# ---------------------------------------------------------------------------------------------
# The commands


def _corpus(arguments: argparse.Namespace) -> Result:
    """Make, fetch or open a collection of radiographs and count it.

    Make, fetch or open a collection of radiographs, and count what is in it.

    "simulated" draws knee phantoms of known bone (a few minutes in the profile quick), "kaggle"
    fetches the public set (1.2 GB), a zip is unpacked, and any other path must be a folder with
    one sub-folder a class: Normal, Osteopenia, Osteoporosis. Such a folder is read, never changed.

    for example:
      %(prog)s --profile smoke
      %(prog)s ~/data/knees --json

    writes: a folder below corpora/ beside the runs, whole or not at all; nothing for your own
      folder.
    prints: files, unreadable ones and patients of each class, and for a simulated corpus the best
      scores that any method could reach, since its labels are measurements with an error.
    """
    from osteo_utils.course import corpus_folder
    from osteo_utils.data.corpus import list_corpus

    root = corpus_folder(arguments.profile, arguments.corpus, arguments.runs)
    files, facts = list_corpus(root), root / "corpus.json"
    known = json.loads(facts.read_text(encoding="utf-8")) if facts.exists() else {}
    best: dict[str, float] | None = known.get("best_possible")
    classes = [_counted(name, files[files["label"] == i]) for i, name in enumerate(CLASS_NAMES)]
    data = {"folder": root, "files": len(files), "classes": classes, "best_possible": best}
    told = ["The best possible scores are not known: this corpus does not state its T-scores."]
    if best is not None:
        told = [f"Best possible {_words(name)}: {value:.3f}" for name, value in best.items()]
    return Result(data, "\n".join([f"{len(files):,} files in {root}", _table(classes), *told]))


def _counted(name: str, files: "pd.DataFrame") -> dict[str, Any]:
    known = files.loc[files["patient"] != "", "patient"].nunique()
    return {
        "class": name,
        "files": len(files),
        "unreadable": int((files["problem"] != "").sum()),
        "patients": known or None,
        "megabytes": round(float(files["bytes"].sum()) / 1e6, 2),
    }


def _audit(arguments: argparse.Namespace) -> Result:
    """Find copies, label conflicts and shortcuts in a collection.

    Audit a collection as the course does: copies and near-duplicates, label conflicts, unreadable
    files, patients in several classes, and how well facts without any bone (file format, size,
    border) predict the class.

    for example:
      %(prog)s ~/data/knees --out audit_of_knees
      %(prog)s simulated --profile smoke --json

    writes: audit.csv (a row for each file: its group, whether to keep it, and why not), pairs.csv,
      candidates.csv and shortcuts.csv, into --out, or without it where the chapters look for them:
      RUNS/<corpus>/<profile>/. A finished audit that still fits the files is read, not made again.
    prints: the findings; for a simulated corpus also how many of the planted faults were found.
    """
    from osteo_utils.course import audited, corpus_folder, open_course
    from osteo_utils.data.audit import audit, counts, score_against_truth, summary, write_audit
    from osteo_utils.data.corpus import list_corpus
    from osteo_utils.phantom.corpus import read_truth

    if folder := arguments.out:
        root = corpus_folder(arguments.profile, arguments.corpus, arguments.runs)
        report = audit(root, list_corpus(root))
        folder.mkdir(parents=True, exist_ok=True)
        write_audit(report, folder)
    else:
        course = open_course(arguments.profile, arguments.corpus, runs=arguments.runs)
        report, root, folder = audited(course), course.root, course.folder
    data = {"folder": folder, "counts": counts(report), "shortcuts": _records(report.shortcuts)}
    text = [summary(report)]
    if (root / "truth.csv").exists():
        found = score_against_truth(report, read_truth(root))
        data["against_truth"] = _records(found)
        text += ["Against the faults that were planted:", _table(_records(found.round(3)))]
    return Result(data, "\n".join([*text, f"Tables: {folder}"]))


def _train(arguments: argparse.Namespace) -> Result:
    """Train one model, or go on with a training that was stopped.

    Train one model as its chapter does. What it needs is made on the way: corpus, audit and split.
    A finished run is read and not trained again; a training that was stopped goes on.

    models: MODELS;
      or two joined by "+", such as vgg16+xception, for a fusion of their features.

    for example:
      %(prog)s custom_cnn --profile smoke
      %(prog)s mobilenet_v2 --profile full --corpus kaggle --seed 1

    writes: RUNS/<corpus>/<profile>/<model>/seed<k>/ with model.keras, history.csv,
      predictions.csv, metrics.json and, last, run.json. Of two trainings of one model and seed at
      a time the second waits, and takes the run of the first.
    prints: scores with 95 %% intervals. Choose by validation; the test part is for the last look.
    """
    get_architecture(arguments.model)  # a wrong name is told before anything is loaded or made
    _load_keras()
    from osteo_utils.course import open_course, train_model

    course = open_course(arguments.profile, arguments.corpus, arguments.seed, arguments.runs)
    run = train_model(course, arguments.model)
    parts = {part: _scores(run, part) for part in ("validation", "test")}
    rows = [
        {"score": _words(name)} | {p: _interval(parts[p][name]) for p in parts}
        for name in (*SCORES, *CALIBRATION)
    ]
    told = [f"{_title(run)}: {run.info['epochs_run']} epochs in {run.info['seconds']:.0f} s"]
    told += [f"  on {run.info['device']}, kept epoch {run.info['best_epoch']}; 95 % intervals"]
    told += [_table(rows), f"Run: {run.folder}"]
    return Result({"folder": run.folder, "info": run.info, "metrics": run.metrics}, "\n".join(told))


def _evaluate(arguments: argparse.Namespace) -> Result:
    """Scores of finished runs, with intervals, and their differences.

    Scores of finished runs, overall and by class, with 95 %% intervals by bootstrap over patients,
    and the confusion matrix. Several runs of one split are also compared on the same films: the
    difference, its interval, and a p-value, corrected (Holm) where there are several pairs.

    for example:
      %(prog)s runs/simulated/quick/custom_cnn/seed0
      %(prog)s runs/simulated/quick/{custom_cnn,mobilenet_v2}/seed0 --part validation --json

    writes: nothing.
    """
    from osteo_utils.scoring.ensembles import aligned

    runs, part = [_run(Path(folder)) for folder in arguments.run], arguments.part
    rows = aligned(runs, part)  # refuses runs of different splits
    if len(rows.labels) == 0:
        raise ValueError(f"{runs[0].folder}: expected films of the {part} part, found none")
    reports = [_evaluated(run, part) for run in runs]
    data: dict[str, Any] = {"part": part, "films": len(rows.labels), "runs": reports}
    text = [f"{part} part, {len(rows.labels)} films, 95 % intervals by bootstrap over patients"]
    text += [_report(each) for each in reports]
    if len(runs) > 1:
        data["differences"] = _differences(runs, part, arguments.score)
        shown = [_shown_difference(row) for row in data["differences"]]
        text += [f"\nDifferences in {_words(arguments.score)}, on the same films", _table(shown)]
    return Result(data, "\n".join(text))


def _evaluated(run: "Run", part: str) -> dict[str, Any]:
    from osteo_utils.runs import probabilities
    from osteo_utils.scoring.evaluate import confusion

    rows = run.predictions[run.predictions["part"] == part]
    matrix = confusion(rows["label"], probabilities(rows).argmax(axis=1))
    found = {"run": _title(run), "folder": run.folder, "split_hash": run.info["split_hash"]}
    by_class = {
        name: {score: run.metrics[part][f"{score}_{name.lower()}"] for score in CLASS_SCORES}
        for name in CLASS_NAMES
    }
    return found | {
        "scores": _scores(run, part),
        "classes": by_class,
        "confusion": {"rows": "true", "columns": "called", "counts": matrix.tolist()},
    }


def _report(found: Mapping[str, Any]) -> str:
    scores = [{"score": _words(n), "value": _interval(s)} for n, s in found["scores"].items()]
    classes = [
        {"class": name} | {score: _interval(value) for score, value in each.items()}
        for name, each in found["classes"].items()
    ]
    counts = found["confusion"]["counts"]
    matrix = [
        {"true class": name} | {f"called {c}": n for c, n in zip(CLASS_NAMES, row, strict=True)}
        for name, row in zip(CLASS_NAMES, counts, strict=True)
    ]
    return "\n\n".join([f"\n{found['run']}", _table(scores), _table(classes), _table(matrix)])


def _differences(runs: "Sequence[Run]", part: str, score: str) -> list[dict[str, Any]]:
    """Every pair, first minus second; p-values corrected for their number."""
    from osteo_utils.scoring.ensembles import aligned
    from osteo_utils.scoring.evaluate import holm, paired_difference

    rows = aligned(runs, part)
    pairs = list(combinations(range(len(runs)), 2))
    found = [
        paired_difference(rows.labels, rows.members[a], rows.members[b], rows.groups, score)
        for a, b in pairs
    ]
    adjusted = holm([each["p"] for each in found])
    names = [_title(run) for run in runs]
    return [
        {"first": names[a], "second": names[b], "score": score, **each, "p_adjusted": float(p)}
        for (a, b), each, p in zip(pairs, found, adjusted, strict=True)
    ]


def _shown_difference(row: Mapping[str, Any]) -> dict[str, str]:
    p = f"{row['p']:.3f}", f"{row['p_adjusted']:.3f}"
    shown = {"first": row["first"], "minus": row["second"], "difference": _interval(row, "+")}
    return shown | {"p": p[0], "p (Holm)": p[1]}


def _explain(arguments: argparse.Namespace) -> Result:
    """Lay a saliency map over radiographs: where does the model look?

    Make the saliency map of each radiograph: which regions raise (or change) the score of a class.
    A map says where this model looked, not whether it was right to.

    methods: METHODS.
      They read the maps of a layer (--layer; without it those that are pooled before the head) or
      the pixels (PIXELS). A fusion has a map for each branch.

    for example:
      %(prog)s runs/simulated/quick/custom_cnn/seed0 knee.png
      %(prog)s runs/simulated/quick/vgg16/seed0 *.jpg --method score_cam --target Osteoporosis

    writes: OUT/<name>.<method>.png, the map over the film with its scale; with --raw also .npy,
      the map as it came: float32, unscaled, in the resolution of the layer. An older file is
      replaced.
    prints: the predicted class and where the map peaks, in pixels of your file.
    """
    run = _run(Path(arguments.run))
    films, code = _films(arguments.images)
    _load_keras()
    rows = _explained(_open_member(run), films, arguments) if films else []
    print(NOTICE, file=sys.stderr)
    data = {"run": _title(run), "method": arguments.method, "maps": rows}
    return Result(data, _table([_shown_map(row) for row in rows]), code)


def _open_member(run: "Run") -> "Member":
    """The run with its network in memory; what is to be known of it first is told."""
    from osteo_utils.inference import open_member

    member = open_member(run)
    if member.note:
        print(printable(member.note), file=sys.stderr)
    return member


def _explained(
    member: "Member", films: "Sequence[Film]", arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Make and write every map; a row for each film and branch."""
    from osteo_utils.inference import answer, explain

    images = [film.image for film in films]
    p = answer([member], images).probabilities
    called = p.argmax(axis=1).tolist()
    target = called
    if arguments.target is not None:
        target = [CLASS_NAMES.index(arguments.target)] * len(films)
    branches = explain(member, images, arguments.method, target, arguments.layer)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (film, stem) in enumerate(zip(films, _stems(films), strict=True)):
        for branch, maps in branches.items():
            name = f"{stem}.{branch}" if branch else stem
            row = {"file": film.name, "called": CLASS_NAMES[called[i]], "p_called": p[i, called[i]]}
            row |= {"target": CLASS_NAMES[target[i]], "branch": branch}
            base = arguments.out / f"{name}.{arguments.method}"
            rows.append(row | _write_map(film, maps[i], base, row, arguments.raw))
    return rows


def _write_map(
    film: "Film", found: "SaliencyMap", base: Path, facts: Mapping[str, Any], raw: bool
) -> dict[str, Any]:
    """Write the picture (and the array) of one map; where it peaks and what was written.

    The strongest place is told in pixels of the file, which lies in the middle of its square.
    """
    import numpy as np

    from osteo_utils.store import replace_file

    array, picture = (base.with_name(f"{base.name}.{kind}") for kind in ("npy", "png"))
    if raw:
        replace_file(array, lambda part: np.save(part, found.cam))
    written: dict[str, Any] = {"raw": array if raw else None}
    if found.peak is None:
        return written | {"peak": None, "x": None, "y": None, "picture": None}
    replace_file(picture, lambda part: _draw(film, found.cam, facts, part))
    (height, width), (peak, across, down) = film.image.shape, found.peak
    side = max(height, width)
    x, y = across * side - (side - width) // 2, down * side - (side - height) // 2
    place = {"x": round(min(max(x, 0.0), width - 1.0)), "y": round(min(max(y, 0.0), height - 1.0))}
    return written | {"peak": peak} | place | {"picture": picture}


def _draw(
    film: "Film", cam: "npt.NDArray[np.float32]", facts: Mapping[str, Any], file: Path
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")  # a file, never a window
    from matplotlib import pyplot as plt

    from osteo_utils.data.images import fit_square
    from osteo_utils.figures.plots import cam_grid
    from osteo_utils.saliency.gradcam import resized

    side = min(_LARGEST_PICTURE, max(film.image.shape))
    title = f"map for {facts['target']}; called {facts['called']} {facts['p_called']:.2f}"
    square = fit_square(film.image, side)
    figure = cam_grid([square], resized(cam[None], side), [title], side=5)
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _shown_map(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = "no map: nothing in this film speaks for the class"
    peak = flat if row["peak"] is None else f"{row['peak']:.3g} at x {row['x']}, y {row['y']}"
    shown = {"file": Path(row["file"]).name, "called": f"{row['called']} {row['p_called']:.2f}"}
    shown |= {"branch": row["branch"]} if row["branch"] else {}
    return shown | {"map for": row["target"], "peak": peak, "picture": row["picture"] or ""}


def _predict(arguments: argparse.Namespace) -> Result:
    """Probabilities of the three classes for radiographs.

    Probabilities of the three classes for each radiograph, and the class that is called. Folders
    with a run.json are runs, everything else is a radiograph (JPEG, PNG, WebP, BMP, TIFF or
    DICOM). Several runs vote: the mean of their probabilities. Where a run has a
    novelty.json, each film is compared with the films it was trained on: an answer about a picture
    unlike these, or about no knee at all, means little.

    for example:
      %(prog)s runs/simulated/quick/custom_cnn/seed0 knee.png other.dcm
      %(prog)s runs/simulated/quick/custom_cnn/seed* knee.png --out answers.csv

    writes: nothing, or with --out a CSV table, a row for each film.
    A file that cannot be read is named and left out; the exit code is then 1.
    """
    paths = [Path(path) for path in arguments.paths]
    runs = [_run(path) for path in paths if path.is_dir()]
    if not runs:
        found = "no folder" if paths[0].exists() else "nothing of that name"
        raise ValueError(f"{paths[0]}: expected the folder of a run first, found {found}")
    if len(runs) == len(paths):
        raise ValueError(f"{paths[-1]}: expected radiographs after the runs, found none")
    films, code = _films([path for path in paths if not path.is_dir()])
    _load_keras()
    rows = _answered(runs, films) if films else []
    if arguments.out:
        _write_csv(rows, arguments.out)
    print(NOTICE, file=sys.stderr)
    data = {"runs": [_title(run) for run in runs], "images": rows}
    return Result(data, _table([_shown_answer(row) for row in rows]), code)


def _answered(runs: "Sequence[Run]", films: "Sequence[Film]") -> list[dict[str, Any]]:
    """The vote of the runs, a row for each film; one unlike the training films is remarked."""
    from osteo_utils.data.novelty import REMARK
    from osteo_utils.inference import answer
    from osteo_utils.runs import PROBABILITY_COLUMNS

    said = answer([_open_member(run) for run in runs], [film.image for film in films])
    rows = []
    for film, p, unlike in zip(films, said.probabilities, said.unlike, strict=True):
        if unlike:
            print(f"{printable(film.name)}: {REMARK}", file=sys.stderr)
        row = {"file": film.name, "called": CLASS_NAMES[p.argmax()]}
        row |= dict(zip(PROBABILITY_COLUMNS, p.tolist(), strict=True))
        rows.append(row | {"unlike_training": unlike})
    return rows


def _run(folder: Path) -> "Run":
    """The run in a folder; of another folder it is said where runs are, or how to name films."""
    from osteo_utils.runs import is_complete, read_run

    if not folder.is_dir():
        raise ValueError(f"{folder}: expected the folder of a run, found no folder of that name")
    if not is_complete(folder) and (inside := sorted(folder.glob("*/run.json"))):
        raise ValueError(
            f"{folder}: expected a finished run with run.json, found {len(inside)} in folders "
            f"below it; name one, such as {inside[0].parent}"
        )
    if not is_complete(folder) and (files := sum(path.is_file() for path in folder.iterdir())):
        raise ValueError(
            f"{folder}: expected a finished run with run.json, found a folder of {files:,} other "
            f"files; name the radiographs in it one by one, or all at once as {folder}/*"
        )
    run = read_run(folder)
    if (profile := PROFILES.get(run.info.get("profile", ""))) and profile.for_tests:
        told = f"of the profile {profile.name}, made to test the course: what it says means nothing"
        print(f"{_title(run)}: {told}", file=sys.stderr)
    return run


def _shown_answer(row: Mapping[str, Any]) -> dict[str, str]:
    shown = {key: f"{v:.3f}" if isinstance(v, float) else str(v) for key, v in row.items()}
    unlike = shown.pop("unlike_training")
    return shown | {"unlike training": {"True": "YES", "False": "no"}.get(unlike, "not checked")}


def _export(arguments: argparse.Namespace) -> Result:
    """Write a run as ONNX for use outside Keras, checked against Keras.

    Write the model of a run in the ONNX format, which runs in browsers and elsewhere. What both
    make of the same films is compared, of phantoms where no IMAGE is given; a file that disagrees
    with Keras, or films on which anything would agree, are an error, and no model is left.

    for example:
      %(prog)s runs/simulated/quick/custom_cnn/seed0
      %(prog)s runs/kaggle/full/mobilenet_v2/seed0 films/*.png --out exported

    writes: OUT/<model>-<digest>.onnx with the outputs probabilities and features (the last feature
      maps), and OUT/<model>-<digest>.json with what a page must know: classes, size, scores,
      weights.
    needs: pip install onnx onnxruntime tf2onnx
    """
    _need("onnx", "onnxruntime", "tf2onnx")
    run = _run(Path(arguments.run))
    films, code = _films(arguments.images)
    if code:  # a comparison on fewer films than asked for is another comparison
        return Result({}, "", code)
    _load_keras()
    import numpy as np

    from osteo_utils.export import describe, export_onnx
    from osteo_utils.inference import example_film
    from osteo_utils.store import write_json

    # Without films knees from strong to frail, so that the answers differ.
    films = films or [example_film(float(t)) for t in np.linspace(1, -4, 11)]
    member = _open_member(run)
    file = export_onnx(member, member.pixels([film.image for film in films]), arguments.out)
    description, about = file.with_suffix(".json"), describe(member, file)
    write_json(description, {"class_names": list(CLASS_NAMES), **about})
    data = {"run": _title(run), "file": file, "description": description, "bytes": about["bytes"]}
    told = f"{file} ({about['bytes'] / 1e6:.1f} MB) agrees with Keras\n{description}"
    return Result(data, told)


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        needed, absent = ", ".join(packages), " ".join(missing)
        raise ValueError(f"export: expected {needed}, found no {absent}; pip install {absent}")


# ---------------------------------------------------------------------------------------------
# Films and models


def _films(paths: Sequence[str | Path]) -> "tuple[list[Film], int]":
    """The films that can be read, and the exit code; what is wrong with the others is told."""
    from osteo_utils.errors import ImageError
    from osteo_utils.inference import read_film

    films, code = [], 0
    for path in paths:
        try:
            films.append(read_film(path))
        except ImageError as error:
            code = _complain(error)
    return films, code


def _stems(films: "Sequence[Film]") -> list[str]:
    """A name for each film that no other has, in small letters or large.

    The first `knee` keeps its name, the second is `knee-2`, unless a film of its own is called so.
    """
    names = [os.fsencode(Path(film.name).stem)[:_LONGEST_STEM] for film in films]
    own = [name.decode(errors="replace") for name in names]
    taken, seen = {stem.casefold() for stem in own}, set[str]()
    stems = []
    for stem in own:
        name, number = stem, 2
        while stem.casefold() in seen and name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        seen.add(stem.casefold())
        stems.append(name)
    return stems


def _load_keras() -> None:
    """Import Keras without the lines that TensorFlow writes past Python when it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# ---------------------------------------------------------------------------------------------
# Words, tables, JSON, errors


def _title(run: "Run") -> str:
    return f"{run.info['model']}/seed{run.info['seed']}"


def _scores(run: "Run", part: str) -> dict[str, dict[str, float]]:
    return {name: run.metrics[part][name] for name in (*SCORES, *CALIBRATION)}


def _words(score: str) -> str:
    known = (SCORES | CALIBRATION).get(score)
    return known.title if known else score.replace("_", " ")


def _interval(score: Mapping[str, Any], sign: str = "") -> str:
    from osteo_utils.scoring.evaluate import with_interval

    return with_interval(score, sign)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in columns, words to the left and numbers to the right; "" for what is not known."""
    if not rows:
        return "(none)"
    from tabulate import tabulate

    cells = [[*rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    sides = ["right" if isinstance(value, int | float) else "left" for value in rows[0].values()]
    # Without parsing, since a film may be called 1e5.
    return str(tabulate(cells, tablefmt="plain", colalign=sides, disable_numparse=True))


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else printable(value)


def _records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    from osteo_utils.store import replace_file

    file.parent.mkdir(parents=True, exist_ok=True)
    text = csv_text([_plain(row) for row in rows]) if rows else ""
    replace_file(file, lambda part: part.write_text(text, encoding="utf-8"))


def _as_json(data: Mapping[str, Any]) -> str:
    """JSON in ASCII: it passes any terminal, and a name that is no UTF-8 comes back as it was."""
    return json.dumps(_plain(data), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """What JSON knows: a number that is none becomes null, a path its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _complain(problem: object, code: int = 1) -> int:
    """One line on stderr, whatever is in the message; the exit code comes back."""
    if isinstance(problem, OSError) and problem.filename and problem.strerror:
        problem = f"{problem.filename}: {problem.strerror}"
    print("osteo: error:", printable(" ".join(str(problem).split())), file=sys.stderr, flush=True)
    return code


def _say(text: str) -> None:
    """Print a result; what the terminal has no letters for is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _is_expected(error: Exception) -> bool:
    """Whether the message is for the reader: the package's or the system's. Else it is a bug."""
    if isinstance(error, OSError) or type(error).__module__.startswith("osteo_utils."):
        return True
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = raised_in.is_relative_to(Path(__file__).parent)
    return type(error) is ValueError and ours and "expected" in str(error)


@contextmanager
def _notes_on_stderr(quiet: bool) -> Iterator[None]:
    """In this block what is printed goes to stderr, or nowhere; stdout is for the result."""
    if not quiet:
        with redirect_stdout(sys.stderr):
            yield
        return
    os.environ["OSTEO_PROGRESS"] = "0"  # no bars in this process, which is the command
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
