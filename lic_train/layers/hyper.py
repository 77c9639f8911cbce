"""Hyper transforms with 3x3 convolutions and sub-pixel up-sampling (Cheng et al. 2020, CVPR, arXiv 2001.01568).

Layers and order follow CompressAI's Cheng models, where M = N.

Legend: B batch, h w size of y, M channels of y, N channels of z.
"""

from __future__ import annotations

import torch
from compressai.layers import conv3x3, subpel_conv3x3
from torch import Tensor, nn


def cheng_h_a(M: int, N: int) -> nn.Sequential:
    """Build h_a, from y (B, M, h, w) to z (B, N, h/4, w/4)."""
    return nn.Sequential(
        conv3x3(M, N),
        nn.LeakyReLU(inplace=True),
        conv3x3(N, N),
        nn.LeakyReLU(inplace=True),
        conv3x3(N, N, stride=2),
        nn.LeakyReLU(inplace=True),
        conv3x3(N, N),
        nn.LeakyReLU(inplace=True),
        conv3x3(N, N, stride=2),
    )


def cheng_h_s(M: int, N: int) -> nn.Sequential:
    """Build h_s, from z_hat (B, N, h/4, w/4) to psi (B, 2M, h, w)."""
    return nn.Sequential(
        conv3x3(N, N),
        nn.LeakyReLU(inplace=True),
        subpel_conv3x3(N, N, 2),
        nn.LeakyReLU(inplace=True),
        conv3x3(N, N * 3 // 2),
        nn.LeakyReLU(inplace=True),
        subpel_conv3x3(N * 3 // 2, N * 3 // 2, 2),
        nn.LeakyReLU(inplace=True),
        conv3x3(N * 3 // 2, 2 * M),
    )


class ScalesAndMeans(nn.Module):
    """Two separate hyper decoders, whose maps (B, M, h, w) form psi (B, 2M, h, w): scales, then means."""

    def __init__(self, scale: nn.Module, mean: nn.Module) -> None:
        super().__init__()
        self.scale, self.mean = scale, mean

    def forward(self, z_hat: Tensor) -> Tensor:
        """Map z_hat (B, Z, h/4, w/4) to psi (B, 2M, h, w)."""
        return torch.cat([self.scale(z_hat), self.mean(z_hat)], dim=1)
