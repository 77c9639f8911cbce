"""Full-resolution residual enhancement (Xie et al. 2021, "Enhanced invertible encoding for learned image compression").

CWAM (Mudgal and Liu 2024) takes it over as its feature encoding and decoding blocks.

B batch, H W image, a b channels in and out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each reading the block's input and all earlier outputs; zero at the start of training."""

    def __init__(self, in_channels: int, out_channels: int, growth: int = 32) -> None:
        super().__init__()
        widths = [growth] * 4 + [out_channels]
        convs = [
            nn.Conv2d(in_channels + layer * growth, width, kernel_size=3, padding=1)
            for layer, width in enumerate(widths)
        ]
        for conv in convs:
            nn.init.xavier_normal_(conv.weight, gain=0.1)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(convs[-1].weight)
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, a, H, W) -> (B, b, H, W)."""
        # Measured on a CPU: one convolution per source instead of one per reader avoids the concatenations and is not
        # faster, in fp32, bf16 or compiled.
        features = x
        for conv in self.convs[:-1]:
            features = torch.cat([features, F.leaky_relu(conv(features), 0.2)], dim=1)
        return self.convs[-1](features)


class Enhancement(nn.Module):
    """``u + 0.2 * B(u)`` at full resolution: an exact identity at the start of training."""

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            DenseBlock(channels, width),
            nn.Conv2d(width, width, kernel_size=1),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.Conv2d(width, width, kernel_size=1),
            DenseBlock(width, channels),
        )

    def forward(self, u: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        return u + 0.2 * self.branch(u)
