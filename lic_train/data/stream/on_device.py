"""Conversion of decoded bytes to floats on the training device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_floats(x: Tensor, flip: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Mirror the selected crops and scale to [0, 1] in one pass over the floats, for any memory format.

    Args:
        x: uint8 (B, 3, H, W) of any memory format.
        flip: bool (B,), crops to be mirrored left to right, on the same device.
        memory_format: memory format of the result.

    Returns:
        float32 (B, 3, H, W).
    """
    # Mirroring bytes moves a quarter of the memory of floats. uint8 arithmetic wraps around, so x + (flipped - x) is
    # exact; torch.where is five times slower.
    mirrored = x.flip(3).sub_(x).mul_(flip.view(torch.uint8).view(-1, 1, 1, 1)).add_(x)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device, memory_format=memory_format)
    return torch.div(mirrored, 255, out=out)
