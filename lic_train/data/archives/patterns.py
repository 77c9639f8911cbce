"""Several files in one word: ``shard-{0000..0099}.tar``, ``{train,val}.zip``, ``shard-*.tar``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from lic_train.errors import DataError

BRACES = re.compile(r"\{([^{}]*)\}")
MAX_FILES = 10**5
GLOB = re.compile(r"[*?\[]")


def expand(pattern: str, glob: Callable[[str], list[str]]) -> list[str]:
    """The files that a pattern means, braces in their order and what ``*``, ``?`` and ``[...]`` find sorted.

    Args:
        pattern: a path or an address.
        glob: finds the files of a pattern without braces.

    Raises:
        DataError: braces without meaning, or a ``*`` that finds nothing.
    """
    files = []
    for each in _without_braces(pattern):
        found = sorted(glob(each)) if GLOB.search(each) else [each]
        if not found:
            raise DataError(f"no file fits {each}.\n  to do     correct data.root")
        files += found
    return files


def is_pattern(root: str) -> bool:
    """Whether the word holds braces or wildcards."""
    return bool(BRACES.search(root) or GLOB.search(root))


def _without_braces(pattern: str) -> list[str]:
    """Every choice from each pair of braces."""
    pieces = BRACES.split(pattern)  # text and the insides of braces by turns
    choices = [[piece] if i % 2 == 0 else _choices(piece) for i, piece in enumerate(pieces)]
    number = 1
    for choice in choices:
        number *= len(choice)
    if number > MAX_FILES:
        raise DataError(f"{pattern} means {number:,} files.\n  expected  at most {MAX_FILES:,}")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    """``0008..0010`` or ``a,b,c``."""
    if match := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", inside):
        first, last = int(match[1]), int(match[2])
        if last < first or last - first >= MAX_FILES:
            raise DataError(f"{{{inside}}}: expected a range that ascends, of at most {MAX_FILES:,} numbers")
        width = len(match[1]) if match[1].startswith("0") else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    if "," in inside:
        return inside.split(",")
    raise DataError(f"{{{inside}}}: expected a range as in {{0000..0099}} or a list as in {{a,b}}")
