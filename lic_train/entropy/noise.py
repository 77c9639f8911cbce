"""The random numbers of a training step, the same however its batch is split.

A step draws for the images of its whole batch. A process or a micro-batch that holds some of them draws for all and
keeps its own. So eight devices, or four micro-batches, train with the very noise of one device and one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Where the images at hand stand in the step's batch, and how many it has; None: they are the batch. Tensors and plain
# globals, so that a compiled forward need not be compiled again for every part.
_positions: Tensor | None = None
_batch_size = 0


@contextmanager
def part_of_batch(positions: Tensor, batch_size: int) -> Iterator[None]:
    """Within it, dimension ``dim`` of `uniform` counts the images at ``positions`` (int64) of a larger batch."""
    global _positions, _batch_size
    _positions, _batch_size = positions, batch_size
    try:
        yield
    finally:
        _positions, _batch_size = None, 0


def uniform(like: Tensor, low: float = 0.0, high: float = 1.0, dim: int = 0) -> Tensor:
    """Even draws from [low, high), float32, in the shape and on the device of ``like``; ``dim`` counts the images.

    Drawn in row-major order whatever the memory format of ``like``, so that a format never changes the noise.
    """
    shape = list(like.shape)
    if _positions is None:
        return torch.empty(shape, device=like.device).uniform_(low, high)
    shape[dim] = _batch_size
    return torch.empty(shape, device=like.device).uniform_(low, high).index_select(dim, _positions)
