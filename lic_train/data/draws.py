"""Which photograph is sample number k of the endless stream: a pure function of k, the seed and the collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lic_train.data.archives.indexed import Indexed
from lic_train.data.archives.parquet import ParquetReader, row_groups
from lic_train.data.crops import ORDER, Sample, key, order, splitmix64
from lic_train.data.splits import Integers, Joined, Source, Subset

WINDOW = 8  # row groups whose photographs are visited together
ROOT, GROUP = 11, 12  # first numbers of keys, see `lic_train.data.crops.key`


class Draws(Protocol):
    """The endless stream of samples, addressed by number."""

    def __call__(self, k: int) -> Sample:
        """Sample number ``k``, from 0 on. No two samples of a stream are equal."""


class Shuffled:
    """One pass over the collection after the other, each in an order of its own.

    Args:
        size: photographs.
        seed: of the run.
        groups: (size,) numbers of groups that are dear to open: the photographs of WINDOW of them, chosen at random,
            are visited together, in random order. None: all photographs in random order.
    """

    def __init__(self, size: int, seed: int, groups: npt.NDArray[np.int64] | None = None) -> None:
        self.size, self.seed = size, seed
        self._groups = None if groups is None else np.unique(groups, return_inverse=True)[1]
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, k: int) -> Sample:
        """See `Draws`."""
        epoch, position = divmod(k, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._visits(epoch)
        return Sample(epoch, int(self._order[position]))

    def _visits(self, epoch: int) -> Integers:
        if self._groups is None:
            return order(self.size, self.seed, epoch)
        turns = np.argsort(order(int(self._groups.max()) + 1, key(GROUP, self.seed), epoch))  # of each group
        windows = turns[self._groups] // WINDOW
        return np.lexsort((splitmix64(key(ORDER, self.seed, epoch), self.size), windows))


class Mixed:
    """Several streams in fixed shares: each goes on where it stands, so that nothing of a small source is left out.

    An epoch has as many samples as there are photographs, and gives each source the nearest whole number to its share.

    Args:
        sizes: photographs of each source.
        weights: shares, of any sum.
        streams: of each source; item numbers count from 0 in each.
        seed: of the run.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], streams: Sequence[Draws], seed: int) -> None:
        self.size, self.seed = sum(sizes), seed
        self._streams, self._starts = streams, np.cumsum([0, *sizes])
        self._counts = whole_shares(self.size, weights)
        self._epoch, self._turns, self._numbers = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def __call__(self, k: int) -> Sample:
        """See `Draws`. The sample's epoch is the number of the pass over its own source."""
        epoch, position = divmod(k, self.size)
        if epoch != self._epoch:
            self._epoch, self._turns, self._numbers = epoch, *self._visits(epoch)
        source = int(self._turns[position])
        drawn = self._streams[source](int(self._numbers[position]))
        return Sample(drawn.epoch, int(self._starts[source]) + drawn.item)

    def _visits(self, epoch: int) -> tuple[Integers, Integers]:
        """(size,) which source has its turn at each position, and the number of that turn in the source's stream."""
        turns = np.repeat(np.arange(len(self._counts)), self._counts)[order(self.size, key(ROOT, self.seed), epoch)]
        numbers = np.empty(self.size, np.int64)
        for source, count in enumerate(self._counts):
            numbers[turns == source] = epoch * count + np.arange(count)
        return turns, numbers


def draws_of(source: Source, seed: int) -> Draws:
    """The stream of a source: in shares for one that is joined with weights, else shuffled."""
    if isinstance(source, Joined) and source.weights is not None:
        streams = [draws_of(each, key(ROOT, seed, number)) for number, each in enumerate(source.sources)]
        return Mixed([len(each) for each in source.sources], source.weights, streams, seed)
    return Shuffled(len(source), seed, _groups(source))


def whole_shares(total: int, weights: Sequence[float]) -> Integers:
    """Whole numbers of sum ``total`` in proportion to the weights: rounded down, the rest to the largest remainders."""
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return counts


def _groups(source: Source) -> npt.NDArray[np.int64] | None:
    """Groups of a source that is read in groups, as Parquet is; None for others."""
    if isinstance(source, Subset):
        groups = _groups(source.source)
        return None if groups is None else groups[source.indices]
    if isinstance(source, Indexed) and isinstance(source.reader, ParquetReader):
        return row_groups(source.index)
    return None
