"""The plumbing under a chapter: find what earlier chapters made, or make it, and say which.

A chapter opens the course once and then asks for the audit, the split, the arrays or a trained
model. Everything lives in `runs/<corpus>/<profile>/`, where a person can open it.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from osteo_utils.data.corpus import (
    corpus_name,
    corpus_path,
    films_digest,
    list_corpus,
    listing_digest,
    open_corpus,
)
from osteo_utils.data.splits import (
    SplitError,
    film_changes,
    make_split,
    read_split,
    split_changes,
    split_identity,
    write_split,
)
from osteo_utils.errors import CorpusError
from osteo_utils.phantom.corpus import corpus_info
from osteo_utils.registry import CLASS_NAMES, Profile, get_profile, recipe
from osteo_utils.runs import (
    Run,
    differences,
    installed_versions,
    is_complete,
    no_longer_fits,
    probabilities,
    read_run,
    run_folder,
    settings_of,
)
from osteo_utils.store import locked, write_json

# The audit loads scikit-learn, so only those functions import it that ask for one.
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from osteo_utils.data.audit import Audit
    from osteo_utils.networks.training import Arrays

DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
LARGEST_SEED = 2**31 - 1  # Keras adds a little to it and keeps it in 32 bits
SHOWN_VERSIONS = ("osteo-utils", "tensorflow", "keras", "numpy", "pandas", "scikit-learn")


@dataclass(frozen=True)
class Course:
    """One way through the book: a profile on a corpus, with the folder that holds its results.

    Attributes:
        profile: Its settings.
        corpus: "simulated", "kaggle", or the absolute path of a folder or zip.
        seed: Of training and of a chapter's own random draws.
        runs: The folder of all runs.
        root: The corpus on disk.

    Example:
        >>> course = Course(get_profile("quick"), "simulated", 0, Path("runs"), Path("corpora"))
        >>> course.folder.as_posix()
        'runs/simulated/quick'
    """

    profile: Profile
    corpus: str
    seed: int
    runs: Path
    root: Path

    @property
    def folder(self) -> Path:
        """Where the audit, the split and the run folders of this corpus and profile are."""
        return self.runs / corpus_name(self.corpus) / self.profile.name

    def recipe(self, model: str) -> Profile:
        """The profile as this model is trained in it: its own image size, epochs and seeds.

        Args:
            model: Name of the architecture, as `registry.get_architecture` takes it.

        Returns:
            The settings.

        Raises:
            ValueError: No architecture has this name.
        """
        return recipe(self.profile, model)


def open_course(
    profile: str = "quick", corpus: str = "simulated", seed: int = 0, runs: str | Path = "runs"
) -> Course:
    """Open a corpus in a profile, making or fetching the corpus if it is not there yet.

    Corpora lie in `corpora/` beside the runs, but never on Google Drive, which is slow with many
    small files. Prints what is used, with versions.

    Args:
        profile: "smoke", "quick" or "full".
        corpus: "simulated", "kaggle", or the path of a folder or zip with one sub-folder a class.
        seed: Of training and of a chapter's own random draws, 0 to `LARGEST_SEED`; corpus and split
            do not depend on it.
        runs: The folder of all runs. It starts at the folder of the course where a chapter of it is
            run, else at the current one.

    Returns:
        The course, whose folder exists now.

    Raises:
        ValueError: No profile has this name, or the seed is out of range.
        CorpusError: The corpus cannot be had or used, the runs are on a Google Drive that is not
            mounted, or they are those of another corpus of this name, or their record of it is
            damaged.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed: expected a whole number in 0..{LARGEST_SEED}, found {seed}")
    settings, home = get_profile(profile), _home(runs)
    root = corpus_folder(profile, corpus, runs)
    course = Course(settings, str(corpus_path(corpus) or corpus), seed, home, root)
    course.folder.mkdir(parents=True, exist_ok=True)
    _check_path(course)
    print(f"profile {profile} | corpus {corpus_name(corpus)} | seed {seed} | {_circumstances()}")
    return course


