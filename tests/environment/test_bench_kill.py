"""Killing a build kills all of it, or the comparison with an unkilled one would lie."""

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_kill
import pandas as pd

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


def test_what_both_unkilled_runs_say_is_missed_and_what_neither_says_is_told(tmp_path):
    pages = {"a": "score 0.8\ntook 3 s\n", "b": "score 0.8\ntook 4 s\n", "c": "failed\nscore 0.7\n"}
    homes = {name: tmp_path / name for name in pages}
    for name, home in homes.items():
        folder = home / "build/simulated/smoke/html"
        folder.mkdir(parents=True)
        (folder / "index.html").write_text(f"<pre>{pages[name]}</pre>")
    unkilled, page = (homes["a"], homes["b"]), "build/simulated/smoke/html/index.html"
    for name in pages:
        table = pd.DataFrame({"p_normal": [0.5 if name == "c" else 0.75]})
        (homes[name] / "runs").mkdir()
        table.to_csv(homes[name] / "runs/predictions.csv", index=False)
    assert bench_kill.differences(homes["a"], unkilled) == (0.0, [])
    assert bench_kill.differences(homes["c"], unkilled) == (
        0.25,
        [f"{page}: 'score 0.8' is missing", f"{page}: 'failed' is new"],
    )
