"""Random numbers of a training step, independent of how its batch is split.

A step draws numbers for all images of its batch. A process or a micro-batch that has some of them draws for all images
and keeps its own, so eight devices, or four micro-batches, train with exactly the noise of one device and one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Positions of the present images in the batch of the step, and the size of that batch; None: they are the whole batch.
# A tensor and a plain global, so that a compiled forward is not recompiled for every part.
_positions: Tensor | None = None
_batch_size = 0


@contextmanager
def part_of_batch(positions: Tensor, batch_size: int) -> Iterator[None]:
    """Context in which dimension ``dim`` of `uniform` is the images at ``positions`` (int64) of a larger batch."""
    global _positions, _batch_size
    _positions, _batch_size = positions, batch_size
    try:
        yield
    finally:
        _positions, _batch_size = None, 0


def seed(number: int, device: torch.device) -> None:
    """Seed the default generators of the CPU and of ``device``, from which all noise is drawn.

    `torch.manual_seed` does the same for all devices and takes a hundred times as long. A CUDA graph registers the
    default generator of its device, so seeding before a replay determines the numbers that it draws.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type != "cpu":
        torch.manual_seed(number)


def uniform(like: Tensor, low: float = 0.0, high: float = 1.0, dim: int = 0) -> Tensor:
    """Draw uniformly from [low, high), float32, in the shape and on the device of ``like``; ``dim`` is the image axis.

    The order is row-major, independent of the memory format of ``like``, so a format never changes the noise.
    """
    shape = list(like.shape)
    if _positions is None:
        return torch.empty(shape, device=like.device).uniform_(low, high)
    shape[dim] = _batch_size
    return torch.empty(shape, device=like.device).uniform_(low, high).index_select(dim, _positions)
