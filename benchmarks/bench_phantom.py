"""How many phantom knees a second one core makes: `python benchmarks/bench_phantom.py [size]`.

Prints the median over several batches, by wall clock and by processor time of this process; the
second is the one to compare on a machine that is busy with something else.
"""

import os
import sys
import time

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before NumPy is loaded

import numpy as np  # noqa: E402

from osteo_utils.phantom import simulate_knee  # noqa: E402


def rates(size: int, batches: int = 7, per_batch: int = 20) -> tuple[float, float]:
    """Median images a second at `size` pixels: by wall clock and by processor time."""
    rng = np.random.default_rng(0)
    simulate_knee(0.0, rng, size)  # fills the caches
    seconds = []
    for _ in range(batches):
        wall, cpu = time.perf_counter(), time.process_time()
        for t_score in np.linspace(-4, 1, per_batch):
            simulate_knee(float(t_score), rng, size)
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall_median, cpu_median = np.median(seconds, axis=0)
    return per_batch / float(wall_median), per_batch / float(cpu_median)


if __name__ == "__main__":
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 224
    by_wall, by_cpu = rates(side)
    print(f"simulate_knee at {side} px, one thread: {by_wall:.0f} images/s by wall clock, ", end="")
    print(f"{by_cpu:.0f} images/s by processor time")
