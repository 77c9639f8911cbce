"""The three quantisers of learned compression."""

from __future__ import annotations

import torch
from torch import Tensor

from lic_train.entropy.noise import uniform

# Means outside training are on a grid, so that y_hat, a symbol plus a mean, is the same number everywhere.
STEPS_PER_UNIT, MAX_MEAN = 2.0**8, 2.0**20


def add_noise(values: Tensor, dim: int = 0) -> Tensor:
    """Add uniform noise U(-1/2, 1/2), the training surrogate of rounding (Balle et al. 2017, section 3).

    ``dim`` is the image axis.
    """
    return values + uniform(values, -0.5, 0.5, dim)


def on_grid(means: Tensor) -> Tensor:
    """Return the nearest multiples of 2^-8 within +-2^20."""
    return torch.round(means.clamp(-MAX_MEAN, MAX_MEAN) * STEPS_PER_UNIT) / STEPS_PER_UNIT


def round_to(values: Tensor, means: Tensor) -> Tensor:
    """Return ``round(values - means) + means``, the value in the bitstream."""
    return torch.round(values - means) + means


def round_ste(values: Tensor, means: Tensor) -> Tensor:
    """Return `round_to` with the gradient of the identity (straight-through)."""
    # values + (rounded - values) would not be bit-identical to the rounded value of the decoder.
    return round_to(values, means).detach() + (values - values.detach())
