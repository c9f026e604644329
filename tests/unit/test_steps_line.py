"""The line below `make book`."""

import logging
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

sys.path.append(str(Path(__file__).resolve().parents[2] / "book"))
from snakemake_logger_plugin_line import LogHandler, Steps


def said(handler, event, **facts):
    handler.emit(logging.makeLogRecord({"event": event} | facts))


@pytest.fixture
def handler():
    """Two trainings and four chapters on two cores; the first training is done."""
    handler = LogHandler(SimpleNamespace(), None)
    said(handler, LogEvent.RESOURCES_INFO, cores=2)
    said(handler, LogEvent.RUN_INFO, stats={"train": 2, "chapter": 4, "total": 6})
    said(handler, LogEvent.JOB_STARTED, jobs=[3, 5])
    for number, rule, wildcards in (
        (3, "train", {"model": "vgg16", "seed": 0}),
        (5, "chapter", {"chapter": "alexnet"}),
    ):
        said(handler, LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards=wildcards)
    said(handler, LogEvent.JOB_FINISHED, job_id=3)
    return handler


def test_the_line_says_what_is_done_and_what_runs(handler):
    line = handler.steps.line(handler.steps.begun + 100)
    assert line == "1 of 6 steps done | about 3 min left | chapter alexnet"


def test_the_time_left_is_that_of_the_steps_at_the_speed_so_far():
    wanted = Counter({"train": 2, "chapter": 4})  # 2 x 150 + 4 x 25 seconds
    steps = Steps(begun=1000.0, cores=2, wanted=wanted, known={3: ("train", "train vgg16 0")})
    assert steps.seconds_left(1000.0) == 400 / 2
    steps.done = {3}  # 150 seconds of work in 100: 250 are left
    assert steps.seconds_left(1100.0) == pytest.approx(250 / 1.5)
    assert Steps(begun=0.0).line(9.0) == "0 of 0 steps done | less than a minute left | waiting"


def test_a_job_that_has_not_introduced_itself_is_not_named(handler):
    said(handler, LogEvent.JOB_STARTED, jobs=[9])
    assert handler.steps.line(handler.steps.begun + 1).endswith("| chapter alexnet")
