"""The three quantisers of learned compression."""

from __future__ import annotations

import torch
from torch import Tensor

from lic_train.entropy.noise import uniform


def add_noise(values: Tensor, dim: int = 0) -> Tensor:
    """Additive uniform noise U(-1/2, 1/2): the training surrogate of rounding (Balle et al. 2017, section 3).

    ``dim`` counts the images.
    """
    return values + uniform(values, -0.5, 0.5, dim)


def round_to(values: Tensor, means: Tensor) -> Tensor:
    """``round(values - means) + means``: what the bitstream carries."""
    return torch.round(values - means) + means


def round_ste(values: Tensor, means: Tensor) -> Tensor:
    """`round_to` forwards, the identity's gradient backwards (straight-through)."""
    # Not values + (rounded - values): that is not the rounded value to the last bit, which the decoder has.
    return round_to(values, means).detach() + (values - values.detach())
