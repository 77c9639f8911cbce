"""How the command lines speak to the user outside of tables and progress bars."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def say_error(error: BaseException) -> None:
    """Print a complete error message, without a traceback, on the standard error stream."""
    _say("error: ", "bold red", str(error))


def say_warning(message: str) -> None:
    """Print a warning on the standard error stream."""
    _say("warning: ", "bold yellow", message)


def _say(label: str, style: str, message: str) -> None:
    # Text, not markup: messages hold brackets. soft_wrap keeps paths whole.
    Console(stderr=True).print(Text.assemble((label, style), message), soft_wrap=True)
