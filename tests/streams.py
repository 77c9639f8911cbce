"""Batches of a stream, reassembled from their parts."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from lic_train.data.module import Photographs
from lic_train.data.stream.loader import Batch
from lic_train.data.stream.on_device import to_floats


def pixels(batch: Batch) -> Tensor:
    """Return the crops in the order of training."""
    return to_floats(batch["x"], batch["flip"])


def steps(data: Photographs, first: int, last: int, world: int = 1) -> list[Tensor]:
    """Return the crops of the optimiser steps ``first`` to ``last`` in the order of the undivided batch."""
    micro = range(first * data.accumulate, last * data.accumulate)
    ranks = []
    for rank in range(world):
        loader = data.stream(micro.start, rank, world)
        ranks.append([pixels(batch) for batch in itertools.islice(iter(loader), len(micro))])
        loader.close()
    batches = [torch.stack(shares, 1).flatten(0, 1) for shares in zip(*ranks, strict=True)]
    return [torch.cat(batches[i : i + data.accumulate]) for i in range(0, len(batches), data.accumulate)]


def same(got: list[Tensor], wanted: list[Tensor]) -> bool:
    """Assert bit equality."""
    return len(got) == len(wanted) and all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
