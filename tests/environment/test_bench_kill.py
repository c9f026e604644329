"""Killing a build kills all of it, or the comparison with an unkilled one would lie."""

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_kill

# It starts a process that leaves its process group, as Jupyter's kernels do, and writes on.
WRITER = "import time\nwhile True:\n open('written', 'a').write('x')\n time.sleep(0.02)"
PARENT = (
    "import subprocess, sys, time; "
    f"subprocess.Popen([sys.executable, '-c', {WRITER!r}], start_new_session=True); time.sleep(60)"
)


def test_what_leaves_the_process_group_is_killed_and_named(tmp_path):
    outlived: list[str] = []
    assert bench_kill.run([sys.executable, "-c", PARENT], tmp_path, 2, outlived) is None
    size = (tmp_path / "written").stat().st_size
    time.sleep(0.2)
    assert (tmp_path / "written").stat().st_size == size > 0
    assert [line.count("-c import time") for line in outlived] == [1]


def test_a_run_that_ends_leaves_nothing_to_kill(tmp_path):
    outlived: list[str] = []
    assert bench_kill.run([sys.executable, "-c", "pass"], tmp_path, None, outlived) is not None
    assert outlived == []
