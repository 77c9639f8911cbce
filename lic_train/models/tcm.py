"""LIC-TCM: half of the channels of every block pass through convolutions, the other half through window attention.

J. Liu, H. Sun, J. Katto, "Learned Image Compression with Mixed Transformer-CNN Architectures", CVPR 2023,
https://arxiv.org/abs/2303.14978

The networks are those of the authors' public code, which they describe as consistent with the paper but not identical
to the code of its experiments. N is half of the width that the paper states: 64, 96, 128 for small, middle, large.

Differences from the authors' code
- Windows that reach beyond the border of a map are completed with keys that no query attends to. The authors pad
  images to multiples of 128, and their windows fail on images with a side below 256 pixels.
- M and the widths of the entropy model are arguments.

Legend: B batch, H W image, N M Z channels; y (B, M, H/16, W/16) in 5 slices, z (B, Z, H/64, W/64), psi
(B, 2M, H/16, W/16): scale map and mean map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from compressai.layers import (
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv1x1,
    conv3x3,
    subpel_conv3x3,
)
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.slices import SliceContext
from lic_train.layers.attention_block import AttentionBlock
from lic_train.layers.hyper import ScaleMeanSynthesis
from lic_train.layers.subsampled import SubsampledConv2d
from lic_train.layers.transformer import TransformerBlock
from lic_train.layers.window_attention import WindowAttention
from lic_train.models.base import HyperpriorCodec

WINDOW, HYPER_WINDOW = 8, 4
SLICES = 5


class SwinBlock(TransformerBlock):
    """Transformer block of Swin (ICCV 2021), with an MLP of ratio 4, on maps with the channels first."""

    def __init__(self, channels: int, head_channels: int, window: int, shifted: bool) -> None:
        attention = WindowAttention(channels, channels // head_channels, window, shifted, mask_padding=True)
        super().__init__(channels, attention, ratio=4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MixedBlock(nn.Module):
    """Parallel transformer-CNN mixture block ("TCM block"): each half of the channels has a branch of its own."""

    def __init__(self, channels: int, head_channels: int, window: int, shifted: bool) -> None:
        super().__init__()
        half = channels // 2
        self.conv1_1, self.conv1_2 = conv1x1(channels, channels), conv1x1(channels, channels)
        self.conv_block = ResidualBlock(half, half)
        self.trans_block = SwinBlock(half, head_channels, window, shifted)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        u, v = self.conv1_1(x).chunk(2, dim=1)
        u = u + self.conv_block(u)  # a second residual connection: the block already has one
        return x + self.conv1_2(torch.cat([u, self.trans_block(v)], dim=1))


class SwinGate(AttentionBlock):
    """Attention of the paper's entropy model ("SWAtten"): CompressAI's gated block, its gate computed from a Swin pair.

    Maps (B, C, h, w) to the same shape; all attention has ``width`` channels in heads of 16.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(width)
        self.in_conv, self.out_conv = conv1x1(channels, width), conv1x1(width, channels)
        self.non_local_block = nn.Sequential(*(SwinBlock(width, 16, WINDOW, shifted) for shifted in (False, True)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        u = self.in_conv(x)
        gate = torch.sigmoid(self.conv_b(self.non_local_block(u)))
        return self.out_conv(u + self.conv_a(u) * gate)


def halve(inputs: int, outputs: int) -> ResidualBlockWithStride:
    """Build CompressAI's residual block of stride 2, whose skip can train in every memory format."""
    block = ResidualBlockWithStride(inputs, outputs)
    block.skip = SubsampledConv2d.like(block.skip)
    return block


def stage(resize: nn.Module, channels: int, head_channels: int, window: int = WINDOW) -> list[nn.Module]:
    """Return ``resize`` and two mixed blocks, the second with shifted windows."""
    return [resize, *(MixedBlock(channels, head_channels, window, shifted) for shifted in (False, True))]


def hyper_synthesis(Z: int, C: int, M: int) -> nn.Sequential:
    """Build the network from z_hat (B, Z, h/4, w/4) to a map (B, M, h, w)."""
    return nn.Sequential(*stage(ResidualBlockUpsample(Z, C), C, 32, HYPER_WINDOW), subpel_conv3x3(C, M, 2))


class SwinSliceContext(SliceContext):
    """Channel-wise entropy model (section 3.3): the supports of each slice pass through two Swin gates.

    Args:
        M: channels of y.
        attention: width of the gates.
        widths: hidden widths of the networks of a slice.
    """

    def __init__(self, M: int, attention: int, widths: Sequence[int]) -> None:
        size = M // SLICES
        super().__init__(SLICES, size, SLICES - 1, M, widths)
        inputs = [M + i * size for i in range(SLICES)]
        self.atten_scale = nn.ModuleList(SwinGate(channels, attention) for channels in inputs)
        self.atten_mean = nn.ModuleList(SwinGate(channels, attention) for channels in inputs)

    def supports(self, step: int, psi: Tensor, decoded: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `SliceContext`."""
        scale_input, mean_input = super().supports(step, psi, decoded)
        return self.atten_scale[step](scale_input), self.atten_mean[step](mean_input)


class TCM(HyperpriorCodec):
    """Codec of the paper.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> scale map, mean map
        y, maps --five slices--> y_hat --g_s--> x_hat

    Args:
        N: half of the paper's width C, a multiple of 32. Small 64, middle 96, large 128.
        M: channels of y, a multiple of 5. Paper: 320.
        Z: channels of z. Paper: 192.
        attention: width of the attention in the entropy model, a multiple of 16. Paper: 128.
        widths: hidden widths of the networks of a slice. Paper: 224 and 128.

    Raises:
        ValueError: a width is not valid.
    """

    authors_names = (
        (r"^h_scale_s\.", "h_s.scale."),
        (r"^h_mean_s\.", "h_s.mean."),
        (r"^cc_(scale|mean)_transforms\.", r"context.\1."),
        (r"^lrp_transforms\.", "context.residual."),
        (r"^(atten_(?:scale|mean)\.\d)\.0\.", r"context.\1."),
        (r"\.non_local_block\.block_1\.", ".non_local_block.0."),
        (r"\.non_local_block\.block_2\.", ".non_local_block.1."),
        (r"\.ln([12])\.", r".norm\1."),
        (r"\.msa\.embedding_layer\.", ".attention.qkv."),
        (r"\.msa\.linear\.", ".attention.projection."),
        (r"\.msa\.relative_position_params$", ".attention.bias.table"),  # (h, 2w-1, 2w-1) there, ((2w-1)^2, h) here
    )

    def __init__(
        self, N: int = 128, M: int = 320, Z: int = 192, attention: int = 128, widths: Sequence[int] = (224, 128)
    ) -> None:
        super().__init__()
        for name, value, unit in (("N", N, 32), ("M", M, SLICES), ("Z", Z, 1), ("attention", attention, 16)):
            if value <= 0 or value % unit:
                nearest = max(round(value / unit), 1) * unit
                raise ValueError(f"{name}: expected a positive multiple of {unit}, got {value}; try {nearest}")
        C = 2 * N
        self.g_a = nn.Sequential(
            *stage(halve(3, C), C, 8),
            *stage(halve(C, C), C, 16),
            *stage(halve(C, C), C, 32),
            conv3x3(C, M, stride=2),
        )
        self.g_s = nn.Sequential(
            *stage(ResidualBlockUpsample(M, C), C, 32),
            *stage(ResidualBlockUpsample(C, C), C, 16),
            *stage(ResidualBlockUpsample(C, C), C, 8),
            subpel_conv3x3(C, 3, 2),
        )
        self.h_a = nn.Sequential(*stage(halve(M, C), C, 32, HYPER_WINDOW), conv3x3(C, Z, stride=2))
        self.h_s = ScaleMeanSynthesis(hyper_synthesis(Z, C, M), hyper_synthesis(Z, C, M))
        self.entropy_bottleneck = EntropyBottleneck(Z, straight_through=True)
        self.context = SwinSliceContext(M, attention, widths)
