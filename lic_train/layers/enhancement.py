"""Full-resolution residual enhancement (Xie et al. 2021, "Enhanced invertible encoding for learned image compression").

InvCompress has it before and after its invertible network, CWAM (Mudgal and Liu 2024) as feature encoding and decoding.

Legend: B batch, H W image, a b channels in and out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def start_at_zero(convs: Sequence[nn.Conv2d]) -> None:
    """Initialise a chain of convolutions with small weights, without biases; the output of the last one is zero."""
    for conv in convs:
        nn.init.xavier_normal_(conv.weight, gain=0.1)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
    nn.init.zeros_(convs[-1].weight)


class DenseBlock(nn.Module):
    """Five densely connected 3x3 convolutions; each reads the input and all earlier outputs. Initially zero."""

    def __init__(self, in_channels: int, out_channels: int, growth: int) -> None:
        super().__init__()
        widths = [growth] * 4 + [out_channels]
        convs = [
            nn.Conv2d(in_channels + layer * growth, width, kernel_size=3, padding=1)
            for layer, width in enumerate(widths)
        ]
        start_at_zero(convs)
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, a, H, W) to (B, b, H, W)."""
        # One convolution per source instead of one per reader avoids the concatenations, but on a CPU it was not faster
        # in fp32, bf16 or compiled.
        features = x
        for conv in self.convs[:-1]:
            features = torch.cat([features, F.leaky_relu(conv(features), 0.2)], dim=1)
        return self.convs[-1](features)


class Enhancement(nn.Module):
    """Residual enhancement ``u + 0.2 * B(u)`` at full resolution; initially an exact identity.

    Args:
        channels: channels of u.
        width: channels between the layers of B. Its dense blocks grow by half of them. Paper: 64.
    """

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            DenseBlock(channels, width, growth=width // 2),
            nn.Conv2d(width, width, kernel_size=1),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.Conv2d(width, width, kernel_size=1),
            DenseBlock(width, channels, growth=width // 2),
        )

    def forward(self, u: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        return u + 0.2 * self.branch(u)
