"""Launcher for this machine: one run after another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import get_console

from lic_train.launch.engine import Engine, Outcome, must_wait, outcome
from lic_train.launch.plan import Job
from lic_train.launch.process import Child, StopRequest
from lic_train.launch.progress import clock_face
from lic_train.runs.state import read_state
from lic_train.system.relaunch import train_command


class Local(Engine):
    """Trains the runs in order; each prints to the terminal."""

    def run(self, jobs: Sequence[Job], directory: Path, stop: StopRequest) -> Iterator[tuple[Job, Outcome]]:
        """See `Engine`."""
        steps, seconds = 0, 0.0
        for number, job in enumerate(jobs):
            if stop.requested:
                return
            if must_wait(job):
                yield job, "waiting"
                continue
            before, started = read_state(job.directory).step, time.monotonic()
            left = sum(_steps_left(other) for other in jobs[number:]) * seconds / steps if steps else None
            _announce(f"run {number + 1} of {len(jobs)}: {job.directory}", left)
            child = Child(train_command(job.overrides))
            with stop.passed_to(child):
                code = child.wait()
            steps += read_state(job.directory).step - before
            seconds += time.monotonic() - started
            yield job, outcome(job, code, stop)


def _steps_left(job: Job) -> int:
    return job.config.steps - read_state(job.directory).step


def _announce(title: str, seconds: float | None) -> None:
    """Print a horizontal rule with the title, and the estimated time left for the sweep if it is known."""
    get_console().rule(f"[bold]{title}", align="left")
    if seconds is not None:
        get_console().print(f"about {clock_face(seconds)} left for the sweep", style="dim")
