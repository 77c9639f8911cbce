"""Processes that the first one of a machine starts for its other devices. None outlives it, and it outlives none."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from lic_train.errors import TrainingError
from lic_train.system.relaunch import train_command
from lic_train.system.screen import say_error

LAUNCHER = "LIC_TRAIN_LAUNCHER"  # process id of the one that started this one
GRACE = 5.0  # seconds in which a process that failed lets the first one speak, as the same may have happened to all
LOOK = 1.0  # seconds between two looks at the others


class Followers:
    """Starts ``train.py`` with these overrides, and no others, as ranks 1, 2, ... of this machine.

    Args:
        count: how many.
        overrides: of the job of this process.
    """

    def __init__(self, count: int, overrides: Sequence[str]) -> None:
        # A job of a sweep is no sweep, whatever its overrides choose.
        command = train_command([*overrides, "hydra.mode=RUN"])
        self._processes = [
            # A process group of its own: what Ctrl-C means is for the first process to decide.
            subprocess.Popen(command, env=_environment(rank), process_group=0)
            for rank in range(1, count + 1)
        ]
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def failure(self) -> TrainingError | None:
        """The first one that ended before its time, as an error."""
        for rank, process in enumerate(self._processes, start=1):
            if process.poll():
                code = process.returncode
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                return TrainingError(
                    f"Process {process.pid}, which trained on device {rank} of this machine, ended {how}.\n"
                    "expected: all processes of a run to train until its end\n"
                    "got: its own message above, if it could still speak\n"
                    "what to do: run the same command again, which continues from the newest checkpoint"
                )
        return None

    def failure_behind(self, error: BaseException) -> TrainingError | None:
        """`failure`, if ``error`` may only tell that somebody no longer answers."""
        patience = time.monotonic() + LOOK
        while isinstance(error, RuntimeError) and time.monotonic() < patience:
            if failure := self.failure():
                return failure
            time.sleep(LOOK / 20)
        return None

    def kill(self) -> None:
        """End them at once; they hold nothing that could be lost."""
        self._over.set()
        for process in self._processes:
            process.kill()
            process.wait()

    def wait(self) -> None:
        """Wait until all have ended by themselves."""
        self._over.set()
        for process in self._processes:
            process.wait()

    def _watch(self) -> None:
        """The first process may hang in a collective operation with one that is no more: nothing raises there."""
        while not self._over.wait(LOOK):
            if (failure := self.failure()) and not self._over.wait(GRACE):
                say_error(failure)
                self.kill()
                os._exit(failure.exit_code)


def _environment(rank: int) -> dict[str, str]:
    return os.environ | {"LOCAL_RANK": str(rank), LAUNCHER: str(os.getpid())}


def end_with_the_launcher() -> None:
    """In a process that another one started: see to it that it ends with that one, however that ends."""
    if launcher := os.environ.get(LAUNCHER):
        threading.Thread(target=_watch_the_launcher, args=(int(launcher),), daemon=True).start()


def _watch_the_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK)
    os._exit(1)
