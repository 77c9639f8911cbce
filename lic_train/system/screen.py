"""Terminal output apart from progress bars: messages, warnings, errors and tables.

Messages (`say`) go to the standard output, and only from the first process of a distributed run. Warnings and errors
go to the standard error stream.
"""

from __future__ import annotations

import re
from typing import Any

import rich
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_MAX_REASON = 200  # characters
# Control and text-direction characters, which a terminal obeys, and halves of surrogate pairs, which no stream accepts.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_first_process() -> bool:
    """Return whether this is the process with rank 0, which writes the files of a distributed run."""
    # Imported here, as this module is part of every command line and the import takes three times as long as rich.
    from lightning_utilities.core.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def say(message: str, style: str = "") -> None:
    """Print a message on the shared rich console, above a live progress bar, in the first process only."""
    if is_first_process():
        rich.get_console().print(safe(message), style=style or None, markup=False, highlight=False, soft_wrap=True)


def say_warning(message: str) -> None:
    """Print a warning on the standard error stream."""
    _print_labelled("warning: ", "bold yellow", message)


def say_error(error: BaseException) -> None:
    """Print an error message, without a traceback, on the standard error stream."""
    _print_labelled("error: ", "bold red", str(error))


def reason(error: BaseException) -> str:
    """Return the cause of an error on one line of at most 200 characters.

    For a system error that is the system's message without number and path, such as ``No space left on device``. A
    message of one word, such as that of a KeyError, is preceded by the type of the error.
    """
    text = getattr(error, "strerror", None) or " ".join(str(error).split())[:_MAX_REASON]
    return text if " " in text else ": ".join(filter(None, [type(error).__name__, text]))


def safe(text: str) -> str:
    """Return ``text`` with escape sequences in place of the characters that a terminal obeys or cannot show."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


class LiteralTable(Table):
    """A table that shows strings as they are: names and values from files may contain square brackets."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; strings are not markup."""
        super().add_row(*(Text(safe(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def ruled_table(*headings: str, title: str | Text = "") -> Table:
    """Return a table in the style of this program: without a frame, which would cost columns, and left-aligned."""
    title = Text(safe(title), "table.title") if isinstance(title, str) and title else title
    look = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    return LiteralTable(*headings, title=title or None, **look)  # type: ignore[arg-type]


def _print_labelled(label: str, style: str, message: str) -> None:
    # Text instead of markup, as messages contain square brackets; soft_wrap keeps paths on one line.
    Console(stderr=True).print(Text.assemble((label, style), safe(message)), soft_wrap=True)
