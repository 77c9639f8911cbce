"""The end of every command: its exit code, and one message instead of a traceback."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lic_train.errors import LicError
from lic_train.system.interrupts import INTERRUPTED, Stopped, stopping_on_signals
from lic_train.system.screen import is_first_process, reason, say_error, say_warning

Main = Callable[[Sequence[str] | None], int | None]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def command(after_stop: str = "") -> Callable[[Main], Callable[..., int]]:
    """Return a decorator for the main function of a command.

    The decorated function returns 0 or the exit code of the function; 2 after an error, which is printed in one
    message; 130 after Ctrl-C or SIGTERM, and 75 after SIGUSR1, with one line.

    Args:
        after_stop: how the user can continue after a signal.
    """

    def decorate(main: Main) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            try:
                with stopping_on_signals():
                    return main(argv) or 0
            except (Stopped, KeyboardInterrupt) as stop:
                name = stop.name if isinstance(stop, Stopped) else "SIGINT"
                if is_first_process():
                    say_warning("; ".join(filter(None, [f"stopped by {name}", after_stop])))
                return int(stop.code or 0) if isinstance(stop, Stopped) else INTERRUPTED
            except (LicError, OSError) as error:
                return report(error)

        return run

    return decorate


@contextmanager
def errors_without_traceback() -> Iterator[None]:
    """Print a `LicError` or a system error raised in the block and exit with its exit code."""
    try:
        yield
    except (LicError, OSError) as error:
        sys.exit(report(error))


def report(error: LicError | OSError) -> int:
    """Print an error for the user and return the exit code."""
    known = error if isinstance(error, LicError) else _system_error(error)
    say_error(known)
    return known.exit_code


def _system_error(error: OSError) -> LicError:
    """Return the error for a file that cannot be read or written."""
    path = error.filename2 or error.filename
    full = error.errno in _FULL
    return LicError(
        f"{path} cannot be used." if path is not None else "A file cannot be read or written.",
        expected="a disk with free space" if full else "a readable file, or a writable folder for results",
        got=reason(error),
        to_do="free disk space and repeat the command" if full else "correct the path or its permissions",
    )
