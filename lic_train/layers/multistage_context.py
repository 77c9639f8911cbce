"""Multistage context model of Tiny-LIC (Lu and Ma 2022, arXiv 2204.11448): channel slices, each in spatial stages.

The context of a slice consists of psi and all earlier slices (channel context), and of the slice's own earlier stages
(masked convolution). Four slices of 4, 2, 2 and 1 stages make nine passes over y.

Legend: B batch, h w size of y, M channels of y, psi (B, 2M, h, w), s channels of a slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from lic_train.entropy.passes import LatentPass, PassContext
from lic_train.entropy.precision import planar
from lic_train.layers.masked import MaskedConv2d, pointwise

Parity = tuple[int, int]  # of row and column

# Positions of each stage, per slice. Slices 1 and 2 begin with opposite halves of the checkerboard.
STAGES: tuple[tuple[tuple[Parity, ...], ...], ...] = (
    (((0, 0),), ((1, 1),), ((0, 1),), ((1, 0),)),
    (((0, 1), (1, 0)), ((0, 0), (1, 1))),
    (((0, 0), (1, 1)), ((0, 1), (1, 0))),
    (((0, 0), (0, 1), (1, 0), (1, 1)),),
)


def slice_sizes(M: int) -> list[int]:
    """Return the channels of the slices, which increase along a cosine: 24, 69, 104, 123 for M = 320."""
    bounds = [math.ceil(M * math.cos(math.pi * t / (2 * len(STAGES)))) for t in range(len(STAGES))]
    return [first - second for first, second in pairwise([*bounds, 0])]


def stage_mask(stage: Sequence[Parity], height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return the positions of a stage as a bool map (height, width)."""
    rows = torch.arange(height, device=device)[:, None] % 2
    columns = torch.arange(width, device=device)[None, :] % 2
    hits = [(rows == row) & (columns == column) for row, column in stage]
    return torch.stack(hits).any(dim=0)


def earlier_taps(kernel: int, position: Parity, earlier: Sequence[Parity]) -> list[list[bool]]:
    """Return which taps (kernel, kernel) of a convolution at ``position`` are on positions of ``earlier`` stages."""
    reach = range(-(kernel // 2), kernel // 2 + 1)
    row, column = position
    return [[((row + r) % 2, (column + c) % 2) in earlier for c in reach] for r in reach]


class SpatialContext(MaskedConv2d):
    """Convolution s -> 2s; the positions of ``stage`` depend only on the positions of the ``earlier`` stages."""

    def __init__(self, size: int, kernel: int, stage: Sequence[Parity], earlier: Sequence[Parity]) -> None:
        super().__init__(size, 2 * size, earlier_taps(kernel, stage[0], earlier))


def channel_context(in_channels: int, size: int) -> nn.Sequential:
    """Build the network from psi and the earlier slices to (B, 2s, h, w)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, size, kernel_size=5, padding=2),
        nn.GELU(),
        nn.Conv2d(size, size, kernel_size=5, padding=2),
        nn.GELU(),
        nn.Conv2d(size, 2 * size, kernel_size=3, padding=1),
    )


def spatial_contexts(size: int, stages: Sequence[Sequence[Parity]]) -> nn.ModuleList:
    """Build one masked convolution per stage except the first; 3x3 is sufficient after a single parity class."""
    contexts = nn.ModuleList()
    for j, stage in enumerate(stages[1:], start=1):
        earlier = [parity for before in stages[:j] for parity in before]
        contexts.append(SpatialContext(size, 3 if len(earlier) == 1 else 5, stage, earlier))
    return contexts


def entropy_parameters(psi_channels: int, size: int, num_stages: int) -> nn.Sequential:
    """Build the network from psi, spatial and channel context to scales, means (B, 2s, h, w).

    A slice with a single stage has no spatial context.
    """
    widths = (psi_channels + 4 * size, 10 * size // 3, 8 * size // 3, 2 * size)
    if num_stages == 1:
        widths = (psi_channels + 2 * size, 2 * size, 2 * size, 2 * size)
    first, *rest = (nn.Conv2d(a, b, kernel_size=1) for a, b in pairwise(widths))
    return nn.Sequential(first, *(layer for conv in rest for layer in (nn.GELU(), conv)))


class MultistageContext(PassContext):
    """Entropy model of a Gaussian y (B, M, h, w) given psi (B, 2M, h, w), coded in nine passes."""

    def __init__(self, M: int) -> None:
        super().__init__()
        self.sizes = slice_sizes(M)
        starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        self.channel_context = nn.ModuleList(
            channel_context(2 * M + start, size) for start, size in zip(starts, self.sizes, strict=True)
        )
        self.spatial_context = nn.ModuleList(
            spatial_contexts(size, stages) for size, stages in zip(self.sizes, STAGES, strict=True)
        )
        self.entropy_parameters = nn.ModuleList(
            entropy_parameters(2 * M, size, len(stages)) for size, stages in zip(self.sizes, STAGES, strict=True)
        )

    def _passes(self, psi: Tensor, code: LatentPass) -> Tensor:
        """Code the slices in order; see `PassContext`."""
        decoded: list[Tensor] = []
        for i in range(len(self.sizes)):
            side = self.channel_context[i](torch.cat([psi, *decoded], dim=1))
            decoded.append(self._slice(i, psi, side, code))
        return torch.cat(decoded, dim=1)

    def _slice(self, i: int, psi: Tensor, side: Tensor, code: LatentPass) -> Tensor:
        """Return y_hat (B, s, h, w) of slice ``i`` from its channel context ``side`` (B, 2s, h, w)."""
        height, width = psi.shape[2:]
        start = sum(self.sizes[:i])
        channels = slice(start, start + self.sizes[i])
        contexts = cast(nn.ModuleList, self.spatial_context[i])
        spatial, y_hat = torch.zeros_like(side), psi.new_zeros(())
        for j, stage in enumerate(STAGES[i]):
            mask = stage_mask(stage, height, width, device=psi.device)
            if j > 0:
                spatial = contexts[j - 1](y_hat, mask)
            inputs = (psi, spatial, side) if len(STAGES[i]) > 1 else (psi, side)
            scales, means = pointwise(self.entropy_parameters[i], inputs, mask).chunk(2, dim=1)
            # Predictions outside the mask are not used, so no stage needs the maps of the others.
            y_hat = planar(torch.where(mask, code(channels, mask, scales, means), y_hat))
        return y_hat
