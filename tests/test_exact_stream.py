"""The crops are equal for every kind of source, number of workers, ranks and micro-batches, and after a restart."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lic_train.data.module import Photographs
from lic_train.data.sets.sources import folder, imagenet
from tests.made_up import imagenet_tar, png, tar_bytes, write_tree, zip_bytes
from tests.streams import same, steps

STEPS, BATCH = 9, 4  # three epochs of 11 photographs, one of them damaged and one small
FILES = {f"n0000000{i % 3}/{i:02d}.JPEG": png(i, 20 + i, 30) for i in range(11)}
FILES |= {"n00000001/04.JPEG": png(4)[:200], "n00000002/05.JPEG": png(5, 10, 9)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The photographs as a folder, a tar of tars, tars of classes, a zip, and several roots."""
    root = tmp_path_factory.mktemp("sets")
    inside = {f"train/{name}": data for name, data in FILES.items()} | {"val/v.png": png(99)}
    write_tree(root / "folder", inside)
    write_tree(root, {"t_train.tar": imagenet_tar(FILES), "t_val.tar": tar_bytes({"v.png": png(99)})})
    write_tree(root, {"all.zip": zip_bytes(inside)})
    return root


def photographs(root: Path, **options) -> Photographs:
    settings = {"crop": 16, "batch_size": BATCH, "num_workers": 0, "seed": 1} | options
    return Photographs(imagenet, root=str(root), **settings)


@pytest.fixture(scope="module")
def expected(root) -> list[torch.Tensor]:
    return steps(photographs(root / "folder"), 0, STEPS)


def test_all_batches_differ(expected):
    assert len({batch.sum().item() for batch in expected}) == STEPS


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_workers_micro_batches_and_ranks_have_no_effect(root, expected, workers, accumulate, world):
    options = {"num_workers": workers, "accumulate": accumulate}
    assert same(steps(photographs(root / "t_train.tar", **options), 0, STEPS, world), expected)
    start = 2 + workers  # in the middle of an epoch, with another number of workers
    options["num_workers"] = (workers + 2) % 6
    assert same(steps(photographs(root / "t_train.tar", **options), start, STEPS, world), expected[start:])


def test_run_can_resume_at_every_step(root, expected):
    for start in range(STEPS):
        assert same(steps(photographs(root / "t_train.tar"), start, start + 1), expected[start : start + 1])


def test_archive_has_the_batches_of_its_unpacked_folder(root, expected):
    assert same(steps(photographs(root / "t_train.tar"), 0, STEPS), expected)
    assert same(steps(photographs(root / "all.zip", num_workers=2), 0, STEPS), expected)


def test_state_of_random_generators_has_no_effect(root, expected):
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert same(steps(photographs(root / "folder", num_workers=2), 0, 4), expected[:4])


def test_weighted_roots_are_equally_exact(root):
    def data(workers: int) -> Photographs:
        def source(roots):
            return folder(roots, weights=[1, 3])

        roots = [str(root / "folder/train"), str(root / "t_val.tar")]
        return Photographs(source, root=roots, crop=16, batch_size=BATCH, num_workers=workers, seed=3)

    whole = steps(data(0), 0, STEPS)
    assert same(steps(data(2), 0, STEPS), whole)
    assert same(steps(data(4), 5, STEPS, world=2), whole[5:])


def test_scaled_photographs_are_equally_exact(root, expected):
    options = {"downscale": [0.6, 1.0], "crop": 12}
    whole = steps(photographs(root / "folder", **options), 0, STEPS)
    assert len({batch.sum().item() for batch in whole}) == STEPS
    assert same(steps(photographs(root / "t_train.tar", num_workers=2, **options), 0, STEPS), whole)
    for start, workers in ((4, 2), (7, 0)):
        resumed = photographs(root / "all.zip", num_workers=workers, accumulate=2, **options)
        assert same(steps(resumed, start, STEPS, world=2), whole[start:])
    unscaled = photographs(root / "folder", downscale=[1.0, 1.0])
    assert same(steps(unscaled, 0, STEPS), expected)


def test_samples_of_the_ranks_are_the_epoch(root):
    """24 samples on 2 ranks: two whole epochs of 11 and two more."""
    data = photographs(root / "t_train.tar")
    samples = [
        sample
        for rank in range(2)
        for batch in itertools.islice(data.stream(0, rank, 2).batch_sampler, 6)
        for sample in batch
    ]
    for epoch, number in ((0, 11), (1, 11), (2, 2)):
        items = [sample.item for sample in samples if sample.epoch == epoch]
        assert len(items) == len(set(items)) == number


def test_disappeared_file_is_replaced_equally_everywhere(tmp_path):
    write_tree(tmp_path, {f"train/{i:02d}.png": png(i, 20, 20) for i in range(30)} | {"val/v.png": png(99)})

    def data(workers: int) -> Photographs:
        return Photographs(folder, root=str(tmp_path), crop=16, batch_size=4, num_workers=workers, seed=2)

    running = [data(0), data(2)]
    before = steps(running[0], 0, 3)
    assert same(steps(running[1], 0, 3), before)
    (tmp_path / "train/07.png").unlink()  # listed, but missing
    after = [steps(each, 0, 10) for each in running]
    assert same(*after)
    report = running[0].report(tmp_path / "run")
    loader = running[1].stream()
    for batch in itertools.islice(iter(loader), 20):
        report.add(batch)
    loader.close()
    assert report.damaged == {"train/07.png": "No such file or directory"}
