"""Tasks of a Ray pool or a Slurm cluster: each starts the process of one run. Nothing large is imported here."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lic_train.launch.process import Child
from lic_train.runs.layout import LOG, log_file
from lic_train.system.interrupts import REQUEUE

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


def train_in_pool(arguments: Sequence[str], home: Path, log: Path, parent: int | None) -> int | None:
    """Train one run in a Ray task.

    Ray cancels a task by KeyboardInterrupt: the first makes the run save a checkpoint and end, the second aborts it.

    Args:
        arguments: the command.
        home: working directory in which the sweep was started.
        log: file for the output.
        parent: exit code of the run that this one starts from; Ray starts the task when it is available.

    Returns:
        The exit code; None if the parent failed.
    """
    if parent != 0:
        return None
    os.chdir(home)
    child, number = Child(arguments, log), signal.SIGTERM
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.send(number)
            number = signal.SIGINT


class SlurmTask:
    """A task of a Slurm job; submitit calls it in each task of the job, and again when the job is requeued.

    Args:
        arguments: the command.
        directory: the run directory, for the output.
    """

    def __init__(self, arguments: Sequence[str], directory: Path) -> None:
        self.arguments, self.directory = arguments, directory
        self._child: Child | None = None

    def __call__(self) -> None:
        """Train the run.

        Raises:
            RuntimeError: the run failed; Slurm then reports the job as failed.
        """
        rank = int(os.environ["SLURM_PROCID"])
        self._child = Child(self.arguments, log_file(self.directory, rank))
        code = self._child.wait()
        if code == REQUEUE and rank:
            return  # the first task requeues the job
        if code == REQUEUE:
            signal.raise_signal(signal.SIGUSR1)  # only the run received it: submitit now requeues the job and exits
        if code:
            raise RuntimeError(f"exit code {code}, see {self.directory / LOG}")

    def checkpoint(self) -> DelayedSubmission:
        """Stop the run, which saves a checkpoint, and return the task to requeue.

        submitit calls this in the first task upon SIGUSR1. Some clusters signal all processes of a job, others only
        the tasks; the run treats a repeated signal as one.
        """
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.send(signal.SIGUSR1)
            self._child.wait_in_handler()
        return DelayedSubmission(SlurmTask(self.arguments, self.directory))
