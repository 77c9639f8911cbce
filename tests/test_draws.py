"""Photograph of sample number k: shuffled, by row groups, and in proportions of several sources."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.data.sets.splits import Joined, Subset
from lic_train.data.stream.crops import order
from lic_train.data.stream.draws import WINDOW, Mixed, Shuffled, draws_of, whole_shares
from lic_train.data.stream.loader import StreamSampler
from tests.made_up import png


class Numbers:
    """A source whose items are their numbers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self, index: int) -> bytes:
        return b"%d" % index

    def name(self, index: int) -> str:
        return f"{index}.png"


def drawn(draws, first: int, last: int) -> list:
    return [draws(k) for k in range(first, last)]


def test_shuffled_is_one_permutation_per_epoch():
    samples = drawn(Shuffled(7, seed=3), 0, 21)
    for epoch in range(3):
        assert [s.item for s in samples if s.epoch == epoch] == order(7, 3, epoch).tolist()


def test_draw_depends_only_on_its_number():
    streams = [
        lambda: Shuffled(50, 1),
        lambda: Shuffled(50, 1, np.arange(50) // 4),
        lambda: draws_of(Joined([Numbers(30), Numbers(8)], "ab", [1, 2]), 5),
    ]
    for make in streams:
        in_order, one = drawn(make(), 0, 300), make()
        for k in np.random.default_rng(0).permutation(300).tolist():
            assert one(k) == in_order[k]
        assert len(set(in_order)) == 300  # no crop appears twice


# ---- row groups


def test_images_of_few_row_groups_are_visited_together_once_per_epoch():
    groups = np.repeat(np.arange(40) * 1000, 5)  # 40 groups of 5 with arbitrary numbers
    draws = Shuffled(200, seed=2, groups=groups)
    epochs = [[draws(200 * epoch + k).item for k in range(200)] for epoch in range(3)]
    for items in epochs:
        assert sorted(items) == list(range(200))
        windows = [items[i : i + 5 * WINDOW] for i in range(0, 200, 5 * WINDOW)]
        assert all(len({groups[item] for item in window}) == WINDOW for window in windows)
        assert all(window != sorted(window) for window in windows)
    together = {frozenset(groups[item] for item in items[: 5 * WINDOW]) for items in epochs}
    assert len(together) == 3  # the groups are combined differently in each epoch


def test_parquet_is_drawn_by_row_groups(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table
    table = pyarrow.table({"image": [png(i, 2, 2) for i in range(60)]})
    write_table(table, tmp_path / "x.parquet", row_group_size=3)
    whole = open_source(str(tmp_path / "x.parquet"), Cache())
    for source in (whole, Subset(whole, range(0, 60, 2))):
        draws = draws_of(source, 0)
        numbers = {source.name(sample.item): sample for sample in drawn(draws, 0, len(source))}
        assert len(numbers) == len(source)
        first = [int(name) // 3 for name in list(numbers)[: WINDOW * len(source) // 20]]
        assert len(set(first)) == WINDOW


# ---- proportions


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (10, [1, 1], [5, 5]),
        (10, [3, 1], [8, 2]),
        (7, [1, 1, 1], [3, 2, 2]),
        (100, [0.001, 1], [0, 100]),
        (3, [2, 4], [1, 2]),
    ],
)
def test_whole_shares_add_up(total, weights, expected):
    assert whole_shares(total, weights).tolist() == expected


def test_sources_have_their_proportions_and_all_photographs_are_used():
    sizes, weights = [40, 10], [1, 3]
    draws = draws_of(Joined([Numbers(n) for n in sizes], "ab", weights), seed=4)
    assert isinstance(draws, Mixed)
    per_epoch = whole_shares(50, weights).tolist()  # 12 or 13 of the large source, 38 of the small one
    streams: list[list] = [[], []]
    for epoch in range(20):
        samples = drawn(draws, 50 * epoch, 50 * epoch + 50)
        sides = [int(sample.item >= 40) for sample in samples]
        assert [sides.count(0), sides.count(1)] == per_epoch
        assert sides != sorted(sides)
        for side, sample in zip(sides, samples, strict=True):
            streams[side].append(sample._replace(item=sample.item - 40 * side))
    for size, stream in zip(sizes, streams, strict=True):  # each source is visited in complete passes
        assert [sample.epoch for sample in stream] == [k // size for k in range(len(stream))]
        for number in range(len(stream) // size):
            assert sorted(s.item for s in stream if s.epoch == number) == list(range(size))
        orders = [tuple(s.item for s in stream if s.epoch == number) for number in range(len(stream) // size)]
        assert len(set(orders)) == len(orders)


def test_proportions_hold_on_ranks_and_after_any_start():
    source = Joined([Numbers(9), Numbers(5)], "ab", [1, 1])
    whole = [StreamSampler(draws_of(source, 7), 6).batch(number) for number in range(12)]
    for start in (0, 3, 11):
        sampler = StreamSampler(draws_of(source, 7), 6, start)
        assert list(itertools.islice(sampler, 12 - start)) == whole[start:]
    for number, batch in enumerate(whole):
        ranks = [StreamSampler(draws_of(source, 7), 6, rank=rank, world=3).batch(number) for rank in range(3)]
        assert sorted(itertools.chain(*ranks)) == sorted(batch)
    counts = Counter(int(sample.item >= 9) for batch in whole for sample in batch)
    assert abs(counts[0] - counts[1]) <= 7


def test_without_weights_all_photographs_are_used_equally_often():
    draws = draws_of(Joined([Numbers(9), Numbers(5)], "ab", None), 7)
    assert isinstance(draws, Shuffled)
    assert sorted(sample.item for sample in drawn(draws, 0, 14)) == list(range(14))
