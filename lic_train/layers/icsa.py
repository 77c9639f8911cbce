"""ICSA units of Lu and Ma (2022, arXiv 2204.11448): a strided convolution and a group of neighbourhood attention.

Legend: B batch, C channels, H W map. Convolutions work on (B, C, H, W), attention on (B, H, W, C). Between the two,
values are channels-last in memory, so neither copies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lic_train.layers.neighborhood_attention import HEAD_CHANNELS, NeighborhoodAttention
from lic_train.layers.transformer import TransformerBlock


class RNAB(nn.Module):
    """Residual neighbourhood attention blocks: a skip connection around ``len(drop_rates)`` blocks of MLP ratio 2."""

    def __init__(self, channels: int, window: int, drop_rates: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(TransformerBlock(channels, NeighborhoodAttention(channels, window), 2, rate) for rate in drop_rates)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W), channels-last in memory."""
        tokens = x.permute(0, 2, 3, 1).contiguous()
        return (tokens + self.blocks(tokens)).permute(0, 3, 1, 2)


def check_options(N: int, M: int, drop_path: float) -> None:
    """Check the options of a network of these units, whose widths are N, 3N/2, 2N and M.

    Raises:
        ValueError: a width does not divide into heads, or the rate is not a probability below 1.
    """
    for name, value, unit in (("N", N, 2 * HEAD_CHANNELS), ("M", M, HEAD_CHANNELS)):
        if value <= 0 or value % unit:
            nearest = max(round(value / unit), 1) * unit
            raise ValueError(
                f"{name}: expected a positive multiple of {unit} (heads of 16), got {value}; try {nearest}"
            )
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path: expected a rate of at least 0 and below 1, got {drop_path}")


Refine = Callable[[int], nn.Module]  # builds a shape-preserving module from its number of channels


def _unit(**parts: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if part is not None))


def shared_out(depths: Sequence[int], drop_rates: Sequence[float]) -> list[Sequence[float]]:
    """Distribute ``drop_rates`` over groups of ``depths`` blocks."""
    assert sum(depths) == len(drop_rates)
    stops = [sum(depths[: i + 1]) for i in range(len(depths))]
    return [drop_rates[stop - depth : stop] for stop, depth in zip(stops, depths, strict=True)]


def analysis(
    channels: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    depths: Sequence[int],
    window: int,
    drop_rates: Sequence[float],
    refine: Refine | None = None,
) -> nn.Sequential:
    """Build the ICSA units of an encoder: convolution, optional ``refine`` module, RNAB, without activations between.

    Args:
        channels: n + 1 widths; the other sequences have n entries.
        kernels: kernel sizes of the convolutions.
        strides: strides of the convolutions.
        depths: attention blocks of each RNAB.
        window: attention window.
        drop_rates: drop-path rates of all blocks, in order.
        refine: builds the module between convolution and RNAB.
    """
    units = []
    for i, rates in enumerate(shared_out(depths, drop_rates)):
        conv = nn.Conv2d(channels[i], channels[i + 1], kernels[i], strides[i], padding=kernels[i] // 2)
        extra = refine(channels[i + 1]) if refine else None
        units.append(_unit(conv=conv, refine=extra, rnab=RNAB(channels[i + 1], window, rates)))
    return nn.Sequential(*units)


def synthesis(
    channels: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    depths: Sequence[int],
    window: int,
    drop_rates: Sequence[float],
    refine: Refine | None = None,
) -> nn.Sequential:
    """Build the ICSA units of a decoder, the mirror image of `analysis`: RNAB, ``refine``, transposed convolution."""
    units = []
    for i, rates in enumerate(shared_out(depths, drop_rates)):
        padding, missing = kernels[i] // 2, strides[i] - 1
        conv = nn.ConvTranspose2d(channels[i], channels[i + 1], kernels[i], strides[i], padding, missing)
        extra = refine(channels[i]) if refine else None
        units.append(_unit(rnab=RNAB(channels[i], window, rates), refine=extra, conv=conv))
    return nn.Sequential(*units)
