"""Parts of a data set by the names of its folders and archives: one rule for trees, tars, zips, Parquet and addresses.

A folder, or an archive among several, belongs to a part if its name contains the word train or training, val, valid or
validation, test or testing; words are separated by digits and by ``_``, ``-`` and ``.``: train2017, DIV2K_valid_HR,
test-00000-of-00002.parquet. The outermost such name in the path of a picture decides. Names that are common to all
pictures decide only if no other name does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from lic_train.data.archives.index import Index
from lic_train.data.archives.names import HEIF, printable, text
from lic_train.data.sets.splits import Integers

TRAIN, VAL, TEST, UNNAMED = "train", "val", "test", ""
WORDS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST, "testing": TEST}
LISTED = 3  # names of folders, or suffixes, in one row of a table


@dataclass
class Parts:
    """Numbers of the pictures of each part, and the names that define it.

    Attributes:
        train, val, test: pictures below such names.
        unnamed: all others.
        names: names of folders and archives for each part.
    """

    train: Integers
    val: Integers
    test: Integers
    unnamed: Integers
    names: dict[str, list[str]] = field(default_factory=dict)

    def where(self, part: str) -> str:
        """Return the names of a part for display: ``DIV2K_train_HR``."""
        names = self.names.get(part, [])
        return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def part_of(name: str) -> str:
    """Return the part that the name of a folder or archive denotes; UNNAMED also for a mixture such as train_val."""
    found = {WORDS[word] for word in re.split(r"[_\-.0-9]+", name.lower()) if word in WORDS}
    return TEST if found == {VAL, TEST} else found.pop() if len(found) == 1 else UNNAMED


def parts_of(index: Index) -> Parts:
    """Return the parts of a collection.

    Without val and test, only the exact name train denotes a part: train_station may be a class of pictures.
    """
    numbers: dict[bytes, int] = {}
    folder_of = np.array([numbers.setdefault(name.rpartition(b"/")[0], len(numbers)) for name in index.names()])
    paths = [text(folder).split("/") for folder in numbers]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(paths), max(paths), strict=False)))
    named = [_outermost(path[shared:]) for path in paths]
    if not any(part for part, _ in named):
        named = [_outermost(path[:shared]) for path in paths]
    if {part for part, _ in named} <= {TRAIN, UNNAMED} and all(name != TRAIN for _, name in named):
        named = [(UNNAMED, "")] * len(paths)
    kinds = np.array([part for part, _ in named])[folder_of]
    members = {part: np.flatnonzero(kinds == part) for part in (TRAIN, VAL, TEST, UNNAMED)}
    names = {part: sorted({printable(name) for found, name in named if found == part}) for part in (TRAIN, VAL, TEST)}
    return Parts(members[TRAIN], members[VAL], members[TEST], members[UNNAMED], names)


def left_out(index: Index) -> str:
    """Return how many files of a collection are not read, by their suffixes; empty if none."""
    counts = sorted(index.others.items(), key=lambda item: (item[0] not in HEIF, -item[1], item[0]))
    shown = [f"{count:,} {suffix or 'without suffix'}{_advice(suffix)}" for suffix, count in counts[:LISTED]]
    rest = sum(count for _, count in counts[LISTED:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])


def _advice(suffix: str) -> str:
    return " (pip install 'lic-train[heif]')" if suffix in HEIF else ""


def rows(parts: Parts, index: Index, train: Iterable[str]) -> list[tuple[str, str]]:
    """Return labels and texts for a table: the parts, their names, and what is left out and why.

    Args:
        parts: of the collection.
        index: of the collection.
        train: parts that are trained on.
    """
    found = []
    if TRAIN in train and len(parts.train):
        found.append(("training", f"{len(parts.train):,} in {parts.where(TRAIN)}"))
    if VAL not in train and len(parts.val):
        found.append(("validation", f"{len(parts.val):,} in {parts.where(VAL)}"))
    if len(parts.test):
        found.append(("left out", f"{len(parts.test):,} in {parts.where(TEST)}: test is never trained on"))
    if UNNAMED not in train and len(parts.unnamed):
        found.append(("left out", f"{len(parts.unnamed):,} images are neither in train nor in val"))
    if others := left_out(index):
        found.append(("left out", f"{others}: not read as images"))
    return found


def _outermost(path: Sequence[str]) -> tuple[str, str]:
    """Return the part and the name of the first component that denotes a part; UNNAMED and "" if none does."""
    return next(((part, name) for name in path if (part := part_of(name))), (UNNAMED, ""))
