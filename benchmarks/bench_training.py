"""Milliseconds an image of a training step, for each architecture, image size and precision.

    python benchmarks/bench_training.py [model ...] [--sizes 96 128] [--precisions float32 ...]

What a build on two cores can afford is decided with this. On a busy machine read the processor
time, the second figure: one thread, so both are the same on an idle one.
"""

import argparse
import os
import time

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}

import keras
import numpy as np

from osteo_utils.networks.models import build
from osteo_utils.registry import ARCHITECTURES, get_architecture

BATCH = 16


def milliseconds(
    name: str, size: int, precision: str, steps: int = 6
) -> tuple[float, float, float]:
    """Wall and processor milliseconds an image of a step, and seconds to build and trace."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (BATCH, size, size, 1), dtype=np.uint8)
    labels = rng.integers(0, 3, BATCH)
    start = time.perf_counter()
    model = build(name, size, precision=precision, width="thin")
    model.compile(keras.optimizers.AdamW(1e-4), "sparse_categorical_crossentropy")
    model.train_on_batch(images, labels)
    traced = time.perf_counter() - start
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        model.train_on_batch(images, labels)
    scale = 1000 / steps / BATCH
    spent = time.process_time() - processor
    return (time.perf_counter() - wall) * scale, spent * scale, traced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--sizes", type=int, nargs="+", default=[96])
    parser.add_argument("--precisions", nargs="+", default=["float32", "mixed_bfloat16"])
    asked = parser.parse_args()
    for name in asked.models:
        for size in asked.sizes:
            if size < get_architecture(name).min_size:
                continue
            for precision in asked.precisions:
                wall, processor, traced = milliseconds(name, size, precision)
                print(
                    f"{name:14} {size} px {precision:15} {wall:6.1f} ms wall {processor:6.1f} ms "
                    f"processor an image, {traced:5.1f} s to build and trace",
                    flush=True,
                )


if __name__ == "__main__":
    main()
