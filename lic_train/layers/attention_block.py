"""CompressAI's attention block, in a form that can be pickled and copied to other processes.

CompressAI defines the class of the block's residual units inside a function, where pickle does not find it.
"""

from __future__ import annotations

import compressai.layers
from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """Residual unit of the attention block: ``ReLU(x + 1x1(ReLU(3x3(ReLU(1x1(x))))))``, built by CompressAI."""

    conv: nn.Module
    relu: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, H, W) to (B, N, H, W)."""
        return self.relu(self.conv(x) + x)


def make_picklable(network: nn.Module) -> None:
    """Replace the class of all residual units in CompressAI's attention blocks by `ResidualUnit`; weights stay."""
    for block in network.modules():
        if isinstance(block, compressai.layers.AttentionBlock):
            for unit in block.modules():
                if type(unit).__qualname__.endswith("<locals>.ResidualUnit"):
                    unit.__class__ = ResidualUnit


class AttentionBlock(compressai.layers.AttentionBlock):
    """Simplified attention (Cheng et al. 2020, section 3.3) of N channels; maps (B, N, H, W) to the same shape."""

    def __init__(self, N: int) -> None:
        super().__init__(N)
        make_picklable(self)
