"""The three quantisers of learned compression."""

from __future__ import annotations

import torch
from torch import Tensor


def add_noise(values: Tensor) -> Tensor:
    """Additive uniform noise U(-1/2, 1/2): the training surrogate of rounding (Balle et al. 2017, section 3).

    Drawn in row-major order whatever the memory format of ``values``, so that a format never changes the noise.
    """
    return values + torch.empty_like(values, memory_format=torch.contiguous_format).uniform_(-0.5, 0.5)


def round_to(values: Tensor, means: Tensor) -> Tensor:
    """``round(values - means) + means``: what the bitstream carries."""
    return torch.round(values - means) + means


def round_ste(values: Tensor, means: Tensor) -> Tensor:
    """`round_to` forwards, the identity's gradient backwards (straight-through)."""
    # Not values + (rounded - values): that is not the rounded value to the last bit, which the decoder has.
    return round_to(values, means).detach() + (values - values.detach())
