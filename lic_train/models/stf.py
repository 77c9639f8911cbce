"""STF: symmetrical window transformers, and slices of y with latent residual prediction.

R. Zou, C. Song, Z. Zhang, "The Devil Is in the Details: Window-based Attention for Image Compression", CVPR 2022,
https://arxiv.org/abs/2203.08450

Differences from the authors' code
- Slices with equal support are coded in one step; the values are the same.
- There is one string for y and one for z; symbols outside a table are escape-coded.
- Parts of the map that a window attention pads are removed again, so maps need not be multiples of the window.

Legend: B batch, H W image, N channels of the first stage, M = 8N channels of y, Z channels of z; y (B, M, H/16, W/16),
z (B, Z, H/64, W/64), psi (B, 2M, H/16, W/16).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.slices import SliceContext, slice_size
from lic_train.layers.swin import ChannelNorm, check_options, hyper_networks, swin_analysis, swin_synthesis
from lic_train.models.base import HyperpriorCodec


class STF(HyperpriorCodec):
    """Codec of the paper.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> psi = (scale map, mean map)
        y, psi --slices--> y_hat --g_s--> x_hat

    Args:
        N: width of the first stage, a multiple of 16; the other stages have 2N, 4N and M = 8N. Paper: 48.
        Z: channels of z. Paper: 192.
        slices: number of slices of y, a divisor of M. Paper: 12.
        support: number of the earliest slices from which later ones are predicted. Paper: 6.
        widths: hidden widths of the networks of a slice. Paper: 224, 176, 128, 64.
        drop_path: largest probability of skipping the residual branches of a block in training. It rises linearly over
            the 12 blocks of g_a, and again over those of g_s. Authors: 0.2.

    Raises:
        ValueError: a width or the probability is not valid.
    """

    authors_names = (
        (r"^patch_embed\.proj\.", "g_a.embed.0."),
        (r"^patch_embed\.norm\.", "g_a.embed.1."),
        (r"^layers\.", "g_a.stages."),
        (r"^syn_layers\.", "g_s.stages."),
        (r"^end_conv\.", "g_s.end."),
        (r"\.downsample\.", ".resample."),
        (r"\.attn\.relative_position_bias_table$", ".attention.bias.table"),
        (r"\.attn\.proj\.", ".attention.projection."),
        (r"\.attn\.", ".attention."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.2."),
        (r"^h_(scale|mean)_s\.", r"h_s.\1."),
        (r"^cc_(scale|mean)_transforms\.", r"context.\1."),
        (r"^lrp_transforms\.", "context.residual."),
    )

    def __init__(
        self,
        N: int = 48,
        Z: int = 192,
        slices: int = 12,
        support: int = 6,
        widths: Sequence[int] = (224, 176, 128, 64),
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        M = 8 * N
        check_options(N, drop_path)
        embed = nn.Sequential(nn.Conv2d(3, N, kernel_size=2, stride=2), ChannelNorm(N))
        end = nn.Sequential(
            nn.Conv2d(N, 4 * N, kernel_size=5, padding=2),
            nn.PixelShuffle(2),
            nn.Conv2d(N, 3, kernel_size=3, padding=1),
        )
        self.g_a = nn.Sequential(OrderedDict(embed=embed, stages=swin_analysis(N, drop_path)))
        self.g_s = nn.Sequential(OrderedDict(stages=swin_synthesis(N, drop_path), end=end))
        self.h_a, self.h_s = hyper_networks(M, Z)
        self.entropy_bottleneck = EntropyBottleneck(Z, straight_through=True)
        self.context = SliceContext(slices, slice_size(M, slices), support, M, widths)
