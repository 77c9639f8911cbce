"""The last step on the way to the network, on its device: bytes as they were decoded become floats."""

from __future__ import annotations

import torch
from torch import Tensor


def to_floats(x: Tensor, flip: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Mirror the chosen crops and scale to [0, 1]: one pass over the floats, whatever the memory format.

    Args:
        x: uint8 (B, 3, H, W) of any memory format.
        flip: bool (B,), crops to be mirrored left to right, on the same device.
        memory_format: of the result.

    Returns:
        float32 (B, 3, H, W).
    """
    mirrored = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)  # of bytes, a quarter of what follows
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device, memory_format=memory_format)
    return torch.div(mirrored, 255, out=out)
