"""Pointwise convolution of stride 2 that trains in every memory format."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SubsampledConv2d(nn.Conv2d):
    """``Conv2d(in, out, kernel_size=1, stride=2)``, computed as subsampling and a convolution of stride 1.

    On a CPU, PyTorch 2.15's own convolution crashes the interpreter in its backward pass if the input is channels-last
    and has three channels, as at the skip of the first block of Cheng et al. 2020 (seen with oneDNN on an AVX-512
    machine).
    """

    @classmethod
    def like(cls, conv: nn.Conv2d) -> SubsampledConv2d:
        """Return a copy of a pointwise convolution of stride 2, with its weights."""
        assert conv.kernel_size == (1, 1)
        assert conv.stride == (2, 2)
        mended = cls(conv.in_channels, conv.out_channels, kernel_size=1)
        mended.load_state_dict(conv.state_dict())
        return mended

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/2, W/2)."""
        return F.conv2d(x[:, :, ::2, ::2], self.weight, self.bias)
