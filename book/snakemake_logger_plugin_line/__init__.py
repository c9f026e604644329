"""One line below `make book`: what is done, what is running, and the time that is left.

Snakemake finds the package by its name, among those that Python can import.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import LogRecord
from shutil import get_terminal_size
from typing import Final

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# Of one step, on one core of the machine where the profile quick was measured. What matters is how
# they compare: the speed is that of the steps done so far.
SECONDS: Final = {"train": 150, "chapter": 25, "export": 40, "browser_libraries": 20, "html": 60}
UNKNOWN: Final = 10


@dataclass
class Steps:
    """What is to do, running and done.

    Attributes:
        begun: When the work began, in seconds.
        cores: Of the machine, as far as they may be used.
        wanted: Rule to number of steps.
        known: Number of a step to its rule, and to what the line says of it.
        running: Numbers of the steps that run.
        done: Numbers of those that are done.
    """

    begun: float
    cores: int = 1
    wanted: Counter[str] = field(default_factory=Counter)
    known: dict[int, tuple[str, str]] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)

    def line(self, now: float) -> str:
        """The line at this time, in seconds."""
        minutes = round(self.seconds_left(now) / 60)
        left = f"about {minutes} min left" if minutes else "less than a minute left"
        parts = [f"{len(self.done)} of {self.wanted.total()} steps done", left]
        told = [self.known[step][1] for step in sorted(self.running & set(self.known))]
        return " | ".join([*parts, ", ".join(told) or "waiting"])

    def seconds_left(self, now: float) -> float:
        """As fast as so far; before anything is done, as fast as where it was measured."""
        done = _work(Counter(self.known[step][0] for step in self.done))
        speed = done / (now - self.begun) if done else self.cores
        return (_work(self.wanted) - done) / speed


def _work(steps: Mapping[str, int]) -> float:
    return sum(SECONDS.get(rule, UNKNOWN) * number for rule, number in steps.items())


class LogHandler(LogHandlerBase):
    """Follows what Snakemake says of its jobs; draws the line in a terminal, once a second."""

    writes_to_stream = False  # the errors are told as without it
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.steps = Steps(time.monotonic())
        if sys.stderr.isatty():
            threading.Thread(target=self._draw, daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        """Take note of a record that tells of a job."""
        said, steps = vars(record), self.steps
        match said.get("event"):
            case LogEvent.RESOURCES_INFO if said.get("cores"):
                steps.cores = said["cores"]
            case LogEvent.RUN_INFO:
                steps.wanted = Counter(said["stats"])
                del steps.wanted["total"]
            case LogEvent.JOB_INFO:
                what = [said["rule_name"], *map(str, (said["wildcards"] or {}).values())]
                steps.known[said["jobid"]] = said["rule_name"], " ".join(what)
            case LogEvent.JOB_STARTED:
                steps.running |= set(said["jobs"])
            case LogEvent.JOB_FINISHED:
                steps.running.discard(said["job_id"])
                steps.done.add(said["job_id"])

    def close(self) -> None:
        """Take the line away."""
        super().close()
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        while True:
            if self.steps.wanted:
                text, width = self.steps.line(time.monotonic()), get_terminal_size().columns
                print(f"\r\033[K{text[: width - 1]}", end="", file=sys.stderr, flush=True)
            time.sleep(1)
