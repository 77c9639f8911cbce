"""One form for the argument parser of every command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """Return the ``type`` of an argument that must be an integer of at least ``least``."""

    def number(text: str) -> int:
        if not re.fullmatch(r"\d{1,15}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return number


def command_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser whose help ends with examples.

    Args:
        name: of the command, for example "evaluate".
        description: one or two sentences.
        examples: command lines, one for each line.
    """
    indented = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return argparse.ArgumentParser(
        prog=f"lic {name}",
        description=description,
        epilog=f"examples:\n{indented}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
