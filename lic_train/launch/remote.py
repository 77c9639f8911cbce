"""What a pool or a cluster runs on its machines: one run's fresh process. Nothing heavy is imported here."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lic_train.launch.process import REQUEUE, Child
from lic_train.runs.layout import LOG

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


def train_in_pool(arguments: Sequence[str], home: Path, log: Path, parent: int | None) -> int | None:
    """A task of Ray, which interrupts it to have it stop: the run then saves and ends, or at the second time aborts.

    Args:
        arguments: the command.
        home: where it was typed.
        log: for the output.
        parent: the exit code of the run that this one starts from, for which Ray has waited.

    Returns:
        The exit code, None where the parent failed.
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
    """A task of a Slurm job, as submitit calls it: in each task of the job, and anew whenever the job is queued again.

    Args:
        arguments: the command.
        directory: the run directory, for the output.
    """

    def __init__(self, arguments: Sequence[str], directory: Path) -> None:
        self.arguments, self.directory = arguments, directory
        self._child: Child | None = None

    def __call__(self) -> None:
        """Train; raises where that fails, by which Slurm learns of it."""
        rank = int(os.environ["SLURM_PROCID"])
        self._child = Child(self.arguments, self.directory / (LOG if rank == 0 else f"log_{rank}.txt"))
        code = self._child.wait()
        if code == REQUEUE and rank:
            return  # the first task has the job queued again
        if code == REQUEUE:
            signal.raise_signal(signal.SIGUSR1)  # only the run was signalled: submitit queues the job again, and exits
        if code:
            raise RuntimeError(f"exit code {code}, see {self.directory / LOG}")

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit in the first task upon SIGUSR1: the run saves and ends, then the job is queued again.

        Some clusters signal all processes of a job and others the tasks alone; the run takes the signal twice for one.
        """
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.send(signal.SIGUSR1)
            self._child.wait_in_handler()
        return DelayedSubmission(SlurmTask(self.arguments, self.directory))
