"""Patterns for several files: ``shard-{0000..0099}.tar``, ``{train,val}.zip``, ``shard-*.tar``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from lic_train.errors import DataError

BRACES = re.compile(r"\{([^{}]*)\}")
MAX_FILES = 10**5
GLOB = re.compile(r"[*?\[]")


def expand(pattern: str, glob: Callable[[str], list[str]]) -> list[str]:
    """Return the files that match a pattern: braces in their order, matches of ``*``, ``?`` and ``[...]`` sorted.

    Args:
        pattern: a path or an address.
        glob: returns the files that match a pattern without braces.

    Raises:
        DataError: invalid braces, or a wildcard without a match.
    """
    files = []
    for each in _without_braces(pattern):
        found = sorted(glob(each)) if GLOB.search(each) else [each]
        if not found:
            raise DataError(f"No file matches {each}.", to_do="correct data.root")
        files += found
    return files


def is_pattern(root: str) -> bool:
    """Return whether the string contains braces or wildcards."""
    return bool(BRACES.search(root) or GLOB.search(root))


def _without_braces(pattern: str) -> list[str]:
    """Return every combination of the choices in braces."""
    pieces = BRACES.split(pattern)  # text and the contents of braces alternate
    choices = [[piece] if i % 2 == 0 else _choices(piece) for i, piece in enumerate(pieces)]
    number = 1
    for choice in choices:
        number *= len(choice)
    if number > MAX_FILES:
        raise DataError(f"{pattern} matches too many files.", expected=f"at most {MAX_FILES:,}", got=f"{number:,}")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    """Return the choices of ``0008..0010`` or ``a,b,c``."""
    if match := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", inside):
        first, last = int(match[1]), int(match[2])
        if last < first or last - first >= MAX_FILES:
            raise DataError(
                f"Invalid range in data.root: {{{inside}}}.",
                expected=f"an ascending range of at most {MAX_FILES:,} numbers",
            )
        width = len(match[1]) if match[1].startswith("0") else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    if "," in inside:
        return inside.split(",")
    raise DataError(
        f"Invalid braces in data.root: {{{inside}}}.", expected="a range such as {0000..0099} or a list such as {a,b}"
    )
