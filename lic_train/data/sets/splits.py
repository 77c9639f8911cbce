"""Building blocks of data sets: sources, subsets and joins of them, and the split into training and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lic_train.data.archives.index import Problem, name_hash
from lic_train.data.archives.indexed import Indexed
from lic_train.errors import ConfigError

Integers = npt.NDArray[np.int64]


class Source(Protocol):
    """Photographs as numbered byte strings. Worker processes get a copy by fork."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """Return the encoded file. Raises OSError if it cannot be read."""

    def name(self, index: int) -> str:
        """Return a printable name, unique in this source and the same on every machine."""


class Subset:
    """Selected items of another source, in the given order."""

    def __init__(self, source: Source, indices: Sequence[int] | Integers) -> None:
        self.source, self.indices = source, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes:
        """Return the encoded file."""
        return self.source.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Return the name in the whole source."""
        return self.source.name(int(self.indices[index]))


class Joined:
    """Several sources one after the other; the label of a source is the first folder of its names.

    Args:
        sources: the sources in order.
        labels: a unique label for each source.
        weights: fraction of the training samples for each source; None uses all photographs equally often.
    """

    def __init__(self, sources: Sequence[Source], labels: Sequence[str], weights: Sequence[float] | None) -> None:
        self.sources, self.labels, self.weights = sources, labels, weights
        self.starts = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int) -> bytes:
        """Return the encoded file."""
        number, inside = self._place(index)
        return self.sources[number].read(inside)

    def name(self, index: int) -> str:
        """Return the label of the source and the name in it."""
        number, inside = self._place(index)
        return f"{self.labels[number]}/{self.sources[number].name(inside)}"

    def _place(self, index: int) -> tuple[int, int]:
        """Return the number of the source, and the index in it."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return number, index - int(self.starts[number])


class Split(NamedTuple):
    """Training and validation photographs.

    Attributes:
        note: printed once for the user.
        rows: labels and texts for the table at the start: the parts, and what is left out and why.
    """

    train: Source
    val: Source
    note: str = ""
    rows: tuple[tuple[str, str], ...] = ()

    @property
    def problems(self) -> list[Problem]:
        """Damage in the archives that was found when they were indexed."""
        found = [
            problem for side in (self.train, self.val) for leaf in _leaves(side) for problem in leaf.index.problems
        ]
        return list(dict.fromkeys(found))


def join(splits: Sequence[Split], labels: Sequence[str], weights: Sequence[float] | None) -> Split:
    """Join several data sets. Their validation photographs alternate, so that the first few include all sets."""
    val = Joined([split.val for split in splits], labels, None)
    places = np.concatenate([(np.arange(len(split.val)) + 0.5) / len(split.val) for split in splits])
    train = Joined([split.train for split in splits], labels, weights)
    note = " ".join(split.note for split in splits if split.note)
    rows = [(kind, f"{name}: {text}") for name, split in zip(labels, splits, strict=True) for kind, text in split.rows]
    return Split(train, Subset(val, np.argsort(places, kind="stable")), note, tuple(rows))


def divide(source: Source, val_ratio: float, split: str = "hash", note: str = "") -> Split:
    """Split ``source`` into training and validation photographs; both sides get at least one.

    ``split="hash"`` depends only on each name, so new files do not move others to the other side. ``split="sorted"``
    uses the last names for validation: the split of CWAM and of InvCompress at ``val_ratio=0.01``.

    Raises:
        ConfigError: an unknown ``split``, or a ratio outside (0, 1).
    """
    if split not in SPLITS:
        raise ConfigError(
            "Invalid value of data.source.split.", expected=f"one of {', '.join(SPLITS)}", got=repr(split)
        )
    if not 0 < val_ratio < 1:
        raise ConfigError(
            "Invalid value of data.source.val_ratio.", expected="a number between 0 and 1", got=str(val_ratio)
        )
    chosen = SPLITS[split](source, val_ratio)
    rest = np.setdiff1d(np.arange(len(source)), chosen, assume_unique=True)
    note = f"{note}{len(chosen)} of its {len(source)} photographs are used for validation." if note else ""
    return Split(Subset(source, rest if len(rest) else chosen), Subset(source, chosen), note)


def split_by_hash(source: Source, ratio: float) -> Integers:
    """Return the items whose name hash is in the lowest ``ratio`` of all values, or the lowest one if there is none."""
    hashes = name_hashes(source)
    chosen = np.flatnonzero(hashes < np.uint64(ratio * 2**64))
    return chosen if len(chosen) else np.argmin(hashes, keepdims=True)


def split_sorted(source: Source, ratio: float) -> Integers:
    """Return the last ``ratio`` of the items (sources are sorted by name), at least one."""
    first = min(int(len(source) * (1 - ratio)), len(source) - 1)
    return np.arange(first, len(source))


SPLITS: dict[str, Callable[[Source, float], Integers]] = {"hash": split_by_hash, "sorted": split_sorted}


def name_hashes(source: Source) -> npt.NDArray[np.uint64]:
    """Return (n,) 64-bit hashes that depend only on each name."""
    if isinstance(source, Indexed):
        return source.index.hashes
    if isinstance(source, Subset):
        return name_hashes(source.source)[source.indices]
    return np.array([name_hash(source.name(i).encode()) for i in range(len(source))], np.uint64)


def _leaves(source: Source) -> Iterator[Indexed]:
    """Yield the indexed sources that this source consists of."""
    if isinstance(source, Indexed):
        yield source
    elif isinstance(source, Subset):
        yield from _leaves(source.source)
    elif isinstance(source, Joined):
        for each in source.sources:
            yield from _leaves(each)
