"""Ctrl-C, SIGTERM and SIGUSR1 in a command: one line, a fixed exit code, no traceback, no process left behind.

Only the standard library is imported here, because the handlers are installed before everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit code of a shell after Ctrl-C
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: the scheduler that sent SIGUSR1 should run the same command again
EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: INTERRUPTED, signal.SIGUSR1: REQUEUE}
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it


class Stopped(SystemExit):
    """Raised by the handler of a signal; not an error that a file reader might catch as one of its own.

    Args:
        number: the signal, which determines the exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__(EXIT_CODES[signal.Signals(number)])
        self.name = signal.Signals(number).name


def end_on_signals() -> None:
    """From now on end this process at once on a signal: during the imports there is nothing to save.

    An exception could be swallowed by the module that is being imported.
    """
    _install(_end)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Apply `end_on_signals` to the block only."""
    before = _install(_end)
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise `Stopped` in the block on the first signal; a second Ctrl-C ends the process at once.

    Processes of `lic_train.system.processes` end with their parent, also if it ends at once. Outside of the main thread
    nothing is changed.
    """
    got: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if got:
            if number == signal.SIGINT:
                _end(number, frame)
            return  # schedulers repeat the other signals
        got.append(number)
        raise Stopped(number)

    before = _install(stop)
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: dict[int, signal.Handlers]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, signal.Handlers]:
    """Install the handler and return those before it. A signal that is ignored, as under nohup, remains ignored."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [number for number in EXIT_CODES if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}  # type: ignore[misc]


def _end(number: int, frame: FrameType | None) -> None:
    # os.write instead of print, which may be what the signal interrupted.
    os.write(2, (_SHOW_CURSOR if sys.stderr is not None and sys.stderr.isatty() else b"") + b"\n")
    os.write(2, f"Stopped by {signal.Signals(number).name}.\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])
