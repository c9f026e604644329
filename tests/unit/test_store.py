"""Files and folders are whole or absent, whoever writes and whoever is killed."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from osteo_utils import store
from osteo_utils.store import locked, make_folder, replace_file

SLOW = """
import sys, time
from pathlib import Path
from osteo_utils.store import {function}
def write(part):
    if part.is_dir(): part = part / "a"
    part.write_text("half")
    print("begun", flush=True)
    time.sleep(60)
{function}(Path(sys.argv[1]), write)
"""


def killed_within(function, target):
    """Start a writer, kill it -9 while it writes."""
    code = SLOW.format(function=function)
    command = [sys.executable, "-c", code, str(target)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "begun\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_file_is_replaced_whole_with_usual_permissions(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("old")
    replace_file(file, lambda part: part.write_text(f"new {part.suffix}"))
    assert file.read_text() == "new .csv"
    (tmp_path / "b").write_text("")
    assert file.stat().st_mode == (tmp_path / "b").stat().st_mode
    assert names(tmp_path) == ["a.csv", "b"]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("old")

    def fail(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(file, fail)
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("function", ["replace_file", "make_folder"])
def test_what_a_killed_writer_leaves_is_cleared_by_the_next(tmp_path, function):
    target = tmp_path / "target"
    killed_within(function, target)
    assert not target.exists()
    (left,) = names(tmp_path)
    assert left.startswith(".part-")
    if function == "replace_file":
        replace_file(target, lambda part: part.write_text("whole"))
    else:
        make_folder(target, lambda part: (part / "a").write_text("whole"))
    assert names(tmp_path) == ["target"]


def test_a_living_writer_is_left_alone(tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    def slowly(part):
        part.write_text("slow")
        inside.set()
        assert go_on.wait(10)

    writer = threading.Thread(target=replace_file, args=(tmp_path / "slow", slowly))
    writer.start()
    assert inside.wait(10)
    replace_file(tmp_path / "quick", lambda part: part.write_text("quick"))
    go_on.set()
    writer.join()
    assert (tmp_path / "slow").read_text() == "slow"
    assert names(tmp_path) == ["quick", "slow"]


def write_often(folder, number):
    for n in range(300):
        replace_file(folder / f"{n % 3}", lambda part: part.write_text(f"{number}"))


def test_many_writers_in_one_folder_never_lose_a_file(tmp_path):
    process = multiprocessing.get_context("fork").Process
    writers = [process(target=write_often, args=(tmp_path, n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert names(tmp_path) == ["0", "1", "2"]


def fill_slowly(path, maker):
    def fill(part):
        for n in range(10):
            (part / f"{n}").write_text(maker)
            time.sleep(0.01)

    make_folder(path, fill)


@pytest.mark.parametrize("kind", [threading.Thread, multiprocessing.get_context("spawn").Process])
def test_two_makers_at_once_make_one_whole_folder(tmp_path, kind):
    makers = [kind(target=fill_slowly, args=(tmp_path / "made", name)) for name in "ab"]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    made = {file.name: file.read_text() for file in (tmp_path / "made").iterdir()}
    assert sorted(made) == [str(n) for n in range(10)]
    assert len(set(made.values())) == 1
    assert names(tmp_path) == ["made"]


def test_a_lock_is_reentrant_in_its_thread_and_says_whom_it_waits_for(tmp_path, capfd):
    with locked(tmp_path / "run"), locked(tmp_path / "run"):
        waiter = threading.Thread(target=lambda: locked(tmp_path / "run").__enter__())
        waiter.start()
        time.sleep(0.3)
        assert waiter.is_alive()
    waiter.join(10)
    assert not waiter.is_alive()
    assert f"{tmp_path / 'run'}: another process is at work on it" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


def test_a_file_that_may_not_be_replaced_stays_and_is_named(tmp_path, monkeypatch):
    (file := tmp_path / "run.json").write_text("old")

    def refused(part, path):  # as Windows does where another program has it open
        raise PermissionError(13, "The process cannot access the file", str(part))

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(PermissionError, match=r"cannot be replaced: close the program") as caught:
        replace_file(file, lambda part: part.write_text("new"))
    assert caught.value.filename == str(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_where_there_are_no_locks_the_part_is_closed_before_it_is_moved(tmp_path, monkeypatch):
    open_parts = []

    def replace(part, path):
        links = Path("/proc/self/fd").iterdir()
        open_parts.append([x for x in links if x.resolve().name.startswith(".part-")])
        part.rename(path)

    monkeypatch.setattr(store, "fcntl", None)
    monkeypatch.setattr(Path, "replace", replace)
    replace_file(tmp_path / "a", lambda part: part.write_text("new"))
    assert open_parts == [[]]
    assert (tmp_path / "a").read_text() == "new"
