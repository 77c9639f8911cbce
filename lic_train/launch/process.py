"""One run as a fresh process: ``python train.py`` with the run's own overrides, and the signals that reach it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

POLL_SECONDS = 0.2
REQUEUE = 75  # train.py's exit code after SIGUSR1: saved, to be started again by whoever sent it
STOPPED = (130, REQUEUE)  # the first after Ctrl-C or SIGTERM


class Child:
    """A running command.

    It has a process group of its own: a Ctrl-C at the terminal reaches the launcher alone, which passes it on once.

    Args:
        arguments: the command.
        log: where its output is appended; None for the terminal.
    """

    def __init__(self, arguments: Sequence[str], log: Path | None = None) -> None:
        with contextlib.nullcontext() if log is None else _opened(log) as output, _interruptible():
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
            )

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it is still there."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code. Signal handlers of this process run while it waits."""
        while (code := self._process.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code

    def wait_in_handler(self) -> None:
        """Wait for the end within a signal handler, which may have interrupted `wait` at any point of it."""
        with contextlib.suppress(ChildProcessError):  # that `wait` has just been told of
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[BinaryIO]:
    """The log, with a line that tells one start from the next."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        file.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {os.uname().nodename}\n".encode())
        yield file


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ray's workers block SIGINT, and a child would inherit that."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Ctrl-C, SIGTERM and a closed terminal during a sweep: remembered, and passed on to the run of this machine.

    Used as a context manager, which takes over the signals and gives them back.
    """

    def __init__(self) -> None:
        self.count = 0
        self._pass_on: Callable[[], None] = lambda: None
        self._old: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the sweep shall end."""
        return self.count > 0

    def __enter__(self) -> StopRequest:
        self.take_over()
        return self

    def take_over(self) -> None:
        """Take the signals, perhaps anew from a library that has taken them since."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup a closed terminal is no reason to stop
                before = signal.signal(number, self._handle)
                self._old.setdefault(number, before)

    def __exit__(self, *_: object) -> None:
        while self._old:
            signal.signal(*self._old.popitem())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._pass_on()

    @contextlib.contextmanager
    def passed_to(self, child: Child) -> Iterator[None]:
        """While it runs the child gets what we got: SIGTERM, upon which it saves and ends, then SIGINT to abort."""

        def pass_on() -> None:
            child.send(signal.SIGTERM if self.count == 1 else signal.SIGINT)

        self._pass_on = pass_on
        if self.requested:
            pass_on()
        try:
            yield
        finally:
            self._pass_on = lambda: None
