"""Attention as a gate: a trunk of residual units, multiplied by a mask that is computed from attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """Residual unit with half the channels inside: ``GELU(u + 1x1(GELU(3x3(GELU(1x1(u))))))``."""

    def __init__(self, N: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(N, N // 2, kernel_size=1),
            nn.GELU(),
            nn.Conv2d(N // 2, N // 2, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(N // 2, N, kernel_size=1),
        )

    def forward(self, u: Tensor) -> Tensor:
        """Map (B, N, H, W) to (B, N, H, W)."""
        return F.gelu(u + self.branch(u))


class GatedAttention(nn.Module):
    """``x + trunk(x) * sigmoid(mask(x))``; the mask is attention, three residual units and a 1x1 convolution.

    Args:
        N: channels, even.
        attention: builds the attention with its shortcut, which maps (B, N, H, W) to (B, N, H, W).
    """

    def __init__(self, N: int, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(ResidualUnit(N) for _ in range(3)))
        self.mask = nn.Sequential(attention(), *(ResidualUnit(N) for _ in range(3)), nn.Conv2d(N, N, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, H, W) to (B, N, H, W)."""
        return x + self.trunk(x) * torch.sigmoid(self.mask(x))