def corpus_folder(
    profile: str = "quick", corpus: str = "simulated", runs: str | Path = "runs"
) -> Path:
    """Where `open_course` finds the corpus, made or fetched if it is not there yet.

    Args:
        profile: As in `open_course`.
        corpus: As in `open_course`.
        runs: As in `open_course`.

    Returns:
        The folder of the corpus.

    Raises:
        ValueError: No profile has this name.
        CorpusError: The corpus cannot be had or used, or the runs are on a Google Drive that is not
            mounted.
    """
    return open_corpus(corpus, get_profile(profile), _corpora(_home(runs)))


def _home(runs: str | Path) -> Path:
    here = Path.cwd()
    in_checkout = here.name == "notebooks" and (here.parent / "osteo_utils").is_dir()
    return ((here.parent if in_checkout else here) / runs).resolve()


def _corpora(runs: Path) -> Path:
    if not runs.is_relative_to(DRIVE):
        return runs.parent / "corpora"
    if not any(DRIVE.glob("*")):
        remedy = f'Run this first: from google.colab import drive; drive.mount("{DRIVE}")'
        raise CorpusError(runs, "Google Drive, mounted", f"nothing in {DRIVE}", remedy)
    return DRIVE.parent / "corpora"


def data_file(name: str) -> Path:
    """A table of facts that comes with the course.

    Args:
        name: Of the file, such as "published_summary.csv".

    Returns:
        Its path in the installed package or in the repository.

    Raises:
        FileNotFoundError: There is no such table.

    Example:
        >>> data_file("published_summary.csv").is_file()
        True
    """
    here = Path(__file__).resolve().parent
    installed_or_checkout = (here / "tables" / name, here.parent / "data" / name)
    found = next((file for file in installed_or_checkout if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{name}: expected a table of the course (see data/README.md)")
    return found


def _check_path(course: Course) -> None:
    """Write down whose results a folder of runs holds; `CorpusError` if they are another's."""
    if corpus_path(course.corpus) is None:
        return
    file, info = course.folder.parent / "corpus.json", {"path": course.corpus}
    if not file.exists():
        write_json(file, info)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = (
            "It is damaged and holds no results: delete this one file, and it is written again."
        )
        raise CorpusError(file, "the path of a corpus", error, remedy) from None
    if found != info:
        remedy = "Two corpora have one short name: rename the folder or zip, or use other runs."
        raise CorpusError(file, f"the corpus {course.corpus}", found, remedy)


def _circumstances() -> str:
    return f"Python {platform.python_version()}, {installed(SHOWN_VERSIONS)}"


def installed(packages: "Sequence[str]") -> str:
    """The version of each package, or that it is not installed, in one line.

    Args:
        packages: Names, as on PyPI.

    Returns:
        The line.

    Example:
        >>> installed(["no-such-package"])
        'no-such-package not installed'
    """
    found = installed_versions(packages)
    return ", ".join(f"{name} {found.get(name, 'not installed')}" for name in packages)


def listed(course: Course) -> pd.DataFrame:
    """`list_corpus` of the corpus; films that are unchanged since the last time are not read.

    Args:
        course: Whose corpus is listed.

    Returns:
        What `data.corpus.list_corpus` gives.

    Raises:
        CorpusError: The corpus cannot be used.
    """
    return list_corpus(course.root, course.folder / "cache" / "listing.json")


def audited(course: Course) -> "Audit":
    """The audit of the corpus: read where it still fits the files, made (and kept) otherwise.

    It is made again, and the print says why, when a film, metadata.csv, the audit's code or one of
    its tables has changed. Of two processes at once the second one waits.

    Args:
        course: Whose corpus is audited.

    Returns:
        The audit.

    Raises:
        CorpusError: The corpus cannot be used.
    """
    from osteo_utils.data import audit

    folder = course.folder
    with locked(folder / "audit.csv"):
        listing = listed(course)
        made_from = {"listing": listing_digest(listing), "code": audit.audit_code()}
        if not (reason := _stale_audit(folder, listing, made_from)):
            return audit.read_audit(folder)
        print(reason)
        report = audit.audit(course.root, listing)
        audit.write_audit(report, folder)
        write_json(folder / "audit.json", made_from | {"tables": _tables(folder)})
    return report


def _stale_audit(folder: Path, listing: pd.DataFrame, made_from: dict[str, str]) -> str:
    """Why the audit in a folder cannot be believed, or ""; audit.json says what it is of."""
    from osteo_utils.data.audit import read_audit

    try:
        known = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
        if known["tables"] != _tables(folder):
            return "The tables of the audit were changed or damaged: auditing again."
    except FileNotFoundError:
        return "No audit of this corpus yet: auditing now (see the chapter on the audit)."
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"The audit's record is damaged ({error!r}): auditing again."
    if known["listing"] != made_from["listing"]:
        changes = film_changes(read_audit(folder).images, listing) or "facts or metadata.csv"
        return f"The files have changed since the audit ({changes}): auditing again."
    if known["code"] != made_from["code"]:
        return "The audit is of another version of the code: auditing again."
    return ""


def _tables(folder: Path) -> dict[str, str]:
    from osteo_utils.data.audit import FILES

    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def split(course: Course) -> pd.DataFrame:
    """The one split of this corpus, held against the films that are there now.

    Made from the audit if there is none. If the films that the audit keeps, or their groups, are no
    longer those that were split, it is made again as long as nothing rests on it; otherwise a
    network would be tested on films it knows, or on others than its record says. Of two processes
    at once the second one waits.

    Args:
        course: Whose corpus is split.

    Returns:
        Columns path, label, group, part and sha256, a row for each film; `attrs["films"]` is the
        digest of the films.

    Raises:
        SplitError: The films have changed and something rests on the split (the message says what),
            the file of the split was changed, or no valid split can be made.
        CorpusError: The corpus cannot be used.
    """
    path = course.folder / "split.csv"
    with locked(path):
        images = audited(course).images
        kept, films = images[images["keep"]], films_digest(course.root, images)
        if path.exists():
            parts = read_split(path)
            if parts.attrs["films"] == films:  # the same phantoms, perhaps from another encoder
                here = dict(zip(kept["path"], kept["sha256"], strict=True))
                digests = zip(parts["path"], parts["sha256"], strict=True)
                parts = parts.assign(sha256=[here.get(path, known) for path, known in digests])
            if not (changes := split_changes(parts, kept)):
                return parts
            _refuse_if_used(course.folder, changes)
            print(f"The films have changed since the split ({changes}): splitting again.")
        else:
            print("No split of this corpus yet: splitting now (see the chapter on splitting).")
        parts = make_split(images)
        parts.attrs["films"] = films
        path.unlink(missing_ok=True)
        write_split(parts, path)
    return parts


def _refuse_if_used(folder: Path, changes: str) -> None:
    """`SplitError` if anything but the audit lies beside the split: it may rest on the split."""
    from osteo_utils.data.audit import FILES

    ours = {*FILES, "audit.json", "split.csv", "split.json", "cache"}
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    if others := [name for name in names if name not in ours]:
        remedy = (
            f"{', '.join(others[:3])} may rest on it: put the films back as they were, or delete "
            f"{folder} to start over."
        )
        raise SplitError(folder / "split.csv", "the films that were split", changes, remedy)


def arrays(course: Course, image_size: int | None = None) -> "dict[str, Arrays]":
    """Images and labels of the three parts, decoded once and cached beside the split.

    Args:
        course: Whose corpus is decoded.
        image_size: Side in pixels; by default that of the profile.

    Returns:
        "train", "validation" and "test" to images, uint8, shape (n, size, size, 1), and labels, 0
        to 2, shape (n,).

    Raises:
        ImageError: A file cannot be used as a radiograph, or is not the one that was split.
        SplitError: As `split` raises it.
    """
    from osteo_utils.networks.training import load_parts

    size = image_size or course.profile.image_size
    return load_parts(course.root, split(course), size, course.folder / "cache")


def train_model(course: Course, model: str, seed: int | None = None) -> Run:
    """Train a model in this profile, or return the run if it is already whole.

    A whole run of another network, of other films or settings is trained again where the profile is
    cheap enough, in a line that says what changed, and refused where it is not. A fusion that
    starts from the runs of its members has them trained first.

    Args:
        course: In which it is trained.
        model: Name of the architecture.
        seed: Of the training; by default that of the course.

    Returns:
        The run.

    Raises:
        ValueError: No architecture has this name.
        RunError: The run there does not fit and is not replaced, a run is damaged, or the training
            diverges.
        SplitError: As `split` raises it.
    """
    return _train(course, model, [course.seed if seed is None else seed])[0]


def _train(course: Course, model: str, seeds: "Sequence[int]") -> list[Run]:
    from osteo_utils.networks.training import load_parts, train
    from osteo_utils.registry import get_architecture

    settings, name = course.recipe(model), corpus_name(course.corpus)
    if settings.weights == "members":
        for member in get_architecture(model).members:
            _train(course, member, seeds)
    parts = split(course)
    images = load_parts(course.root, parts, settings.image_size, course.folder / "cache")
    runs = [_run_folder(course, model, seed) for seed in seeds]
    if not settings.for_tests and not all(is_complete(folder) for folder in runs):
        print(_before_training(settings, model))
    return [
        train(
            *(model, images, parts, settings, seed, folder, name),
            replace_stale=settings.replaces_stale,
        )
        for seed, folder in zip(seeds, runs, strict=True)
    ]


def _before_training(settings: Profile, model: str) -> str:
    """What will be trained, and how long that took where it was measured."""
    from osteo_utils.registry import get_architecture

    told = f"{get_architecture(model).title} has no finished run yet and is trained now, for at "
    told += f"most {settings.epochs} epochs at {settings.image_size} pixels. "
    measured = pd.read_csv(data_file("reference/training_seconds.csv"))
    seconds = measured.loc[measured["model"] == model, "seconds"]
    if settings.name != "quick" or seconds.empty:
        return f"{told}All networks of the profile {settings.name} take {settings.training_time}."
    return f"{told}One core took {max(1, round(seconds.mean() / 60))} min for it in a build."


def _run_folder(course: Course, model: str, seed: int) -> Path:
    return run_folder(course.runs, corpus_name(course.corpus), course.profile.name, model, seed)


def fitting_runs(
    course: Course, models: "Iterable[str]", seeds: "Sequence[int] | None" = None
) -> dict[str, list[Run]]:
    """The finished runs of each model that fit its network, settings and films as they are now.

    Whoever reads runs of a course asks here: none is believed because it exists. One that no longer
    fits counts as absent where the profile would train it again, and is refused where it would not.

    Args:
        course: Whose runs are read.
        models: Names of the architectures.
        seeds: Of the runs; by default those of the profile for the model.

    Returns:
        Model to its runs; an empty list for a model that has none.

    Raises:
        ValueError: No architecture has this name.
        RunError: A run is damaged, or does not fit and would not be replaced.
        SplitError: As `split` raises it, where there is a run.
    """
    wanted = {model: course.recipe(model).seeds if seeds is None else seeds for model in models}
    there = {
        model: [seed for seed in each if is_complete(_run_folder(course, model, seed))]
        for model, each in wanted.items()
    }
    identity = split_identity(split(course)) if any(there.values()) else {}
    found = {
        model: [_fitting_run(course, model, seed, identity) for seed in each]
        for model, each in there.items()
    }
    return {model: [run for run in each if run is not None] for model, each in found.items()}


def _fitting_run(
    course: Course, model: str, seed: int, identity: "Mapping[str, str]"
) -> Run | None:
    from osteo_utils.networks.training import method_of

    profile, folder = course.recipe(model), _run_folder(course, model, seed)
    run = read_run(folder)
    changed = differences(run.info, settings_of(method_of(model, profile), identity, seed, folder))
    if changed and not profile.replaces_stale:
        raise no_longer_fits(folder, changed)
    return None if changed else run


def trained(course: Course, model: str, seed: int | None = None) -> Run:
    """The run that a model's own chapter made; an announced smoke-size stand-in if absent.

    A run of another network, of other films or settings counts as absent where the profile would
    train it again, and is refused where it would not.

    Args:
        course: Whose run is read.
        model: Name of the architecture.
        seed: Of the training; by default that of the course.

    Returns:
        The run. In a profile for tests it is trained, unannounced, where it is absent.

    Raises:
        ValueError: No architecture has this name.
        RunError: As `fitting_runs` and `train_model` raise it.
        SplitError: As `split` raises it.
    """
    seed = course.seed if seed is None else seed
    if found := fitting_runs(course, [model], [seed])[model]:
        return found[0]
    if course.profile.for_tests:
        return train_model(course, model, seed)
    print(
        f"No finished run of {model} as it is now in {course.folder}: a smoke-size one is trained "
        "instead; scores mean little."
    )
    small = open_course("smoke", course.corpus, course.seed, course.runs)
    return train_model(small, model, seed)


def with_runs(
    course: Course, models: "Sequence[str]", every_seed: bool = False, least: int | None = None
) -> Course:
    """The course itself if it has finished runs of the models, else the smoke course, said once.

    Networks of the smoke course are trained where they are missing: small stand-ins, all on the
    same films, whose scores mean little. A course of a profile for tests is returned as it is.

    Args:
        course: Whose runs are looked for.
        models: Names of the architectures.
        every_seed: Ask for every seed of the profile and not only for the course's own.
        least: How many of the models are enough; by default all.

    Returns:
        The course to go on with.

    Raises:
        ValueError: No architecture has this name.
        RunError: As `fitting_runs` raises it.
        SplitError: As `split` raises it.
    """
    if course.profile.for_tests:
        return course
    found = fitting_runs(course, models, None if every_seed else [course.seed])
    wanted = {model: len(course.recipe(model).seeds) if every_seed else 1 for model in models}
    missing = [model for model in models if len(found[model]) < wanted[model]]
    if len(models) - len(missing) >= (len(models) if least is None else least):
        return course
    print(
        f"No finished run of {', '.join(missing)} in {course.folder}: on this page networks of the "
        "profile smoke stand in for all; they take some minutes, and their scores mean little. "
        f"Training all networks takes {course.profile.training_time}: run their chapters with the "
        "same `runs`, or train_seeds(course, name) for each name."
    )
    return open_course("smoke", course.corpus, course.seed, course.runs)


def train_seeds(course: Course, model: str) -> list[Run]:
    """The finished run of a model for every seed of the profile, trained where there is none.

    Args:
        course: In which it is trained.
        model: Name of the architecture.

    Returns:
        A run for each seed, in the order of the profile.

    Raises:
        ValueError: No architecture has this name.
        RunError: As `train_model` raises it.
        SplitError: As `split` raises it.
    """
    return _train(course, model, course.recipe(model).seeds)


def scores_by_seed(
    runs: "Sequence[Run]", score: str = "balanced_accuracy", part: str = "test"
) -> pd.DataFrame:
    """One score of one part with its interval, a row for each run.

    Args:
        runs: Of one model.
        score: A key of `Run.metrics` in that part.
        part: "validation" or "test".

    Returns:
        Index "seed 0" and so on, columns value, low and high.

    Example:
        >>> metrics = {"test": {"balanced_accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}}}
        >>> run = Run(Path(), {"seed": 0}, pd.DataFrame(), metrics, pd.DataFrame())
        >>> scores_by_seed([run]).loc["seed 0"].tolist()
        [0.8, 0.7, 0.9]
    """
    rows = {f"seed {run.info['seed']}": run.metrics[part][score] for run in runs}
    return pd.DataFrame.from_dict(rows, orient="index")[["value", "low", "high"]]


def reference_scores(course: Course) -> dict[str, float]:
    """Balanced accuracies that a model is held against, as far as this corpus knows them.

    Args:
        course: Whose corpus it is.

    Returns:
        "chance" always; "best possible" of a simulated corpus; "best baseline", chosen on
        validation and scored on test, once baselines.csv is written.

    Raises:
        CorpusError: The record of a simulated corpus is damaged.
    """
    lines = {"chance": 1 / len(CLASS_NAMES)}
    if made := corpus_info(course.root):
        lines["best possible"] = float(made["best_possible"]["balanced_accuracy"])
    if (baselines := course.folder / "baselines.csv").exists():
        lines["best baseline"] = _best_baseline(pd.read_csv(baselines))
    return lines


def _best_baseline(predictions: pd.DataFrame) -> float:
    from osteo_utils.scoring.evaluate import scores

    reached = {
        key: scores(rows["label"], probabilities(rows))["balanced_accuracy"]
        for key, rows in predictions.groupby(["baseline", "part"])
    }
    names = predictions["baseline"].unique()
    return reached[max(names, key=lambda name: reached[name, "validation"]), "test"]
