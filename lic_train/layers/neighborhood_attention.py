"""Exact neighbourhood attention in plain PyTorch, as in Tiny-LIC (Lu and Ma 2022, arXiv 2204.11448).

Every query attends to k x k real keys: the window follows the query and stops at the border, without padding or
masking. The map is cut into square tiles of queries. Each tile is multiplied with the keys of all its windows in one
dense product, with an additive bias that is the relative position bias inside the window and -inf outside. For k = 7
this takes four times the multiplications of the windows alone, and 3 copies of keys and values instead of the 49 of
gathered windows.

Legend: B batch, H W map, h heads, d channels of a head, C = h * d; k window; T S queries and keys of a tile.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

HEAD_CHANNELS = 16


class Axis(NamedTuple):
    """One axis cut into n tiles of t queries, each with its s keys.

    ``query`` (n, t) and ``key`` (n, s) are positions. ``offset`` (n, t, s) is the row of the bias table for each pair;
    outside the window it is the last row, which is -inf. ``runs`` are (first tile, number) of adjacent tiles with equal
    offsets.
    """

    query: Tensor
    key: Tensor
    offset: Tensor
    runs: list[tuple[int, int]]


def cut_axis(length: int, kernel: int, tile: int, device: torch.device | None = None) -> Axis:
    """Cut ``length`` positions into tiles of ``tile``; in an incomplete last tile the last query is repeated.

    The window of a query has min(kernel, length) positions. It is centred on the query, except at the borders.
    """
    window, tile = min(kernel, length), min(tile, length)
    reach = window // 2
    span = min(tile + 2 * reach, length)
    begin = torch.arange(0, length, tile, device=device)[:, None]
    query = (begin + torch.arange(tile, device=device)).clamp(max=length - 1)
    key = (begin - reach).clamp(0, length - span) + torch.arange(span, device=device)
    first = (query - reach).clamp(0, length - window)[:, :, None]
    inside = (key[:, None] >= first) & (key[:, None] < first + window)
    offset = torch.where(inside, key[:, None] - query[:, :, None] + kernel - 1, 2 * kernel - 1)
    inner = max((length - tile - reach) // tile, 0)  # tiles 1 .. inner do not touch a border
    runs = [(0, 1), (1, inner), *((i, 1) for i in range(inner + 1, len(begin)))]
    return Axis(query, key, offset, [run for run in runs if run[1]])


class Tiling(NamedTuple):
    """A map cut into tiles, in groups that share one bias.

    ``queries`` (tiles, T) and ``keys`` (tiles, S) are positions in the flattened map; ``home`` (H * W,) is the index of
    each position among the flattened queries. ``groups`` are (tiles, row offsets (t, s), column offsets (t, s)).
    """

    queries: Tensor
    keys: Tensor
    home: Tensor
    groups: list[tuple[int, Tensor, Tensor]]


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # a map that is cut first in an evaluation is also used in training
def cut_map(height: int, width: int, kernel: int, tile: int, device: torch.device | None = None) -> Tiling:
    """Cut a map into tiles of ``tile`` x ``tile`` queries; see `cut_axis`."""
    rows, columns = (cut_axis(length, kernel, tile, device) for length in (height, width))
    runs = list(itertools.product(rows.runs, columns.runs))

    def cells(down: Tensor, across: Tensor, stride: int) -> Tensor:
        """Combine positions (n, a) and (m, b) to (n * m, a * b) in a map of width ``stride``, ordered by group."""
        every = down[:, None, :, None] * stride + across[:, None, :]
        parts = [every[i : i + a, j : j + b].flatten(2).flatten(0, 1) for (i, a), (j, b) in runs]
        return torch.cat(parts)

    (n, t), (m, u) = rows.query.shape, columns.query.shape
    down, across = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    tile_rows, tile_columns = (torch.arange(count, device=device)[:, None] for count in (n, m))
    numbers = cells(tile_rows, tile_columns, m).flatten()
    order = torch.argsort(numbers)[(down // t) * m + across // u]
    home = order * (t * u) + (down % t) * u + across % u
    groups = [(a * b, rows.offset[i], columns.offset[j]) for (i, a), (j, b) in runs]
    queries, keys = cells(rows.query, columns.query, width), cells(rows.key, columns.key, width)
    return Tiling(queries, keys, home.flatten(), groups)


def _tile_bias(table: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return the bias (h, t * u, s * v) of a table (h, 2k - 1, 2k - 1) for offsets (t, s) and (u, v)."""
    (t, s), (u, v) = down.shape, across.shape
    padded = F.pad(table, (0, 1, 0, 1), value=float("-inf"))
    bias = padded.index_select(1, down.flatten()).index_select(2, across.flatten())
    return bias.view(-1, t, s, u, v).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _table_gradient(bias: Tensor, down: Tensor, across: Tensor, kernel: int) -> Tensor:
    """Adjoint of `_tile_bias`: maps (h, t * u, s * v) to (h, 2k - 1, 2k - 1)."""
    (t, s), (u, v) = down.shape, across.shape
    pairs = bias.view(-1, t, u, s, v).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    by_column = pairs.new_zeros(len(pairs), t * s, 2 * kernel).index_add_(2, across.flatten(), pairs)
    padded = pairs.new_zeros(len(pairs), 2 * kernel, 2 * kernel).index_add_(1, down.flatten(), by_column)
    return padded[:, :-1, :-1]


