"""Levels of a variable rate in training: the level of every crop, and the rate and distortion of every level.

The levels follow one another through the places of all batches. The level of a crop is therefore a pure function of the
step and of its place in the batch, and every level has the same number of crops. It needs no random draw, because the
loader assigns photographs to places at random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lic_train.recipes import losses
from lic_train.recipes.losses import Out
from lic_train.runs.metric_names import of_level


def levels_of(positions: Tensor, step: int, batch_size: int, number: int) -> Tensor:
    """Return the level, int64, of the crops at ``positions`` (int64) of the batch of a step, for L = ``number``."""
    return (step * batch_size % number + positions) % number


def count_of(level: int, step: int, batch_size: int, number: int) -> int:
    """Return how many crops of the batch of a step have a level."""
    first = step * batch_size
    return (first + batch_size - 1 - level) // number - (first - 1 - level) // number


@torch.no_grad()
def by_level(out: Out, x: Tensor, levels: Tensor, step: int, batch_size: int, number: int) -> dict[str, Tensor]:
    """Return bpp and mse of each level as the contribution of a part of a batch.

    The mean of the contributions of all parts, which have equal sizes, is the mean over the crops of the level. Levels
    without a crop in the whole batch are left out.

    Args:
        out: output of the codec for the part.
        x: images of the part, (B, 3, H, W).
        levels: their levels, (B,), int64.
        step: optimiser step.
        batch_size: images of the whole batch.
        number: L.
    """
    parts = batch_size // len(x)
    chosen = levels[:, None] == torch.arange(number, device=levels.device)
    values = torch.stack([losses.bpp_per_image(out, x), losses.mse_per_image(out, x)])
    sums = (values[:, :, None] * chosen).sum(1)  # not a matrix product, which autocast would round to 16 bits
    return {
        of_level(name, level): parts * total[level] / count
        for name, total in zip(("bpp", "mse"), sums, strict=True)
        for level in range(number)
        if (count := count_of(level, step, batch_size, number))
    }
