"""A pointwise convolution of stride 2 that trains in every memory format."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SubsampledConv2d(nn.Conv2d):
    """``Conv2d(in, out, kernel_size=1, stride=2)`` as a subsampling before a convolution of stride 1; equal weights.

    PyTorch 2.15's own crashes the interpreter in its backward pass on a CPU where the input is channels-last and has
    three channels, as the skip of Cheng et al. 2020's first block has (seen with oneDNN on an AVX-512 machine).
    """

    @classmethod
    def like(cls, conv: nn.Conv2d) -> SubsampledConv2d:
        """Take over the weights of a pointwise convolution of stride 2."""
        assert conv.kernel_size == (1, 1)
        assert conv.stride == (2, 2)
        mended = cls(conv.in_channels, conv.out_channels, kernel_size=1)
        mended.load_state_dict(conv.state_dict())
        return mended

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        return F.conv2d(x[:, :, ::2, ::2], self.weight, self.bias)
