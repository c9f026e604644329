"""What simple methods reach on the Mendeley set, on whole films and on the knees cut out of them.

Usage, from the root of the repository: python data/reference/mendeley_results.py FOLDER WEIGHTS

FOLDER holds the set, WEIGHTS the files of MobileNetV2 without top for alpha 1.0 and 0.35 as Keras
names them. Writes mendeley_results.csv. About ten minutes on one core; features are computed once.

Films: one of each family of copies, none of a family whose copies carry different labels. Repeated
stratified cross-validation by film; both knees of a film are in the same fold, and the film's
probabilities are the mean over its knees. A film on which no knee is found stays whole. C is
chosen inside the training folds. Intervals: percentiles of a bootstrap over films of the score
averaged over the repeats; they do not know that another sample would have trained other models.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from osteo_utils.chapters.features import binary_patterns, histogram
from osteo_utils.chapters.locator import crop_knee, locate_knees
from osteo_utils.data.audit import audit
from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.images import fit_square, read_image

SIDE, MULTIPLE = 224, 2.0  # pixels; side of a cut in widths of the joint
FOLDS, REPEATS, INNER, RESAMPLES = 5, 5, 3, 2000
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


def mobilenet(weights: Path, alpha: float) -> Callable[[np.ndarray], np.ndarray]:
    """Frozen MobileNetV2 with ImageNet weights: pictures (n, 224, 224) to averaged features."""
    file = weights / f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"
    network = keras.applications.MobileNetV2(
        (SIDE, SIDE, 3), alpha, include_top=False, pooling="avg", weights=str(file)
    )
    return lambda x: network.predict(
        np.repeat(x[..., None], 3, axis=-1) / 127.5 - 1, batch_size=16, verbose=0
    )


def logistic(strength: float) -> Pipeline:
    """Standardised features, straight boundaries, classes weighted alike."""
    model = LogisticRegression(C=strength, max_iter=500, tol=1e-3, class_weight="balanced")
    return make_pipeline(StandardScaler(), model)


def fitted(x: np.ndarray, y: np.ndarray, film: np.ndarray) -> Pipeline:
    """The strength that does best on the inner folds of these rows, fitted on all of them."""
    score = dict.fromkeys(STRENGTHS, 0.0)
    for train, test in GroupKFold(INNER, shuffle=True, random_state=0).split(x, y, film):
        for c in STRENGTHS:
            said = logistic(c).fit(x[train], y[train]).predict(x[test])
            score[c] += balanced_accuracy_score(y[test], said)
    return logistic(max(score, key=score.__getitem__)).fit(x, y)


def out_of_fold(x: np.ndarray, film: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted class of every film in every repeat; row i of `x` belongs to `film[i]`."""
    answers = np.zeros((REPEATS, len(labels)), int)
    for repeat in range(REPEATS):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat)
        for train, test in folds.split(labels, labels):
            known, asked = np.isin(film, train), np.isin(film, test)
            model = fitted(x[known], labels[film[known]], film[known])
            p = pd.DataFrame(model.predict_proba(x[asked])).groupby(film[asked]).mean()
            answers[repeat, p.index] = p.to_numpy().argmax(axis=1)
    return answers


def resampled(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Balanced accuracy averaged over the repeats: as it is, then in RESAMPLES bootstraps."""
    n = len(labels)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    weights = np.vstack([np.ones(n), drawn])
    right = (answers == labels).mean(axis=0)
    recalls = [(weights * (labels == c) @ right) / (weights @ (labels == c)) for c in range(3)]
    return np.mean(recalls, axis=0)


def row(features: str, sees: str, scores: np.ndarray) -> tuple:
    """A line of the table: value and 95 % interval."""
    return features, sees, scores[0], *np.quantile(scores[1:], [0.025, 0.975])


if __name__ == "__main__":
    root, weights = Path(sys.argv[1]), Path(sys.argv[2])
    images = audit(root, list_corpus(root)).images.query("keep").reset_index(drop=True)
    labels = images["label"].to_numpy()
    films = [read_image(root / path) for path in images["path"]]
    cuts = [[crop_knee(f, k, MULTIPLE) for k in locate_knees(f)] or [f] for f in films]
    pictures = {
        "whole film": (np.arange(len(films)), films),
        "knees cut out": (
            np.repeat(np.arange(len(films)), [len(c) for c in cuts]),
            [knee for cut in cuts for knee in cut],
        ),
    }
    facts = np.log(images[["width", "height", "bytes"]].astype(float))
    facts = np.column_stack([facts, images["mode"] == "L"]).astype(float)
    majority = np.full((1, len(labels)), np.bincount(labels).argmax())
    rows = [row("majority class", "nothing", resampled(majority, labels))]
    one = np.arange(len(labels))
    rows.append(row("metadata", "the file", resampled(out_of_fold(facts, one, labels), labels)))
    extract = {
        "grey histogram": lambda x: np.array([histogram(i) for i in x]),
        "local binary patterns": lambda x: np.array([binary_patterns(i) for i in x]),
        "MobileNetV2, alpha 1.0": mobilenet(weights, 1.0),
        "MobileNetV2, alpha 0.35": mobilenet(weights, 0.35),
    }
    squares = {k: (f, np.array([fit_square(i, SIDE) for i in p])) for k, (f, p) in pictures.items()}
    for name, measure in extract.items():
        scores = {
            sees: resampled(out_of_fold(np.asarray(measure(x)), film, labels), labels)
            for sees, (film, x) in squares.items()
        }
        rows += [row(name, sees, values) for sees, values in scores.items()]
        rows.append(row(name, "difference", scores["knees cut out"] - scores["whole film"]))
        print(*rows[-3:], sep="\n", flush=True)
    table = pd.DataFrame(rows, columns=["features", "sees", "value", "low", "high"])
    table["films"], table["pictures"] = (
        len(films),
        table["sees"].map({sees: len(film) for sees, (film, _) in squares.items()}),
    )
    table.round(4).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))
