"""CWAM: cross-scale shifted-window attention between the stages of a convolutional codec with a serial context model.

P. Mudgal, F. Liu, "Enhancing Learned Image Compression via Cross Window-based Attention", ISVC 2024,
https://arxiv.org/abs/2410.21144

Differences from the paper, and from the authors' code where it differs from the paper
- The figure caption attributes the hyper networks to Minnen et al. 2018; the published numbers come from those of Cheng
  et al. 2020. ``hyper="cheng"`` is the default, ``"minnen"`` (with LeakyReLU 0.01) follows the caption.
- The caption has window attention in the residual blocks at the latent; the code has Cheng's simplified attention.
  ``tail="attention"`` is the default, ``"cwam"`` places a third CWAM of window 4 there.
- The down-arrows of the decoder in the figure are treated as a mistake: its convolutions are transposed.
- N = 320 as in the paper; the code uses 128 or 192 for lower rates, so N is an argument.
- Windows are always shifted by half a window (the code names the block "no shift" but shifts).
- Evaluation quantises like the bitstream, round(y - mean) + mean; the code's forward pass rounds without the mean.
- Training draws one noise tensor for context, decoder and rate; the code draws a second one for the rate.
- Omitted: a second enhancement module that the code builds but never calls, and an average over groups of one channel.
- The coarse keys and values are projected before they are cut into overlapping patches. The result is the same with a
  quarter of the multiplications.

Legend: B batch, H W image or map, N channels (also of the latents), w window, T = w * w tokens, n windows, h heads,
d = N / h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy.autoregressive import COMPRESSAI_NAMES, SerialContext
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.layers.attention_block import AttentionBlock
from lic_train.layers.enhancement import Enhancement
from lic_train.layers.gated_attention import GatedAttention
from lic_train.layers.hyper import cheng_h_a, cheng_h_s
from lic_train.layers.window_attention import RelativePositionBias, tiles
from lic_train.models.base import HyperpriorCodec

Choice = TypeVar("Choice")

HEADS = 8
# Large enough for a masked key's weight to underflow in every precision, and representable in bfloat16 and float16.
MASKED = -100.0


def neighbourhoods(x: Tensor, window: int) -> Tensor:
    """Cut a half-resolution map (B, H/2, W/2, C) into patches (B, H/w, W/w, w, w, C), one around each fine window.

    The map is padded by reflection, so that patch i is centred on fine window i and covers twice its side.
    """
    padded = F.pad(x.permute(0, 3, 1, 2), (window // 4,) * 4, mode="reflect")
    patches = padded.unfold(2, window, window // 2).unfold(3, window, window // 2)
    return patches.permute(0, 2, 3, 4, 5, 1)


def window_masks(height: int, width: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return additive masks (n, 1, T, T) of the rolled map, for fine and for coarse keys.

    Tokens attend to each other if they come from the same of the nine regions that the roll brings together.
    """

    def labels(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).float() + (position >= size - window // 2).float()

    regions = (3 * labels(height)[:, None] + labels(width)).view(1, height, width, 1)
    query = tiles(regions, window).reshape(-1, 1, window**2, 1)
    # Every border is at an even coordinate, so a 2x2 mean of labels equals each of the four.
    coarse = neighbourhoods(regions[:, ::2, ::2], window).reshape(-1, 1, 1, window**2)
    return MASKED * (query != query.mT), MASKED * (query != coarse)


# In eager mode the masks are built once per size and device.
cached_window_masks = functools.lru_cache(maxsize=32)(window_masks)


def _with_bias(mask: Tensor, bias: Tensor) -> Tensor:
    """Add a bias (h, T, T) to a mask (n, 1, T, T); returns (1, n * h, T, T)."""
    return (mask + bias).flatten(0, 1)[None]


class CrossScaleWindowAttention(nn.Module):
    """CSWA: attention of each shifted window to itself and to a half-resolution neighbourhood twice as wide."""

    def __init__(self, N: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.qkv = nn.Linear(N, 3 * N)
        self.kv_coarse = nn.Linear(N, 2 * N)
        self.bias, self.bias_coarse = (RelativePositionBias(window, HEADS) for _ in range(2))
        self.merge = nn.Sequential(nn.Linear(2 * N, N), nn.LeakyReLU(0.2), nn.Linear(N, N))
        self.projection = nn.Linear(N, N)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, H, W) to the same shape; H and W are multiples of the window with at least 2 coarse positions."""
        height, width, shift = x.shape[2], x.shape[3], self.window // 2
        fine = x.permute(0, 2, 3, 1).roll((-shift, -shift), (1, 2))
        coarse = F.avg_pool2d(fine.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        q, k, v = self._heads(tiles(self.qkv(fine), self.window), 3)
        k_coarse, v_coarse = self._heads(neighbourhoods(self.kv_coarse(coarse), self.window), 2)
        # In a compiled graph the masks are fused into their use, so a cache would only add work to tracing.
        make_masks = window_masks if torch.compiler.is_compiling() else cached_window_masks
        mask, mask_coarse = make_masks(height, width, self.window, x.device)
        same = F.scaled_dot_product_attention(q, k, v, _with_bias(mask, self.bias()))
        cross = F.scaled_dot_product_attention(q, k_coarse, v_coarse, _with_bias(mask_coarse, self.bias_coarse()))
        same, cross = self._map(same, height, width), self._map(cross, height, width)
        out = self.projection(self.merge(torch.cat([same, cross], dim=-1)) + same)
        return x + out.roll((shift, shift), (1, 2)).permute(0, 3, 1, 2)

    def _heads(self, windows: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, H/w, W/w, w, w, parts * N) into ``parts`` tensors (B, n * h, T, d)."""
        split = windows.unflatten(-1, (parts, HEADS, -1))
        return split.permute(5, 0, 1, 2, 6, 3, 4, 7).flatten(5, 6).flatten(2, 4).unbind(0)

    def _map(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Reassemble (B, n * h, T, d) to (B, H, W, N)."""
        rows, columns = height // self.window, width // self.window
        windows = tokens.unflatten(1, (rows, columns, HEADS)).unflatten(4, (self.window, self.window))
        return windows.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, height, width, HEADS * tokens.shape[-1])


class CrossWindowAttention(GatedAttention):
    """CWAM block: a trunk of residual units, gated by a mask computed from window attention."""

    def __init__(self, N: int, window: int) -> None:
        super().__init__(N, lambda: CrossScaleWindowAttention(N, window))


def minnen_h_a(N: int) -> nn.Sequential:
    """Build h_a of Minnen et al. 2018, from y (B, N, H/16, W/16) to z (B, N, H/64, W/64)."""
    return nn.Sequential(
        conv(N, N, kernel_size=3, stride=1),
        nn.LeakyReLU(inplace=True),
        conv(N, N),
        nn.LeakyReLU(inplace=True),
        conv(N, N),
    )


def minnen_h_s(N: int) -> nn.Sequential:
    """Build h_s of Minnen et al. 2018, from z_hat (B, N, H/64, W/64) to psi (B, 2N, H/16, W/16)."""
    return nn.Sequential(
        deconv(N, N),
        nn.LeakyReLU(inplace=True),
        deconv(N, N * 3 // 2),
        nn.LeakyReLU(inplace=True),
        conv(N * 3 // 2, 2 * N, kernel_size=3, stride=1),
    )


HYPER: dict[str, Callable[[int], tuple[nn.Module, nn.Module]]] = {
    "cheng": lambda N: (cheng_h_a(N, N), cheng_h_s(N, N)),
    "minnen": lambda N: (minnen_h_a(N), minnen_h_s(N)),
}
TAIL: dict[str, Callable[[int], nn.Module]] = {
    "attention": AttentionBlock,
    "cwam": lambda N: CrossWindowAttention(N, window=4),
}


# Tensor names in the authors' files and here. Theirs also contain a second enhancement module, which is never called.
_BLOCK = r"^(g_a\.[59]|g_s\.[16])\."
AUTHORS_NAMES = (
    (r"^enh1\..*", ""),
    (r"^enh\.forw_enh\.layers\.", "g_a.0.branch."),
    (r"^enh\.back_enh\.layers\.", "g_s.10.branch."),
    *((rf"\.branch\.([04])\.conv{j}\.", rf".branch.\1.convs.{j - 1}.") for j in range(1, 6)),
    *((rf"^cnn\.(g_[as])\.{i}\.", rf"\1.{i + 1}.") for i in range(9)),
    (r"^attention\.forw_att\.", "g_a.10."),
    (r"^attention\.back_att\.", "g_s.0."),
    (_BLOCK + r"conv_a\.(\d)\.conv\.", r"\1.trunk.\2.branch."),
    (_BLOCK + r"conv_b\.(\d)\.conv\.", r"\1.mask.\2.branch."),
    (_BLOCK + r"conv_b\.", r"\1.mask."),
    (r"\.attn\.relative_position_bias_table_x$", ".bias.table"),
    (r"\.attn\.relative_position_bias_table_y$", ".bias_coarse.table"),
    (r"\.attn\.merge1\.", ".merge.0."),
    (r"\.attn\.merge2\.", ".merge.2."),
    (r"\.attn\.kv\.", ".kv_coarse."),
    (r"\.attn\.proj\.", ".projection."),
    (r"\.attn\.qkv\.", ".qkv."),
    *COMPRESSAI_NAMES,
)


def _choice(option: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    if name not in choices:
        raise ValueError(f"{option}: expected {' or '.join(choices)}, got {name!r}")
    return choices[name]


def _check_width(N: int) -> None:
    """Check that N divides into 8 heads, and N/2 into multiples of 8 channels, for which kernels are fast."""
    if N > 0 and N % 16 == 0:
        return
    below, above = N // 16 * 16, (N // 16 + 1) * 16
    nearest = f"{below} or {above}" if below > 0 else "16"
    raise ValueError(f"N: expected a positive multiple of 16 (8 heads, N/2 channels), got {N}; nearest: {nearest}")


class CWAM(HyperpriorCodec):
    """Codec of the paper; y is (B, N, H/16, W/16), z is (B, N, H/64, W/64), psi is (B, 2N, H/16, W/16).

    ::

        x --g_a--> y --h_a--> z --Q, EB--> z_hat --h_s--> psi
        y --Q--> y_hat,  scales, means = EP(psi, context(y_hat)),  y_hat coded with N(means, scales)
        y_hat --g_s--> x_hat

    Args:
        N: channels of the networks and of both latents, a multiple of 16. Paper: 320.
        hyper: ``cheng`` (the published numbers) or ``minnen`` (the caption).
        tail: ``attention`` (the published numbers) or ``cwam`` (the caption).

    Raises:
        ValueError: an option is not valid.
    """

    authors_names = AUTHORS_NAMES

    def __init__(self, N: int = 320, hyper: str = "cheng", tail: str = "attention") -> None:
        super().__init__()
        _check_width(N)
        make_tail = _choice("tail", tail, TAIL)
        self.g_a = nn.Sequential(
            Enhancement(),
            conv(3, N),
            GDN(N),
            conv(N, N),
            GDN(N),
            CrossWindowAttention(N, window=8),
            conv(N, N),
            GDN(N),
            conv(N, N),
            CrossWindowAttention(N, window=4),
            make_tail(N),
        )
        self.g_s = nn.Sequential(
            make_tail(N),
            CrossWindowAttention(N, window=4),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, N),
            GDN(N, inverse=True),
            CrossWindowAttention(N, window=8),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, 3),
            Enhancement(),
        )
        self.h_a, self.h_s = _choice("hyper", hyper, HYPER)(N)
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = SerialContext(N)
