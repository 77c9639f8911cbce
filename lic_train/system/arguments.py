"""One form for the argument parser of every command."""

from __future__ import annotations

import argparse


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
