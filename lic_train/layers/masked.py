"""Layers of contexts that are coded in passes: outside training they compute only the positions of the pass.

Legend: B batch, C channels, h w size of y, K positions of a pass, T visible taps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedConv2d(nn.Conv2d):
    """Convolution restricted to the ``taps`` (k, k); the stored weight is never changed.

    The mask is applied at every use, so updates of the masked weights by an optimiser have no effect.
    """

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[Sequence[bool]]) -> None:
        super().__init__(in_channels, out_channels, kernel_size=len(taps), padding=len(taps) // 2)
        # Positions of the visible taps; reading them from the buffer would synchronise with a GPU at every call.
        self.visible = [(row, column) for row, line in enumerate(taps) for column, seen in enumerate(line) if seen]
        self.taps: Tensor
        self.register_buffer("taps", torch.tensor(taps), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, C, h, w) to (B, C', h, w); in eval mode only where ``mask`` (h, w) is true, 0 elsewhere."""
        if self.training or mask is None:
            return F.conv2d(x, self.weight * self.taps, self.bias, padding=self.padding)
        reach = self.kernel_size[0] // 2
        padded = F.pad(x, (reach, reach, reach, reach))
        rows, columns = mask.nonzero().unbind(1)
        corners, flat = rows * padded.shape[3] + columns, padded.flatten(2)
        taps = [flat[:, :, corners + row * padded.shape[3] + column] for row, column in self.visible]
        patches = torch.cat(taps, dim=1)
        matrix = torch.cat([self.weight[:, :, row, column] for row, column in self.visible], dim=1)
        return _spread(F.linear(patches.transpose(1, 2), matrix, self.bias).transpose(1, 2), mask)


def pointwise(network: nn.Module, inputs: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Apply 1x1 convolutions to the concatenation of maps (B, C, h, w).

    In eval mode only where ``mask`` (h, w) is true; the result is 0 elsewhere.
    """
    if network.training:
        return network(torch.cat(list(inputs), dim=1))
    coded = torch.cat([x[:, :, mask] for x in inputs], dim=1)
    return _spread(network(coded.unsqueeze(3)).squeeze(3), mask)


def _spread(coded: Tensor, mask: Tensor) -> Tensor:
    """Return a map (B, C, h, w) with values (B, C, K) where ``mask`` is true and 0 elsewhere."""
    values = coded.new_zeros(*coded.shape[:2], *mask.shape)
    values[:, :, mask] = coded
    return values
