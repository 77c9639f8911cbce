"""How the command lines speak to the user outside of progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import rich
from lightning_utilities.core.rank_zero import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lic_train.errors import LicError


def is_first_process() -> bool:
    """Whether this process, of perhaps several that train together, is the one that writes files."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say(message: str, style: str = "") -> None:
    """Print one message on the shared rich console, above a live progress bar, in the first process only."""
    if is_first_process():
        rich.get_console().print(message, style=style or None, markup=False, highlight=False, soft_wrap=True)


def reason(error: BaseException) -> str:
    """What went wrong in one line, without error number and path: ``No space left on device``."""
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def errors_without_traceback() -> Iterator[None]:
    """Turn an error meant for the user into its message and its exit code."""
    try:
        yield
    except LicError as error:
        say_error(error)
        sys.exit(error.exit_code)


def say_error(error: BaseException) -> None:
    """Print a complete error message, without a traceback, on the standard error stream."""
    _say("error: ", "bold red", str(error))


def say_warning(message: str) -> None:
    """Print a warning on the standard error stream."""
    _say("warning: ", "bold yellow", message)


def ruled_table(*headings: str, title: str | Text = "") -> Table:
    """The one look of a table: no frame, which would cost columns; title and caption to the left."""
    look = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    return Table(*headings, title=title or None, **look)  # type: ignore[arg-type]


def _say(label: str, style: str, message: str) -> None:
    # Text, not markup: messages hold brackets. soft_wrap keeps paths whole.
    Console(stderr=True).print(Text.assemble((label, style), message), soft_wrap=True)
