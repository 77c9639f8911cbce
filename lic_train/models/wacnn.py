"""WACNN: a convolutional codec with window attention, and slices of y with latent residual prediction.

R. Zou, C. Song, Z. Zhang, "The Devil Is in the Details: Window-based Attention for Image Compression", CVPR 2022,
https://arxiv.org/abs/2203.08450

Differences from the paper, and from the authors' code where it differs from the paper
- The paper describes windows without a shift, and the authors' class has this name. Their code and weights shift them
  by half a window, as here.
- Slices with equal support are coded in one step; the values are the same.
- There is one string for y and one for z; symbols outside a table are escape-coded.

Legend: B batch, H W image, N M channels; y (B, M, H/16, W/16), z (B, N, H/64, W/64), psi (B, 2M, H/16, W/16).
"""

from __future__ import annotations

from collections.abc import Sequence

from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.slices import SliceContext, slice_size
from lic_train.layers.gated_attention import GatedAttention
from lic_train.layers.hyper import ScaleMeanSynthesis, zou_h_a, zou_h_s
from lic_train.layers.window_attention import WindowAttention
from lic_train.models.base import HyperpriorCodec

HEADS = 8


class ResidualWindowAttention(nn.Module):
    """``x + attention(x)`` in shifted windows, without norm and MLP."""

    def __init__(self, N: int, window: int) -> None:
        super().__init__()
        self.attention = WindowAttention(N, HEADS, window, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, H, W) to (B, N, H, W)."""
        return x + self.attention(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def window_attention_module(N: int, window: int) -> GatedAttention:
    """Build WAM, the gated attention of section 3.3. Preserves (B, N, H, W)."""
    return GatedAttention(N, lambda: ResidualWindowAttention(N, window))


class WACNN(HyperpriorCodec):
    """Codec of the paper.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> psi = (scale map, mean map)
        y, psi --slices--> y_hat --g_s--> x_hat

    Args:
        N: channels of the networks and of z, a multiple of 8. Paper: 192.
        M: channels of y, a multiple of 8. Paper: 320.
        slices: number of slices of y, a divisor of M. Paper: 10.
        support: number of the earliest slices from which later ones are predicted. Paper: 5.
        widths: hidden widths of the networks of a slice. Paper: 224, 176, 128, 64.

    Raises:
        ValueError: a width is not valid.
    """

    authors_names = (
        (r"\.conv_a\.(\d)\.conv\.", r".trunk.\1.branch."),
        (r"\.conv_b\.0\.attn\.relative_position_bias_table$", ".mask.0.attention.bias.table"),
        (r"\.conv_b\.0\.attn\.proj\.", ".mask.0.attention.projection."),
        (r"\.conv_b\.0\.attn\.", ".mask.0.attention."),
        (r"\.conv_b\.([123])\.conv\.", r".mask.\1.branch."),
        (r"\.conv_b\.4\.", ".mask.4."),
        (r"^h_(scale|mean)_s\.", r"h_s.\1."),
        (r"^cc_(scale|mean)_transforms\.", r"context.\1."),
        (r"^lrp_transforms\.", "context.residual."),
    )

    def __init__(
        self,
        N: int = 192,
        M: int = 320,
        slices: int = 10,
        support: int = 5,
        widths: Sequence[int] = (224, 176, 128, 64),
    ) -> None:
        super().__init__()
        self.g_a = nn.Sequential(
            conv(3, N),
            GDN(N),
            conv(N, N),
            GDN(N),
            window_attention_module(N, window=8),
            conv(N, N),
            GDN(N),
            conv(N, M),
            window_attention_module(M, window=4),
        )
        self.g_s = nn.Sequential(
            window_attention_module(M, window=4),
            deconv(M, N),
            GDN(N, inverse=True),
            deconv(N, N),
            GDN(N, inverse=True),
            window_attention_module(N, window=8),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, 3),
        )
        inner = [N + i * (M - N) // 4 for i in range(4)]
        up = (N, *inner, M)
        self.h_a = zou_h_a((M, M, *inner[:0:-1], N))
        self.h_s = ScaleMeanSynthesis(zou_h_s(up), zou_h_s(up))
        self.entropy_bottleneck = EntropyBottleneck(N, straight_through=True)
        self.context = SliceContext(slices, slice_size(M, slices), support, M, widths)
