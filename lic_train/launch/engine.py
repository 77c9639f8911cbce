"""Interface of a launcher: it trains runs, each in a fresh process, and reports how each ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from lic_train.config.compose import Section
from lic_train.errors import ConfigError
from lic_train.launch.plan import Job
from lic_train.launch.process import STOPPED, StopRequest
from lic_train.runs.state import read_state

Outcome = Literal["finished", "failed", "stopped", "waiting", "queued", "running", "not started"]


class Engine(Section, ABC):
    """Base class of the launchers in conf/launcher; the fields of a subclass are the keys of its file."""

    @abstractmethod
    def run(self, jobs: Sequence[Job], directory: Path, stop: StopRequest) -> Iterator[tuple[Job, Outcome]]:
        """Train ``jobs``, which are all unfinished, and yield each as it ends.

        A job whose parent did not finish is not started, and is yielded as "waiting". On a stop request the running
        jobs save a checkpoint and end, no further job is started, and jobs that were not started are not yielded.

        Args:
            jobs: every parent precedes its children; a parent that is not in the list is finished.
            directory: directory of the sweep, for files that belong to no single run.
            stop: the stop request, to be polled.

        Raises:
            ConfigError: the engine is not installed, cannot be reached, or has no machine that is large enough.
        """


def not_installed(launcher: str, package: str) -> ConfigError:
    """Return the error for a launcher whose optional dependency is missing; the extra has the launcher's name."""
    return ConfigError(
        f"launcher={launcher} needs {package}, which is not installed.",
        to_do=f"pip install 'lic-train[{launcher}]'",
    )


def must_wait(job: Job) -> bool:
    """Return whether the run that ``job`` starts from is unfinished."""
    return job.parent is not None and not read_state(job.parent.directory).finished


def outcome(job: Job, code: int, stop: StopRequest) -> Outcome:
    """Return the outcome for an exit code; a run counts as finished only if its directory records that."""
    if read_state(job.directory).finished and code == 0:
        return "finished"
    return "stopped" if stop.requested or code in STOPPED else "failed"
