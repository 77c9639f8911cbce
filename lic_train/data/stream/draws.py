"""Which photograph is sample k of the endless stream: a pure function of k, the seed and the collection."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lic_train.data.archives.indexed import Indexed
from lic_train.data.archives.parquet import ParquetReader, row_groups
from lic_train.data.sets.splits import Integers, Joined, Source, Subset
from lic_train.data.stream.crops import ORDER, Sample, key, order, splitmix64

WINDOW = 8  # row groups whose photographs are visited together
ROOT, GROUP, TURN = 11, 12, 13  # first numbers of keys, see `lic_train.data.stream.crops.key`
APART = 32  # batches between two crops of a photograph
EPOCHS = 3  # permutations that are cached; `Spread` alternates between several epochs


class Draws(Protocol):
    """The endless stream of samples, addressed by number. A run begins at 0."""

    def __call__(self, k: int) -> Sample:
        """Return sample number ``k``, which may be negative. All samples of a stream are different."""


class Shuffled:
    """One pass over the collection after the other, each in its own order.

    Args:
        size: number of photographs.
        seed: seed of the run.
        groups: (size,) numbers of groups that are expensive to open. The photographs of WINDOW randomly chosen groups
            are visited together, in random order. None: all photographs in random order.
    """

    def __init__(self, size: int, seed: int, groups: npt.NDArray[np.int64] | None = None) -> None:
        self.size, self.seed = size, seed
        self._groups = None if groups is None else np.unique(groups, return_inverse=True)[1]
        self._order = functools.lru_cache(EPOCHS)(self._visits)

    def __call__(self, k: int) -> Sample:
        """See `Draws`."""
        epoch, position = divmod(k, self.size)
        return Sample(epoch, int(self._order(epoch)[position]))

    def _visits(self, epoch: int) -> Integers:
        if self._groups is None:
            return order(self.size, self.seed, epoch)
        turns = np.argsort(order(int(self._groups.max()) + 1, key(GROUP, self.seed), epoch))  # of each group
        windows = turns[self._groups] // WINDOW
        return np.lexsort((splitmix64(key(ORDER, self.seed, epoch), self.size), windows))


class Mixed:
    """Several streams in fixed proportions; each continues where it stopped, so that all its photographs are used.

    An epoch has as many samples as there are photographs, and each source gets its proportion as a whole number.

    Args:
        sizes: number of photographs of each source.
        weights: proportions, with any sum.
        streams: stream of each source; item numbers start at 0 in each.
        seed: seed of the run.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], streams: Sequence[Draws], seed: int) -> None:
        self.size, self.seed = sum(sizes), seed
        self._streams, self._starts = streams, np.cumsum([0, *sizes])
        self._counts = whole_shares(self.size, weights)
        self._turns = functools.lru_cache(EPOCHS)(self._visits)

    def __call__(self, k: int) -> Sample:
        """See `Draws`. The epoch of the sample is the number of the pass over its own source."""
        epoch, position = divmod(k, self.size)
        turns, numbers = self._turns(epoch)
        source = int(turns[position])
        drawn = self._streams[source](int(numbers[position]))
        return Sample(drawn.epoch, int(self._starts[source]) + drawn.item)

    def _visits(self, epoch: int) -> tuple[Integers, Integers]:
        """Return (size,) the source at each position, and the number of that sample in the stream of the source."""
        turns = np.repeat(np.arange(len(self._counts)), self._counts)[order(self.size, key(ROOT, self.seed), epoch)]
        numbers = np.empty(self.size, np.int64)
        for source, count in enumerate(self._counts):
            numbers[turns == source] = epoch * count + np.arange(count)
        return turns, numbers


class Spread:
    """Several crops of each photograph, about APART batches apart.

    A batch has a lane for each of its samples. In a block of ``crops`` batches, every lane returns the first crop of
    its next photograph, the second crop of a photograph that started a fixed number of blocks before, and so on; the
    order of these crops is random for each lane and block. A photograph therefore stays in one lane, and in one
    process, however the batch is divided. A run begins as if it had been running before, with photographs of negative
    epochs.

    Args:
        draws: the stream of photographs.
        lanes: samples of one optimiser step.
        crops: number of crops of each photograph, up to APART.
        seed: seed of the run.
    """

    def __init__(self, draws: Draws, lanes: int, crops: int, seed: int) -> None:
        self.draws, self.lanes, self.crops, self.seed = draws, lanes, crops, seed
        self._turns = functools.lru_cache(2 * APART)(self._turns_of)

    def __call__(self, k: int) -> Sample:
        """See `Draws`. The crops of a photograph appear in the order of their numbers."""
        batch, lane = divmod(k, self.lanes)
        block, turn = divmod(batch, self.crops)
        crop = self._turns(block)[lane][turn]
        begun = block - crop * (APART // self.crops)
        return self.draws(begun * self.lanes + lane)._replace(crop=crop)

    def _turns_of(self, block: int) -> list[list[int]]:
        """Return (lanes, crops) the crop number of each lane in the batches of a block."""
        draws = splitmix64(key(TURN, self.seed, block), self.lanes * self.crops)
        return np.argsort(draws.reshape(self.lanes, self.crops), axis=1, kind="stable").tolist()


def draws_of(source: Source, seed: int) -> Draws:
    """Return the stream of a source: mixed for a join with weights, otherwise shuffled."""
    if isinstance(source, Joined) and source.weights is not None:
        streams = [draws_of(each, key(ROOT, seed, number)) for number, each in enumerate(source.sources)]
        return Mixed([len(each) for each in source.sources], source.weights, streams, seed)
    return Shuffled(len(source), seed, _groups(source))


def whole_shares(total: int, weights: Sequence[float]) -> Integers:
    """Return integers with sum ``total`` in proportion to the weights, by the largest-remainder method."""
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return counts


def _groups(source: Source) -> npt.NDArray[np.int64] | None:
    """Return the group of each item for a source that is read in groups (Parquet); None for others."""
    if isinstance(source, Subset):
        groups = _groups(source.source)
        return None if groups is None else groups[source.indices]
    if isinstance(source, Indexed) and isinstance(source.reader, ParquetReader):
        return row_groups(source.index)
    return None
