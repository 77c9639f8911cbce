"""What a launcher must do: train the runs it is given, each in a fresh process, and tell how each ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from lic_train.config.compose import Section
from lic_train.launch.plan import Job
from lic_train.launch.process import STOPPED, StopRequest
from lic_train.runs.state import read_state

Outcome = Literal["finished", "failed", "stopped", "waiting", "queued", "running", "not started"]


class Engine(Section, ABC):
    """conf/launcher: the fields of a subclass are the keys of its file."""

    @abstractmethod
    def run(self, jobs: Sequence[Job], directory: Path, stop: StopRequest) -> Iterator[tuple[Job, Outcome]]:
        """Train ``jobs``, none of which is finished, and yield each as it ends.

        A job whose parent did not finish is not started, and yielded as "waiting". On a stop request the running jobs
        save and end, no other is started, and those that were not are not yielded.

        Args:
            jobs: every parent stands before its children; a parent that is not among them is finished.
            directory: of the sweep, for what belongs to no single run.
            stop: to be watched.

        Raises:
            ConfigError: the engine is not installed, cannot be reached, or has no room for a job.
        """


def must_wait(job: Job) -> bool:
    """Whether the run that ``job`` starts from is not finished."""
    return job.parent is not None and not read_state(job.parent.directory).finished


def outcome(job: Job, code: int, stop: StopRequest) -> Outcome:
    """What an exit code means; the run directory has the last word on success."""
    if read_state(job.directory).finished and code == 0:
        return "finished"
    return "stopped" if stop.requested or code in STOPPED else "failed"
