"""Seconds of the audit for as many files of 1,000 px as the public set has.

    python benchmarks/bench_audit.py [files] [size]

Simulated knees of 192 px, enlarged, under fresh noise, saved as JPEG (every eighth as PNG) in a
temporary folder. Every tenth file is a re-encoded copy of the one before it: the audit must find
these and no others. On a busy machine read the seconds of processor.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from osteo_utils.data.audit import audit, counts, measure_shortcuts
from osteo_utils.data.corpus import list_corpus
from osteo_utils.phantom import simulate_knee
from osteo_utils.registry import CLASS_NAMES, IMAGE_FOLDER

COPIES = 10  # one file in so many is a copy of the one before


def save_file(folder: Path, number: int, size: int) -> None:
    name = CLASS_NAMES[number % 3]
    path = folder / IMAGE_FOLDER / name / f"{name} {number}{'.jpg' if number % 8 else '.png'}"
    copy = number % COPIES == COPIES - 1
    rng = np.random.default_rng(number - copy)
    knee = Image.fromarray(simulate_knee(rng.uniform(-4, 1), rng, 192).image)
    knee = knee.resize((size, size), Image.Resampling.BICUBIC)
    grey = np.asarray(knee, dtype=np.float32) + 6 * rng.standard_normal((size, size), np.float32)
    noisy = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    noisy.save(path, quality=80 if copy else 90)  # PNG ignores the quality


def make_files(folder: Path, files: int, size: int) -> None:
    for name in CLASS_NAMES:
        (folder / IMAGE_FOLDER / name).mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda number: save_file(folder, number, size), range(files)))


def main(files: int = 1947, size: int = 1000) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        make_files(folder, files, size)
        print(f"{files} files of {size} px made in {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        listing = list_corpus(folder)
        print(f"listing   {time.perf_counter() - start:6.1f} s")
        start, cpu = time.perf_counter(), time.process_time()
        report = audit(folder, listing)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"audit     {seconds:6.1f} s ({cpu:.1f} s of processor)")
        start = time.perf_counter()
        measure_shortcuts(report.images[report.images["keep"]])
        print(f"  of this, shortcuts {time.perf_counter() - start:.1f} s")
        print(counts(report), f"copies made: {files // COPIES}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
