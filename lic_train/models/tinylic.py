"""Tiny-LIC: convolutions and neighbourhood attention, with a context model of nine passes.

M. Lu, Z. Ma, "High-Efficiency Lossy Image Coding Through Adaptive Neighborhood Information Aggregation",
https://arxiv.org/abs/2204.11448

Differences from the authors' code
- On an axis shorter than the attention window, attention covers the whole axis; the authors' code fails on images with
  a side below 192 pixels.
- Masks are applied to weights at every use, so the weights in a checkpoint are not overwritten.
- The paper mentions additive noise. As in the code, noise is only in the likelihood, and everything else uses rounded
  values.

Legend: B batch, H W image, N M channels; y (B, M, H/16, W/16), z (B, 3N/2, H/64, W/64), psi (B, 2M, H/16, W/16).
"""

from __future__ import annotations

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.layers.icsa import analysis, check_options, synthesis
from lic_train.layers.multistage_context import MultistageContext
from lic_train.models.base import HyperpriorCodec

# Tensor names in the authors' files and here: networks of alternating layers, then the inner names of a block.
AUTHORS_NAMES = (
    *((rf"^([gh]_a){2 * i}\.", rf"\1.{i}.conv.") for i in range(4)),
    *((rf"^([gh]_a){2 * i + 1}\.", rf"\1.{i}.rnab.") for i in range(4)),
    *((rf"^([gh]_s){2 * i}\.", rf"\1.{i}.rnab.") for i in range(4)),
    *((rf"^([gh]_s){2 * i + 1}\.", rf"\1.{i}.conv.") for i in range(4)),
    (r"\.residual_group\.blocks\.", ".blocks."),
    (r"\.attn\.proj\.", ".attention.projection."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^cc_transforms\.", "context.channel_context."),
    *((rf"^entropy_parameters_{i + 1}\.", f"context.entropy_parameters.{i}.") for i in range(4)),
    *((rf"^sc_transform_{i + 1}\.", f"context.spatial_context.0.{i}.") for i in range(3)),
    (r"^sc_transform_4\.", "context.spatial_context.1.0."),
    (r"^sc_transform_5\.", "context.spatial_context.2.0."),
)


class TinyLIC(HyperpriorCodec):
    """Codec of the paper.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> psi
        y, psi --nine passes--> y_hat --g_s--> x_hat

    Args:
        N: width of the first stage, a multiple of 32; the other stages have 3N/2, 2N and M. Paper: 128.
        M: channels of y, a multiple of 16. Paper: 320.
        drop_path: largest probability of skipping the residual branches of a block in training. It rises linearly over
            the 16 blocks of g_a and h_a, and again over those of h_s and g_s. Authors: 0.1.

    Raises:
        ValueError: a width or the probability is not valid.
    """

    authors_names = AUTHORS_NAMES

    def __init__(self, N: int = 128, M: int = 320, drop_path: float = 0.1) -> None:
        super().__init__()
        check_options(N, M, drop_path)
        widths, Z = (N, 3 * N // 2, 2 * N, M), 3 * N // 2
        depths, two, four = (2, 2, 6, 2), (2, 2), (2, 2, 2, 2)
        rates = [drop_path * i / 15 for i in range(16)]
        self.g_a = analysis((3, *widths), (5, 3, 3, 3), four, depths, 7, rates[:12])
        self.h_a = analysis((M, Z, Z), (3, 3), two, two, 3, rates[12:])
        self.h_s = synthesis((Z, Z, 2 * M), (3, 3), two, two, 3, rates[:4])
        self.g_s = synthesis((*widths[::-1], 3), (3, 3, 3, 5), four, depths[::-1], 7, rates[4:])
        self.entropy_bottleneck = EntropyBottleneck(Z, straight_through=True)
        self.context = MultistageContext(M)
