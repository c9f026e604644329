"""Seconds of an epoch of the head: on cached features, and as the reference project does it.

    python benchmarks/bench_features.py [model] [images] [size]

The reference reads, decodes and resizes every file again in each epoch and runs the frozen backbone
on it (reading by a Python loader, batches of 64). This course computes the features once. Both in
one run, on the same simulated files, with random weights: the clock does not see the difference.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.images import fit_square, read_image
from osteo_utils.networks.models import build
from osteo_utils.networks.training import features_of, head_of
from osteo_utils.phantom.corpus import make_simulated

BATCH = 64


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def frozen(name: str, size: int) -> keras.Model:
    model = build(name, size)
    for layer in model.layers[: model.layers.index(model.get_layer("dropout"))]:
        layer.trainable = False
    return model


def epoch_from_files(model: keras.Model, files: list[Path], labels: np.ndarray, size: int) -> None:
    for start in range(0, len(files), BATCH):
        batch = [fit_square(read_image(file), size) for file in files[start : start + BATCH]]
        model.train_on_batch(np.stack(batch)[..., None], labels[start : start + BATCH])


def main() -> None:
    name, images, size = (*sys.argv[1:4], *("mobilenet_v2", "192", "224")[len(sys.argv) - 1 :])
    measure(name, int(images), int(size))


def measure(name: str, images: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = make_simulated(Path(folder) / "corpus", images // 2, 512, faults=False)
        listing = list_corpus(root)
        files, labels = [root / path for path in listing["path"]], listing["label"].to_numpy()
        model = frozen(name, size)
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        epoch_from_files(model, files[:BATCH], labels, size)  # trace
        slow = seconds(lambda: epoch_from_files(model, files, labels, size))

        arrays = np.stack([fit_square(read_image(file), size) for file in files])[..., None]
        head = head_of(model)
        head.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        start = time.perf_counter()
        cached = features_of(model, arrays)
        once = time.perf_counter() - start
        head.fit(cached, labels, batch_size=BATCH, verbose=0)  # trace
        fast = min(
            seconds(lambda: head.fit(cached, labels, batch_size=BATCH, verbose=0)) for _ in range(5)
        )
    print(
        f"{name}, {len(files)} files, {size} px: an epoch from the files {slow:.2f} s; features "
        f"once {once:.2f} s, then an epoch on them {fast:.3f} s: {slow / fast:.0f} times as fast"
    )


if __name__ == "__main__":
    main()
