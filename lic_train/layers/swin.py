"""Stages of shifted-window transformer blocks that halve or double the map, as in STF (Zou et al. 2022, section 3.2).

Legend: B batch, H W map, C channels. Stages map (B, C, H, W); inside, values are channels-last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.layers.hyper import ScaleMeanSynthesis, zou_h_a, zou_h_s
from lic_train.layers.icsa import shared_out
from lic_train.layers.transformer import TransformerBlock
from lic_train.layers.window_attention import WindowAttention

HEAD_CHANNELS = 16
WINDOW = 4
DEPTHS = (2, 2, 6, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchMerging(nn.Module):
    """Norm and projection of 2x2 neighbours, in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H/2, W/2, 2C), for even H and W."""
        neighbours = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(neighbours))


class PatchSplitting(nn.Module):
    """Inverse of `PatchMerging` in shape: norm, projection and pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduction = nn.Linear(channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, 2H, 2W, C/2)."""
        expanded = self.reduction(self.norm(x)).permute(0, 3, 1, 2)
        return F.pixel_shuffle(expanded, 2).permute(0, 2, 3, 1)


Refine = Callable[[int], nn.Module]  # builds a shape-preserving module from its number of channels


class SwinStage(nn.Module):
    """Optional ``refine`` module, blocks whose windows are shifted in every second one, and ``resample``.

    Args:
        channels: C, a multiple of 16 (heads of 16).
        drop_rates: drop-path rate of each block.
        resample: maps tokens (B, H, W, C), for example `PatchMerging`.
        refine: builds a module on (B, C, H, W).
    """

    def __init__(
        self, channels: int, drop_rates: Sequence[float], resample: nn.Module, refine: Refine | None = None
    ) -> None:
        super().__init__()
        heads = channels // HEAD_CHANNELS
        self.refine = refine(channels) if refine else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(channels, WindowAttention(channels, heads, WINDOW, shifted=i % 2 == 1), 4, rate)
                for i, rate in enumerate(drop_rates)
            )
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W'), channels-last in memory."""
        tokens = self.refine(x).permute(0, 2, 3, 1).contiguous()
        return self.resample(self.blocks(tokens)).permute(0, 3, 1, 2)


def swin_analysis(N: int, drop_path: float, refine: Refine | None = None) -> nn.Sequential:
    """Build the stages of g_a of STF, from (B, N, H, W) to y (B, 8N, H/8, W/8); see `SwinStage`.

    Args:
        N: width of the first stage.
        drop_path: drop-path rate of the last block; it rises linearly from 0.
        refine: see `SwinStage`.
    """
    return _stages((N, 2 * N, 4 * N, 8 * N), DEPTHS, drop_path, PatchMerging, refine)


def swin_synthesis(N: int, drop_path: float, refine: Refine | None = None) -> nn.Sequential:
    """Build the stages of g_s of STF, the mirror image of `swin_analysis`; the drop-path rate rises again from 0."""
    return _stages((8 * N, 4 * N, 2 * N, N), DEPTHS[::-1], drop_path, PatchSplitting, refine)


def _stages(
    channels: Sequence[int],
    depths: Sequence[int],
    drop_path: float,
    resample: Callable[[int], nn.Module],
    refine: Refine | None,
) -> nn.Sequential:
    """Build one stage per width; all but the last end with ``resample(width)``."""
    num_blocks = sum(depths)
    rates = shared_out(depths, [drop_path * i / (num_blocks - 1) for i in range(num_blocks)])
    ends = [*(resample(width) for width in channels[:-1]), nn.Identity()]
    return nn.Sequential(*(SwinStage(*stage, refine) for stage in zip(channels, rates, ends, strict=True)))


def hyper_networks(M: int, Z: int) -> tuple[nn.Module, nn.Module]:
    """Build h_a and h_s of STF, from y (B, M, h, w) to z (B, Z, h/4, w/4) and to psi (B, 2M, h, w)."""
    step = (M - Z) // 4
    widths = [Z + i * step for i in range(1, 4)]
    synthesis = (Z, *widths, M, M)
    return zou_h_a((M, M, *widths[::-1], Z)), ScaleMeanSynthesis(zou_h_s(synthesis), zou_h_s(synthesis))


def check_options(N: int, drop_path: float) -> None:
    """Check the options of a network of these stages.

    Raises:
        ValueError: N does not divide into heads, or the rate is not a probability below 1.
    """
    if N <= 0 or N % HEAD_CHANNELS:
        nearest = max(round(N / HEAD_CHANNELS), 1) * HEAD_CHANNELS
        raise ValueError(f"N: expected a positive multiple of {HEAD_CHANNELS} (heads of 16), got {N}; try {nearest}")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path: expected a rate of at least 0 and below 1, got {drop_path}")
