"""Processes that the first process of a machine starts for its other devices; all of them end together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from lic_train.errors import TrainingError
from lic_train.system.relaunch import train_command
from lic_train.system.screen import say_error

LAUNCHER = "LIC_TRAIN_LAUNCHER"  # environment variable: process id of the process that started this one
GRACE = 5.0  # seconds that a failed process waits for the first one to report an error that occurred in all of them
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
LOOK = 1.0  # seconds between two checks of the other processes


class Followers:
    """Starts ``train.py`` with the given overrides, and no others, as ranks 1, 2, ... of this machine.

    Args:
        count: number of processes to start.
        overrides: overrides of this process's job.
    """

    def __init__(self, count: int, overrides: Sequence[str]) -> None:
        # A job of a sweep is not a sweep, even if one of its overrides selects hydra.mode=MULTIRUN.
        command = train_command([*overrides, "hydra.mode=RUN"])
        self._processes = [
            # A separate process group: the first process alone handles Ctrl-C.
            subprocess.Popen(command, env=_environment(rank), process_group=0)
            for rank in range(1, count + 1)
        ]
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def failure(self) -> TrainingError | None:
        """Return an error for the first process that failed, or None."""
        for rank, process in enumerate(self._processes, start=1):
            if process.poll():
                code = process.returncode
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                return TrainingError(
                    f"Process {process.pid}, which trained on device {rank} of this machine, ended {how}.",
                    expected="all processes of a run until its end",
                    got="the error message of that process above, if it printed one",
                    to_do="run the same command again, which continues from the newest checkpoint",
                )
        return None

    def failure_that_caused(self, error: BaseException) -> TrainingError | None:
        """Return `failure` if ``error`` may be a consequence of it: a collective operation without an answer."""
        patience = time.monotonic() + LOOK
        while isinstance(error, RuntimeError) and time.monotonic() < patience:
            if failure := self.failure():
                return failure
            time.sleep(LOOK / 20)
        return None

    def kill(self) -> None:
        """Kill the processes, which have nothing to save."""
        self._over.set()
        for process in self._processes:
            process.kill()
            process.wait()

    def wait(self) -> None:
        """Wait until all processes have ended."""
        self._over.set()
        for process in self._processes:
            process.wait()

    def _watch(self) -> None:
        """End this process after a failure: it may hang in a collective operation, which raises no error."""
        while not self._over.wait(LOOK):
            if (failure := self.failure()) and not self._over.wait(GRACE):
                say_error(failure)
                self.kill()
                os._exit(failure.exit_code)


def _environment(rank: int) -> dict[str, str]:
    return os.environ | {"LOCAL_RANK": str(rank), LAUNCHER: str(os.getpid())}


def end_with_the_launcher() -> None:
    """In a process started by another one: end when that process ends, for any reason.

    On Linux the kernel kills this process, also if it hangs in a call that lets no other thread run.
    """
    if launcher := os.environ.get(LAUNCHER):
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.Thread(target=_watch_the_launcher, args=(int(launcher),), daemon=True).start()


def _watch_the_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK)
    os._exit(1)
