"""Attention inside adjacent windows, optionally shifted by half a window (Swin, Liu et al. 2021, arXiv 2103.14030).

Legend: B batch, H W map, w window, T = w * w tokens, h heads, d channels of a head, C = h * d; R S rows and columns of
windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def tiles(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C) into adjacent windows: (B, H/w, W/w, w, w, C)."""
    return x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)


def relative_position_index(window: int) -> Tensor:
    """Return the bias table's row (T, T) for each query-key pair of a w x w grid (Swin, section 3.2)."""
    axis = torch.arange(window)
    row, column = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    offset_row, offset_column = (grid[:, None] - grid[None, :] + window - 1 for grid in (row, column))
    return offset_row * (2 * window - 1) + offset_column


class RelativePositionBias(nn.Module):
    """Learned bias for each head and each offset between query and key."""

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.index: Tensor
        self.register_buffer("index", relative_position_index(window), persistent=False)

    def forward(self) -> Tensor:
        """Return the bias (h, T, T)."""
        return self.table[self.index].permute(2, 0, 1)


def shift_masks(window: int) -> Tensor:
    """Return which pairs (2, 2, T, T) of a window do not see each other, for [in the last row, in the last column].

    The roll joins opposite borders of the map inside the last windows of an axis. Their last w // 2 rows or columns do
    not see the others, also if the map has a single window.
    """
    late = torch.arange(window) >= window - window // 2
    rows, columns = late.repeat_interleave(window), late.repeat(window)
    apart = [positions[:, None] != positions[None, :] for positions in (rows, columns)]
    none = torch.zeros_like(apart[0])
    return torch.stack([torch.stack([row | column for column in (none, apart[1])]) for row in (none, apart[0])])


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a relative position bias and logits scaled by d^-1/2.

    A map that is not a multiple of the window is padded with zeros at the bottom and on the right before the projection
    to queries, keys and values. Padded tokens are keys like all others, unless ``mask_padding`` is set.

    Args:
        channels: C, a multiple of ``heads``.
        heads: h.
        window: w.
        shifted: shift the windows by w // 2 in both axes.
        mask_padding: tokens of the map do not see padded tokens. For maps whose sides are multiples of w / 2.

    Raises:
        ValueError: channels do not divide into heads.
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool, mask_padding: bool = False) -> None:
        super().__init__()
        if channels <= 0 or channels % heads:
            raise ValueError(f"channels: expected a positive multiple of {heads} (heads), got {channels}")
        self.heads, self.window = heads, window
        self.shift, self.mask_padding = window // 2 if shifted else 0, mask_padding
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = RelativePositionBias(window, heads)
        self.projection = nn.Linear(channels, channels)
        self.masks: Tensor
        self.register_buffer("masks", shift_masks(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C), for any H and W."""
        height, width = x.shape[1:3]
        bottom, right = -height % self.window, -width % self.window
        # After the roll, padding by half a window is the first half of the last windows, which the shift masks hide.
        masked = [self.shift > 0 or (self.mask_padding and padding > 0) for padding in (bottom, right)]
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = tiles(self.qkv(x), self.window).unflatten(-1, (3, self.heads, -1))
        q, k, v = windows.permute(5, 0, 1, 2, 6, 3, 4, 7).flatten(5, 6).unbind(0)  # (B, R, S, h, T, d)
        out = self._masked(q, k, v, masked) if any(masked) else _attend(q, k, v, self.bias())
        x = out.unflatten(4, (self.window, -1)).permute(0, 1, 4, 2, 5, 3, 6).reshape(x.shape)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return self.projection(x[:, :height, :width])

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, masked: Sequence[bool]) -> Tensor:
        """Attend in windows (B, R, S, h, T, d); the last ones of an axis that is ``masked`` have a mask."""
        biases = self.bias().masked_fill(self.masks[:, :, None], float("-inf"))
        rows, columns = (_parts(n, last) for n, last in zip(q.shape[1:3], masked, strict=True))
        strips = []
        for i, row in rows:
            parts = [_attend(q[:, row, at], k[:, row, at], v[:, row, at], biases[i, j]) for j, at in columns]
            strips.append(torch.cat(parts, dim=2))
        return torch.cat(strips, dim=1)


def _parts(n: int, masked: bool) -> list[tuple[int, slice]]:
    """Return the parts of an axis of n windows as (index of the mask, windows); ``masked`` separates the last."""
    if not masked:
        return [(0, slice(n))]
    return [(0, slice(n - 1)), (1, slice(n - 1, n))][n == 1 :]


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v for windows (B, R, S, h, T, d) and one bias (h, T, T)."""
    flat_q, flat_k, flat_v = (x.flatten(0, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(flat_q, flat_k, flat_v, bias[None]).unflatten(0, q.shape[:3])