def _gather(qkv: Tensor, tiling: Tiling) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Gather (B, H, W, 3, h, d) into q (B * tiles, h, T, d), k and v (B * tiles, h, S, d) of each group."""
    flat, counts = qkv.flatten(1, 2), [count for count, *_ in tiling.groups]
    q = flat[:, :, 0].index_select(1, tiling.queries.flatten()).unflatten(1, tiling.queries.shape)
    kv = flat[:, :, 1:].index_select(1, tiling.keys.flatten()).unflatten(1, tiling.keys.shape)
    groups = zip(q.split(counts, dim=1), kv.split(counts, dim=1), strict=True)
    return [(q.flatten(0, 1).transpose(1, 2), *kv.flatten(0, 1).transpose(1, 3).unbind(2)) for q, kv in groups]


def _join(groups: Sequence[Tensor], tiling: Tiling) -> Tensor:
    """Join the groups' (B * tiles, h, positions of a tile, d) to (B, all positions of all tiles, h, d)."""
    tiles = (x.transpose(1, 2).unflatten(0, (-1, count)) for x, (count, *_) in zip(groups, tiling.groups, strict=True))
    return torch.cat(list(tiles), dim=1).flatten(1, 2)


# A custom operator, for four reasons: torch.compile does not unroll its 200 or so products per model; it saves only its
# inputs, whereas autograd saves all scores; it rounds identically with and without gradients; and counters of
# multiplications use the number of the definition instead of that of the tiles.
@torch.library.custom_op("lic_train::neighborhood_attention", mutates_args=())
def _attention(qkv: Tensor, table: Tensor, tile: int) -> Tensor:
    tiling = cut_map(*qkv.shape[1:3], (table.shape[1] + 1) // 2, tile, qkv.device)
    with torch.autocast(qkv.device.type, enabled=False):
        outputs = [
            F.scaled_dot_product_attention(q, k, v, _tile_bias(table, *offsets)[None])
            for (q, k, v), (_, *offsets) in zip(_gather(qkv, tiling), tiling.groups, strict=True)
        ]
    return _join(outputs, tiling).index_select(1, tiling.home).unflatten(1, qkv.shape[1:3])


@torch.library.custom_op("lic_train::neighborhood_attention_backward", mutates_args=())
def _attention_backward(grad: Tensor, qkv: Tensor, table: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv and table; the scores are recomputed."""
    batch, height, width, _, heads, size = qkv.shape
    kernel = (table.shape[1] + 1) // 2
    tiling = cut_map(height, width, kernel, tile, qkv.device)
    cells = grad.new_zeros(batch, tiling.queries.numel(), heads, size)
    cells.index_copy_(1, tiling.home, grad.flatten(1, 2))  # repeated queries of incomplete tiles have no gradient
    cells = cells.unflatten(1, tiling.queries.shape).split([count for count, *_ in tiling.groups], dim=1)
    parts, grad_table = [], table.new_zeros(table.shape, dtype=torch.promote_types(table.dtype, torch.float32))
    for grad_out, inputs, (_, down, across) in zip(cells, _gather(qkv, tiling), tiling.groups, strict=True):
        *grad_inputs, grad_bias = _dense_backward(
            grad_out.flatten(0, 1).transpose(1, 2), *inputs, _tile_bias(table, down, across)
        )
        # Not in bfloat16, because these are sums over thousands of pairs.
        grad_table += _table_gradient(grad_bias.to(grad_table), down, across, kernel)
        parts.append(grad_inputs)
    grad_qkv = grad.new_zeros(batch, height * width, 3, heads, size)
    for i, positions in enumerate((tiling.queries, tiling.keys, tiling.keys)):
        grad_qkv[:, :, i].index_add_(1, positions.flatten(), _join([part[i] for part in parts], tiling))
    return grad_qkv.unflatten(1, (height, width)), grad_table.to(table)


def _dense_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and bias (h, T, S) for ``grad`` of softmax(q k^T / sqrt(d) + bias) v."""
    scale = q.shape[-1] ** -0.5
    q = scale * q
    weights = (q @ k.mT).add_(bias).softmax(-1)
    grad_scores = grad @ v.mT
    grad_scores.sub_((weights * grad_scores).sum(-1, keepdim=True)).mul_(weights)
    return grad_scores @ k * scale, grad_scores.mT @ q, weights.mT @ grad, grad_scores.sum(0)


def _fake_attention(qkv: Tensor, table: Tensor, tile: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])


def _fake_backward(grad: Tensor, qkv: Tensor, table: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format), torch.empty_like(table)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.tile = inputs[2]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_attention_backward(grad, *ctx.saved_tensors, ctx.tile), None


_attention.register_fake(_fake_attention)
_attention_backward.register_fake(_fake_backward)
_attention.register_autograd(_differentiate, setup_context=_save)


def _flops(products: int, qkv: Sequence[int], table: Sequence[int]) -> int:
    """Count ``products`` of k^2 h d multiplications and additions per position; norms and softmax are not counted."""
    batch, height, width, _, heads, size = qkv
    kernel = (table[1] + 1) // 2
    return 2 * products * batch * height * width * min(kernel, height) * min(kernel, width) * heads * size


@register_flop_formula(torch.ops.lic_train.neighborhood_attention)
def _attention_flops(qkv: Sequence[int], table: Sequence[int], *_: Any, **__: Any) -> int:
    return _flops(2, qkv, table)


@register_flop_formula(torch.ops.lic_train.neighborhood_attention_backward)
def _backward_flops(grad: Sequence[int], qkv: Sequence[int], table: Sequence[int], *_: Any, **__: Any) -> int:
    return _flops(5, qkv, table)


def neighborhood_attention(qkv: Tensor, table: Tensor, tile: int = 8) -> Tensor:
    """Softmax attention of each query to the keys of its window, scaled by d^-1/2, with relative position bias.

    Args:
        qkv: (B, H, W, 3, h, d), queries, keys and values.
        table: (h, 2k - 1, 2k - 1), the bias at [key row - query row + k - 1, the same for columns]; its size determines
            k. On an axis shorter than k, the window is the whole axis.
        tile: side of the query tiles; affects speed only.

    Returns:
        (B, H, W, h, d).
    """
    return _attention(qkv, table.to(qkv.dtype), tile)


class NeighborhoodAttention(nn.Module):
    """Multi-head neighbourhood attention with a learned relative position bias and heads of 16 channels.

    Args:
        channels: a multiple of 16.
        window: k, odd.

    Raises:
        ValueError: channels or window are not valid.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        if channels <= 0 or channels % HEAD_CHANNELS:
            raise ValueError(f"channels: expected a positive multiple of {HEAD_CHANNELS} (head size), got {channels}")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window: expected an odd number, got {window}; nearest: {max(window, 0) + 1}")
        self.channels, self.window = channels, window
        self.tile = 8 if window > 3 else 4  # small windows are used on the small maps of the hyper networks
        self.qkv = nn.Linear(channels, 3 * channels)
        self.rpb = nn.Parameter(torch.empty(channels // HEAD_CHANNELS, 2 * window - 1, 2 * window - 1))
        self.projection = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C), for any H and W."""
        qkv = self.qkv(x).unflatten(3, (3, -1, HEAD_CHANNELS))
        return self.projection(neighborhood_attention(qkv, self.rpb, self.tile).flatten(3))
