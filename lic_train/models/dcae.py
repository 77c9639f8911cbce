"""DCAE: an entropy model that queries a learned dictionary by cross-attention, in five channel slices.

J. Lu, L. Zhang, X. Zhou, M. Li, W. Li, S. Gu, "Learned Image Compression with Dictionary-based Entropy Model",
CVPR 2025, https://arxiv.org/abs/2504.00496

The networks are those of the authors' public code.

Differences from the authors' code
- Windows that reach beyond the border of a map are completed with keys that no query attends to. The authors pad
  images to multiples of 128, and their windows fail on images with a side below 256 pixels.
- Straight-through rounding is exact; the authors' ``round(v) - v + v`` can differ in the last digit.
- One noise tensor is drawn for all of y in place of one per slice, which has the same distribution.

Legend: B batch, H W image or map, C channels, M Z channels of the latents, D = 2M width of the dictionary, n entries;
y (B, M, H/16, W/16) in 5 slices, z (B, Z, H/64, W/64), psi (B, 2M, H/16, W/16): scale map and mean map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.slices import SliceContext
from lic_train.layers.hyper import ScaleMeanSynthesis
from lic_train.layers.window_attention import WindowAttention
from lic_train.models.base import HyperpriorCodec

HEADS = (8, 16, 32)  # channels of a head in the three stages
HEAD_CHANNELS = 32  # in the hyper networks and in the dictionary attention
WINDOW, HYPER_WINDOW = 8, 4
SLICES = 5


class Bottleneck(nn.Module):
    """Residual unit with half the channels inside (ELIC): ``x + 1x1(ReLU(3x3(ReLU(1x1(x)))))``."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(C, C // 2, kernel_size=1)
        self.conv2 = nn.Conv2d(C // 2, C // 2, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(C // 2, C, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


def bottlenecks(C: int) -> OrderedDict[str, nn.Module]:
    """Return three residual units by name."""
    return OrderedDict((f"res{i}", Bottleneck(C)) for i in (1, 2, 3))


def down(a: int, b: int) -> nn.Sequential:
    """Build a strided convolution and three residual units, from (B, a, H, W) to (B, b, H/2, W/2)."""
    return nn.Sequential(OrderedDict(conv=conv(a, b), **bottlenecks(b)))


def up(a: int, b: int) -> nn.Sequential:
    """Build three residual units and a transposed convolution, from (B, a, H, W) to (B, b, 2H, 2W)."""
    return nn.Sequential(OrderedDict(**bottlenecks(a), conv=deconv(a, b)))


def to_channels_last(x: Tensor) -> Tensor:
    """Permute (B, C, H, W) to (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(x: Tensor) -> Tensor:
    """Permute (B, H, W, C) to (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


class ConvGLU(nn.Module):
    """Gated linear unit whose gate passes through a depthwise 3x3 convolution over the whole map, with 2C inside."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(C, 4 * C), nn.Linear(2 * C, C)
        self.dwconv = nn.Conv2d(2 * C, 2 * C, kernel_size=3, padding=1, groups=2 * C)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        gate = to_channels_last(self.dwconv(to_channels_first(gate)))
        return self.fc2(F.gelu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block: window attention and a gated linear unit, with learned scales on the skip paths."""

    def __init__(self, C: int, head_channels: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attention = WindowAttention(C, C // head_channels, window, shifted, mask_padding=True)
        self.mlp = ConvGLU(C)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(C)), nn.Parameter(torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        u = self.scale1 * x + self.attention(self.norm1(x))
        return self.scale2 * u + self.mlp(self.norm2(u))


class Stage(nn.Module):
    """Residual connection around ``depth`` transformer blocks and a convolution; every second block is shifted."""

    def __init__(self, C: int, head_channels: int, window: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Block(C, head_channels, window, bool(i % 2)) for i in range(depth)))
        self.conv = nn.Conv2d(C, C, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + self.conv(to_channels_first(self.layers(to_channels_last(x))))


class FilterUnit(nn.Module):
    """``1x1(GELU(dw 3x3(GELU(1x1(GELU(u))))))`` on (B, C, h, w)."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.in_trans, self.out_trans = nn.Conv2d(C, C, kernel_size=1), nn.Conv2d(C, C, kernel_size=1)
        self.dw_conv = nn.Conv2d(C, C, kernel_size=3, padding=1, groups=C)

    def forward(self, u: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        return self.out_trans(F.gelu(self.dw_conv(F.gelu(self.in_trans(F.gelu(u))))))


class MultiScaleFilter(nn.Module):
    """Multi-scale feature extraction before the dictionary query: a chain of units, merged and gated by position."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.s = nn.Conv2d(C, C, kernel_size=1)
        self.units = nn.ModuleList(FilterUnit(C) for _ in range(3))
        self.proj = nn.Conv2d(4 * C, C, kernel_size=1)
        self.gate = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to (B, h, w, C)."""
        scales = [self.s(to_channels_first(x))]
        for unit in self.units:
            scales.append(unit(scales[-1]))
        m = self.proj(torch.cat(scales, dim=1))
        summary = torch.cat([m.mean(dim=1, keepdim=True), m.amax(dim=1, keepdim=True)], dim=1)
        return to_channels_last(m * torch.sigmoid(self.gate(summary)))


class DictionaryAttention(nn.Module):
    """Cross-attention of every position to the entries of a dictionary (B, n entries of width D).

    The values are the normalised entries themselves, and a learned temperature per head replaces 1 / sqrt(d).
    """

    def __init__(self, in_channels: int, M: int) -> None:
        super().__init__()
        D = 2 * M
        self.x_trans = nn.Linear(in_channels, D)
        self.ln_scale, self.filter = nn.LayerNorm(D), MultiScaleFilter(D)
        self.lnx, self.q_trans = nn.LayerNorm(D), nn.Linear(D, D)
        self.dict_ln, self.k = nn.LayerNorm(D), nn.Linear(D, D)
        self.scale = nn.Parameter(torch.ones(D // HEAD_CHANNELS, 1, 1))
        self.linear = nn.Linear(D, D)
        self.ln_mlp, self.mlp = nn.LayerNorm(D), ConvGLU(D)
        self.output_trans = nn.Linear(D, M)
        self.scale1, self.scale2, self.scale3 = (nn.Parameter(torch.ones(D)) for _ in range(3))

    def forward(self, x: Tensor, dictionary: Tensor) -> Tensor:
        """Map x (B, C, h, w) and the dictionary (n, D) to (B, M, h, w)."""
        a = self.x_trans(to_channels_last(x))
        b = self.scale1 * a + self.filter(self.ln_scale(a))
        c = self.scale2 * b + self.linear(self._attend(self.q_trans(self.lnx(b)), self.dict_ln(dictionary)))
        e = self.scale3 * c + self.mlp(self.ln_mlp(c))
        return to_channels_first(self.output_trans(e))

    def _attend(self, queries: Tensor, entries: Tensor) -> Tensor:
        """Return for queries (B, h, w, D) the weighted entries (n, D), in the shape of the queries."""
        q = queries.flatten(1, 2).unflatten(-1, (-1, HEAD_CHANNELS)).transpose(1, 2) * self.scale
        k, v = (t.unflatten(-1, (-1, HEAD_CHANNELS)).transpose(0, 1) for t in (self.k(entries), entries))
        out = F.scaled_dot_product_attention(q, k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1), scale=1.0)
        return out.transpose(1, 2).reshape(queries.shape)


class DictionaryContext(SliceContext):
    """Dictionary-based entropy model: the support of each slice queries the dictionary, which all slices share.

    Args:
        M: channels of y.
        entries: entries of the dictionary.
        widths: hidden widths of the networks of a slice.
    """

    def __init__(self, M: int, entries: int, widths: Sequence[int]) -> None:
        size = M // SLICES
        super().__init__(SLICES, size, SLICES - 1, 3 * M, widths)
        self.dictionary = nn.Parameter(torch.randn(entries, 2 * M))
        self.attention = nn.ModuleList(DictionaryAttention(2 * M + i * size, M) for i in range(SLICES))

    def supports(self, step: int, psi: Tensor, decoded: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `SliceContext`; the scale and mean networks have the same input."""
        support = torch.cat([psi, *decoded], dim=1)
        both = torch.cat([support, self.attention[step](support, self.dictionary)], dim=1)
        return both, both


def hyper_synthesis(Z: int, M: int) -> nn.Sequential:
    """Build the network from z_hat (B, Z, h/4, w/4) to a map (B, M, h, w)."""
    return nn.Sequential(deconv(Z, Z, kernel_size=3), Stage(Z, HEAD_CHANNELS, HYPER_WINDOW, 1), up(Z, M))


def check_options(stages: Sequence[int], depths: Sequence[int], M: int, Z: int) -> None:
    """Check that every width divides into heads, and M into slices.

    Raises:
        ValueError: a width or a number of stages is not valid.
    """
    if not len(stages) == len(depths) == len(HEADS):
        raise ValueError(f"stages, depths: expected {len(HEADS)} numbers each, got {len(stages)} and {len(depths)}")
    if min(depths) < 1:
        raise ValueError(f"depths: expected positive numbers, got {list(depths)}")
    units = [("stages", C, head) for C, head in zip(stages, HEADS, strict=True)]
    for name, value, unit in (*units, ("M", M, 16 * SLICES), ("Z", Z, HEAD_CHANNELS)):
        if value <= 0 or value % unit:
            nearest = max(round(value / unit), 1) * unit
            raise ValueError(f"{name}: expected a positive multiple of {unit}, got {value}; try {nearest}")


class DCAE(HyperpriorCodec):
    """Codec of the paper.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> scale map, mean map
        y, maps, dictionary --five slices--> y_hat --g_s--> x_hat

    Args:
        stages: widths of the transformer stages at strides 2, 4 and 8, multiples of 8, 16 and 32.
        depths: transformer blocks of each.
        M: channels of y, a multiple of 80. Paper: 320.
        Z: channels of z, a multiple of 32. Paper: 192.
        entries: entries of the dictionary. Paper: 128.
        widths: hidden widths of the networks of a slice. Paper: 224 and 128.

    Raises:
        ValueError: a width is not valid.
    """

    authors_names = (
        (r"^h_z_s1\.", "h_s.scale."),
        (r"^h_z_s2\.", "h_s.mean."),
        (r"^cc_(scale|mean)_transforms\.", r"context.\1."),
        (r"^lrp_transforms\.", "context.residual."),
        (r"^dt$", "context.dictionary"),
        (r"^dt_cross_attention\.", "context.attention."),
        (r"\.output_trans\.0\.", ".output_trans."),
        (r"\.res_scale_(\d)\.scale$", r".scale\1"),
        (r"\.dwconv\.dwconv\.", ".dwconv."),
        (r"\.msa\.s\.", ".filter.s."),
        (r"\.msa\.dense\.conv_layers\.(\d)\.1\.", r".filter.units.\1."),
        (r"\.msa\.dense\.proj\.", ".filter.proj."),
        (r"\.msa\.spatial_atte\.conv1\.", ".filter.gate."),
        (r"\.ln([12])\.", r".norm\1."),
        (r"\.msa\.embedding_layer\.", ".attention.qkv."),
        (r"\.msa\.linear\.", ".attention.projection."),
        (r"\.msa\.relative_position_params$", ".attention.bias.table"),  # (h, 2w-1, 2w-1) there, ((2w-1)^2, h) here
    )

    def __init__(
        self,
        stages: Sequence[int] = (96, 144, 256),
        depths: Sequence[int] = (1, 2, 12),
        M: int = 320,
        Z: int = 192,
        entries: int = 128,
        widths: Sequence[int] = (224, 128),
    ) -> None:
        super().__init__()
        check_options(stages, depths, M, Z)
        rows = list(zip((3, *stages[:-1]), stages, HEADS, depths, strict=True))
        self.g_a = nn.Sequential(
            *(layer for a, b, head, depth in rows for layer in (down(a, b), Stage(b, head, WINDOW, depth))),
            conv(stages[-1], M),
        )
        self.g_s = nn.Sequential(
            deconv(M, stages[-1]),
            *(layer for a, b, head, depth in rows[::-1] for layer in (Stage(b, head, WINDOW, depth), up(b, a))),
        )
        self.h_a = nn.Sequential(down(M, Z), Stage(Z, HEAD_CHANNELS, HYPER_WINDOW, 1), conv(Z, Z, kernel_size=3))
        self.h_s = ScaleMeanSynthesis(hyper_synthesis(Z, M), hyper_synthesis(Z, M))
        self.entropy_bottleneck = EntropyBottleneck(Z, straight_through=True)
        self.context = DictionaryContext(M, entries, widths)
