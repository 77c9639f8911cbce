"""One run as a fresh training process, and the signals that are forwarded to it."""

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

from lic_train.system.interrupts import INTERRUPTED, REQUEUE

POLL_SECONDS = 0.2
STOPPED = (INTERRUPTED, REQUEUE)


class Child:
    """A running command in a process group of its own.

    A Ctrl-C at the terminal therefore reaches the launcher alone, which forwards it once.

    Args:
        arguments: the command.
        log: file to which the output is appended; None for the terminal.
    """

    def __init__(self, arguments: Sequence[str], log: Path | None = None) -> None:
        with contextlib.nullcontext() if log is None else _opened(log) as output, _interruptible():
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process if it is still running."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end and return the exit code. Signal handlers of this process run in the meantime."""
        while (code := self._process.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code

    def wait_in_handler(self) -> None:
        """Wait for the end within a signal handler, which may have interrupted `wait` at any point."""
        with contextlib.suppress(ChildProcessError):  # `wait` has already collected the exit code
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[BinaryIO]:
    """Open the log and append a line that separates the starts."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        file.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {os.uname().nodename}\n".encode())
        yield file


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Unblock SIGINT in the block: Ray's workers block it, and a child process would inherit that."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Ctrl-C, SIGTERM and a closed terminal during a sweep: counted, and forwarded to the run on this machine.

    As a context manager it installs signal handlers and restores the previous ones at the end.
    """

    def __init__(self) -> None:
        self.count = 0
        self._pass_on: Callable[[], None] = lambda: None
        self._old: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the sweep must end."""
        return self.count > 0

    def __enter__(self) -> StopRequest:
        self.take_over()
        return self

    def take_over(self) -> None:
        """Install the signal handlers, again if a library has replaced them since."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP; the sweep then continues
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
        """Forward stop requests to ``child``: SIGTERM first, upon which it saves and ends, then SIGINT to abort."""

        def pass_on() -> None:
            child.send(signal.SIGTERM if self.count == 1 else signal.SIGINT)

        self._pass_on = pass_on
        if self.requested:
            pass_on()
        try:
            yield
        finally:
            self._pass_on = lambda: None
