"""Hyper transforms with 3x3 convolutions and sub-pixel up-sampling.

``cheng``: Cheng et al. 2020, CVPR, arXiv 2001.01568; layers and order follow CompressAI's models, where M = N.
``zou``: Zou et al. 2022, CVPR, arXiv 2203.08450.

Legend: B batch, h w size of y, M channels of y, N channels of z.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def zou_h_a(widths: Sequence[int]) -> nn.Sequential:
    """Build h_a, from y (B, M, h, w) to z (B, N, h/4, w/4), with GELU between the layers.

    Args:
        widths: M, the outputs of the four inner convolutions, and N.
    """
    convs = [conv3x3(a, b, stride) for a, b, stride in zip(widths, widths[1:], (1, 1, 2, 1, 2), strict=False)]
    return _with_gelu(convs)


def zou_h_s(widths: Sequence[int]) -> nn.Sequential:
    """Build one of two networks of h_s, from z_hat (B, N, h/4, w/4) to (B, M, h, w), with GELU between the layers.

    Args:
        widths: N, the outputs of the four inner layers, of which the second and fourth double the size, and M.
    """
    a, b, c, d, e, f = widths
    return _with_gelu([conv3x3(a, b), subpel_conv3x3(b, c, 2), conv3x3(c, d), subpel_conv3x3(d, e, 2), conv3x3(e, f)])


def _with_gelu(layers: Sequence[nn.Module]) -> nn.Sequential:
    first, *rest = layers
    return nn.Sequential(first, *(part for layer in rest for part in (nn.GELU(), layer)))


class ScaleMeanSynthesis(nn.Module):
    """h_s of two networks; psi is their maps of scales and of means, in this order."""

    def __init__(self, scale: nn.Module, mean: nn.Module) -> None:
        super().__init__()
        self.scale, self.mean = scale, mean

    def forward(self, z_hat: Tensor) -> Tensor:
        """Map (B, N, h/4, w/4) to (B, 2M, h, w)."""
        return torch.cat([self.scale(z_hat), self.mean(z_hat)], dim=1)
