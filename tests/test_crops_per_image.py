"""Several crops of each decoded photograph: deterministic batches, and each photograph is decoded once."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch

from lic_train.data.module import Photographs
from lic_train.data.sets.sources import folder
from lic_train.data.sets.splits import Joined, Subset
from lic_train.data.stream.buffer import BufferedLoader, FirstUses
from lic_train.data.stream.crops import Sample, Window, random_window, replacement
from lic_train.data.stream.draws import APART, Shuffled, Spread, draws_of
from lic_train.data.stream.loader import CropLoader, StreamSampler, training_crops
from lic_train.errors import ConfigError
from tests.made_up import png, write_tree
from tests.streams import pixels, same, steps
from tests.test_data_module import Watcher, trainer

BATCH, CROPS = 4, 3


class Logged:
    """Random images; every read appends a byte to a file, in any process. Number 2 is damaged."""

    def __init__(self, count: int, log: Path) -> None:
        self.files, self.log = [png(i, 20 + i % 7, 24) for i in range(count)], log
        self.files[2] = self.files[2][:99]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        with self.log.open("ab") as file:
            file.write(bytes([index]))
        return self.files[index]

    def name(self, index: int) -> str:
        return f"{index}.png"


def spread(size: int = 50, lanes: int = BATCH, crops: int = CROPS) -> Spread:
    return Spread(Shuffled(size, 5), lanes, crops, seed=5)


# ---- the crop of sample number k


def test_sample_depends_only_on_its_number():
    in_order, other = [spread()(k) for k in range(400)], spread()
    for k in torch.randperm(400, generator=torch.Generator().manual_seed(0)).tolist():
        assert other(k) == in_order[k]


@pytest.mark.parametrize(("size", "lanes", "crops"), [(50, 4, 3), (50, 4, 4), (7, 4, 2), (300, 5, 8), (64, 1, 32)])
def test_every_crop_appears_once_in_each_pass(size, lanes, crops):
    draws = spread(size, lanes, crops)
    count = Counter(draws(k) for k in range(lanes * (4 * APART + 3 * size * crops)))
    assert set(count.values()) == {1}
    for epoch in (0, 1):
        seen = {(sample.item, sample.crop) for sample in count if sample.epoch == epoch}
        assert seen == set(itertools.product(range(size), range(crops)))


def test_crops_of_a_photograph_stay_in_their_lane_in_order_and_far_apart():
    draws, places = spread(), {}
    for k in range(BATCH * 400):
        sample = draws(k)
        places.setdefault(sample[:2], []).append((sample.crop, *divmod(k, BATCH)))
    for found in places.values():
        crops, batches, lanes = zip(*found, strict=True)
        assert list(crops) == list(range(crops[0], crops[-1] + 1))
        assert len(set(lanes)) == 1
        assert all(abs(b - a - APART) <= 2 * CROPS for a, b in itertools.pairwise(batches))


def test_photographs_of_one_batch_are_separated_in_their_other_crops():
    draws = spread(size=400)
    batches = [{(s.epoch, s.item) for s in map(draws, range(BATCH * b, BATCH * b + BATCH))} for b in range(200)]
    pairs = Counter(pair for batch in batches for pair in itertools.combinations(sorted(batch), 2))
    assert sum(times == CROPS for times in pairs.values()) < len(pairs) / 5


def test_order_of_crops_differs_between_lanes_and_blocks():
    draws = spread(crops=8)
    orders = [
        tuple(draws((8 * block + turn) * BATCH + lane).crop for turn in range(8))
        for block, lane in itertools.product(range(9), range(BATCH))
    ]
    assert len(set(orders)) == len(orders)


def test_several_crops_of_weighted_roots():
    source = Joined([Subset([], range(30)), Subset([], range(9))], "ab", [1, 2])
    draws = Spread(draws_of(source, 5), BATCH, CROPS, 5)
    samples = [draws(k) for k in range(600)]
    assert len(set(samples)) == 600
    assert 150 < sum(sample.item < 30 for sample in samples) < 250


def test_first_crop_equals_that_of_runs_with_one_crop_and_all_differ():
    def window(crop: int):
        return random_window((5000, 5000), 16, Sample(1, 2, crop), 0, seed=3, flip=True)

    assert window(0) == Window(1623, 1413, flip=False)  # as in test_crops.py
    assert len({window(crop) for crop in range(APART)}) == APART
    flips = [random_window((99, 99), 16, Sample(0, i, 3), 0, seed=3, flip=True).flip for i in range(400)]
    assert 140 < sum(flips) < 260
    assert len({replacement(Sample(1, 2, crop), 1, 1000, 0) for crop in range(9)}) == 1


# ---- batches


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    files = {f"train/{i:02d}.png": png(i, 20 + i % 9, 24) for i in range(21)} | {"val/v.png": png(99)}
    files |= {"train/03.png": png(3)[:200], "train/04.png": png(4, 10, 9)}  # damaged, and small
    return write_tree(tmp_path_factory.mktemp("sets"), files)


def photographs(root: Path, **options) -> Photographs:
    settings = {"crop": 16, "batch_size": BATCH, "num_workers": 0, "seed": 1, "crops_per_image": CROPS} | options
    return Photographs(folder, root=str(root), **settings)


STEPS = 45  # more than the 32 batches between two crops of a photograph, and several passes over 21 photographs


@pytest.fixture(scope="module")
def expected(root) -> list[torch.Tensor]:
    """Reference batches: each photograph is decoded for every one of its crops, in the order of `Spread`."""
    data = photographs(root)
    stream = StreamSampler(Spread(draws_of(data.train, 1), BATCH, CROPS, 1), BATCH)
    loader = CropLoader(training_crops(data.train, 16, 1), stream, 0, pin_memory=False)
    return [pixels(batch) for batch in itertools.islice(iter(loader), STEPS)]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_batches_do_not_depend_on_workers_micro_batches_or_ranks(root, expected, workers, accumulate, world):
    options = {"num_workers": workers, "accumulate": accumulate}
    assert same(steps(photographs(root, **options), 0, STEPS, world), expected)
    start = 35 + workers
    options["num_workers"] = (workers + 2) % 6
    assert same(steps(photographs(root, **options), start, STEPS, world), expected[start:])


def test_run_can_resume_at_every_step(root, expected):
    for start in range(STEPS):
        assert same(steps(photographs(root), start, start + 1), expected[start : start + 1])


@pytest.mark.parametrize(("accumulate", "workers", "stop"), [(1, 0, 8), (2, 2, 5)])
def test_resumed_trainer_gets_the_batches_of_an_uninterrupted_one(root, tmp_path, accumulate, workers, stop):
    def data(count: int) -> Photographs:
        return photographs(root, accumulate=accumulate, num_workers=count)

    whole, first, second = Watcher(), Watcher(), Watcher()
    trainer(tmp_path, stop + 6, accumulate).fit(whole, data(0))
    stopped = trainer(tmp_path, stop, accumulate)
    stopped.fit(first, data(workers))
    stopped.save_checkpoint(tmp_path / "stop.ckpt")
    trainer(tmp_path, stop + 6, accumulate).fit(second, data(2 - workers), ckpt_path=tmp_path / "stop.ckpt")
    assert first.seen + second.seen == whole.seen
    assert len(set(whole.seen)) == len(whole.seen) == (stop + 6) * accumulate


# ---- number of decoded and waiting crops


@pytest.mark.parametrize("workers", [0, 2, 4])
@pytest.mark.parametrize("world", [1, 2])
def test_each_photograph_is_decoded_once(tmp_path, workers, world):
    source, crops, batches = Logged(200, tmp_path / "reads"), 4, 60
    draws, ahead = Spread(Shuffled(len(source), 0), BATCH, crops, 0), 4 * workers + 1
    used, drawn_ahead, failures, reads = 0, 0, [], 0
    for rank in range(world):
        stream = StreamSampler(draws, BATCH, start=1000, rank=rank, world=world)
        loader = BufferedLoader(training_crops(source, 16, seed=0), stream, crops, workers, pin_memory=False)
        failures += [f for batch in itertools.islice(iter(loader), batches) for f in batch["failures"]]
        loader.close()
        passes = [{s[:2] for s in itertools.chain(*itertools.islice(stream, n))} for n in (batches, batches + ahead)]
        used, drawn_ahead = used + len(passes[0]), drawn_ahead + len(passes[1])
    reads = len(source.log.read_bytes())
    assert used <= reads - len(failures) <= drawn_ahead + 2 * world  # each replacement is one more read
    first = APART * BATCH  # at its start, a stream decodes a photograph for nearly every crop
    assert used - first < (batches - APART) * BATCH / crops + BATCH


@pytest.mark.parametrize("crops", [2, 3, 4, 8, 32])
def test_number_of_waiting_crops_is_bounded(crops):
    lanes = 6
    stream = StreamSampler(Spread(Shuffled(1000, 0), lanes, crops, 0), lanes)
    waiting, most = 0, 0
    for decoded in itertools.islice(FirstUses(stream, crops), 6 * APART):
        waiting += len(decoded) - lanes
        most = max(most, waiting)
    limit = APART // 2 * (crops - 1) * lanes
    assert limit * 0.8 < most < limit + 2 * crops * lanes


def test_damaged_photograph_is_reported_once_and_replaced_in_all_its_crops(tmp_path):
    source = Logged(40, tmp_path / "reads")
    stream = StreamSampler(Spread(Shuffled(len(source), 0), BATCH, CROPS, 0), BATCH, start=1000)
    loader = BufferedLoader(training_crops(source, 16, seed=0), stream, CROPS, 0, pin_memory=False)
    batches = list(itertools.islice(iter(loader), 60))
    damaged = [sample for batch in itertools.islice(stream, 60) for sample in batch if sample.item == 2]
    assert len(damaged) > len({sample.epoch for sample in damaged})
    assert sum(len(batch["failures"]) for batch in batches) == len({sample.epoch for sample in damaged})
    assert {name for batch in batches for name, _ in batch["failures"]} == {"2.png"}


@pytest.mark.parametrize("number", [0, APART + 1])
def test_invalid_number_of_crops_raises(root, number):
    with pytest.raises(ConfigError, match=f"data.crops_per_image.\nexpected: 1 to 32\ngot: {number}"):
        photographs(root, crops_per_image=number).setup("fit")
