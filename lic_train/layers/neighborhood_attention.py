"""Exact neighbourhood attention in plain PyTorch, and the ICSA units that Lu and Ma (2022, arXiv 2204.11448) build of it.

Every query attends to k x k real keys: the window follows the query and stops at the border, it is neither padded nor
masked. The map is cut into square query tiles, and each tile meets the keys of all its windows at once, in a dense product
with an additive bias that holds the relative position inside the window and -inf outside. For k = 7 that is four times the
multiplications of the windows alone, and 3 copies of keys and values where gathering the windows needs k * k = 49.

Legend: B batch, H W map, h heads, d channels of a head, C = h * d; k window; T S queries and keys of a tile.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_CHANNELS = 16


class Axis(NamedTuple):
    """One axis cut into n tiles of t queries, each with its s keys.

    ``query`` (n, t) and ``key`` (n, s) are positions; ``offset`` (n, t, s) is the row of a bias table for each pair, its
    last, -inf, outside of the window. ``runs`` are (first tile, number) of neighbours with equal offsets.
    """

    query: Tensor
    key: Tensor
    offset: Tensor
    runs: list[tuple[int, int]]


def cut_axis(length: int, kernel: int, tile: int, device: torch.device | None = None) -> Axis:
    """Cut ``length`` positions into tiles of ``tile``; in an incomplete last tile the last query is repeated.

    The window of a query is min(kernel, length) wide. It slides with the query, and waits where it meets a border.
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
    inner = max((length - tile - reach) // tile, 0)  # tiles 1 .. inner meet no border
    runs = [(0, 1), (1, inner), *((i, 1) for i in range(inner + 1, len(begin)))]
    return Axis(query, key, offset, [run for run in runs if run[1]])


class Tiling(NamedTuple):
    """A map cut into tiles, sorted into groups that share one bias.

    ``queries`` (tiles, T) and ``keys`` (tiles, S) are positions in the flattened map, ``home`` (H * W,) is where among
    the flattened queries each position stands. ``groups`` are (tiles, row offsets (t, s), column offsets (t, s)).
    """

    queries: Tensor
    keys: Tensor
    home: Tensor
    groups: list[tuple[int, Tensor, Tensor]]


def cut_map(height: int, width: int, kernel: int, tile: int, device: torch.device | None = None) -> Tiling:
    """Cut a map into tiles of ``tile`` x ``tile`` queries; see `cut_axis`."""
    rows, columns = (cut_axis(length, kernel, tile, device) for length in (height, width))
    runs = list(itertools.product(rows.runs, columns.runs))

    def cells(down: Tensor, across: Tensor, stride: int) -> Tensor:
        """(n, a) x (m, b) positions -> (n * m, a * b) positions in a map ``stride`` wide, in the order of the groups."""
        every = down[:, None, :, None] * stride + across[:, None, :]
        parts = [every[i : i + a, j : j + b].flatten(2).flatten(0, 1) for (i, a), (j, b) in runs]
        return torch.cat(parts)

    (n, t), (m, u) = rows.query.shape, columns.query.shape
    down, across = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    numbers = cells(*(torch.arange(count, device=device)[:, None] for count in (n, m)), m).flatten()
    order = torch.argsort(numbers)[(down // t) * m + across // u]
    home = order * (t * u) + (down % t) * u + across % u
    groups = [(a * b, rows.offset[i], columns.offset[j]) for (i, a), (j, b) in runs]
    queries, keys = cells(rows.query, columns.query, width), cells(rows.key, columns.key, width)
    return Tiling(queries, keys, home.flatten(), groups)


def tile_bias(padded: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Table (h, 2k, 2k), offsets (t, s) and (u, v) -> additive bias (h, t * u, s * v)."""
    (t, s), (u, v) = down.shape, across.shape
    bias = padded.index_select(1, down.flatten()).index_select(2, across.flatten())
    return bias.view(-1, t, s, u, v).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def neighborhood_attention(qkv: Tensor, table: Tensor, tile: int = 8) -> Tensor:
    """Softmax attention of every query to the keys of its window, scaled by d^-1/2, plus the relative position bias.

    Args:
        qkv: (B, H, W, 3, h, d), queries, keys and values.
        table: (h, 2k - 1, 2k - 1) bias at [key row - query row + k - 1, the same for columns]; its size gives k. Where
            an axis is shorter than k, the window is the whole axis.
        tile: side of the query tiles.

    Returns:
        (B, H, W, h, d).
    """
    height, width = int(qkv.shape[1]), int(qkv.shape[2])
    tiling = cut_map(height, width, (table.shape[1] + 1) // 2, tile, qkv.device)
    padded = F.pad(table, (0, 1, 0, 1), value=float("-inf"))
    flat, counts = qkv.flatten(1, 2), [count for count, _, _ in tiling.groups]

    def gathered(parts: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """(B, H * W, parts, h, d) -> for every group (B * tiles, positions of a tile, parts, h, d)."""
        cells = parts.index_select(1, positions.flatten()).unflatten(1, positions.shape)
        return tuple(group.flatten(0, 1) for group in cells.split(counts, dim=1))

    outputs = []
    queries, keys = gathered(flat[:, :, 0], tiling.queries), gathered(flat[:, :, 1:], tiling.keys)
    for q, kv, (count, down, across) in zip(queries, keys, tiling.groups, strict=True):
        k, v = kv.transpose(1, 3).unbind(2)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, tile_bias(padded, down, across)[None])
        outputs.append(out.transpose(1, 2).unflatten(0, (-1, count)))
    out = torch.cat(outputs, dim=1).flatten(1, 2).index_select(1, tiling.home)
    return out.unflatten(1, (height, width))


class NeighborhoodAttention(nn.Module):
    """Multi-head neighbourhood attention with a learned relative position bias; heads of 16 channels.

    Args:
        channels: a multiple of 16.
        window: k, odd.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        if channels <= 0 or channels % HEAD_CHANNELS:
            raise ValueError(f"expected a positive multiple of {HEAD_CHANNELS} channels, one head each, got {channels}")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"expected an odd window, got {window}; nearest: {max(window, 0) + 1}")
        self.channels, self.window = channels, window
        self.tile = 8 if window > 3 else 4  # the small windows live on the small maps of the hyper networks
        self.qkv = nn.Linear(channels, 3 * channels)
        self.rpb = nn.Parameter(torch.empty(channels // HEAD_CHANNELS, 2 * window - 1, 2 * window - 1))
        self.projection = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), any H and W."""
        qkv = self.qkv(x).unflatten(3, (3, -1, HEAD_CHANNELS))
        return self.projection(neighborhood_attention(qkv, self.rpb, self.tile).flatten(3))

    def core_macs(self, height: int, width: int) -> int:
        """Multiplications of scores and weighted sums by definition: 2 k^2 C a position, whatever the tiles cost."""
        return 2 * height * width * min(self.window, height) * min(self.window, width) * self.channels


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Zero whole samples of (B, ...) with probability ``rate``, scale the others by 1 / (1 - rate)."""
    if rate == 0:
        return x
    keep = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(1 - rate)
    return x * keep / (1 - rate)


class AttentionBlock(nn.Module):
    """Pre-norm transformer block: neighbourhood attention, then an MLP of ratio 2, each on a residual branch."""

    def __init__(self, channels: int, window: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = NeighborhoodAttention(channels, window)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        rate = self.drop_rate if self.training else 0.0
        x = x + drop_path(self.attention(self.norm1(x)), rate)
        return x + drop_path(self.mlp(self.norm2(x)), rate)


class RNAB(nn.Module):
    """Residual neighbourhood attention blocks: one more skip around a group of ``len(drop_rates)`` blocks."""

    def __init__(self, channels: int, window: int, drop_rates: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(AttentionBlock(channels, window, rate) for rate in drop_rates))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), channels last in memory."""
        tokens = x.permute(0, 2, 3, 1).contiguous()
        return (tokens + self.blocks(tokens)).permute(0, 3, 1, 2)


Refine = Callable[[int], nn.Module]  # channels -> a module that keeps the shape


def _unit(**parts: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if part is not None))


def _shared_out(depths: Sequence[int], drop_rates: Sequence[float]) -> list[Sequence[float]]:
    """Deal ``drop_rates`` to groups of ``depths`` blocks."""
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
    """ICSA units of an encoder: a convolution, ``refine`` of its output where given, an RNAB; no activation between.

    Args:
        channels: n + 1 widths; the others have n entries.
        kernels: sides of the convolutions.
        strides: of the convolutions.
        depths: attention blocks of each RNAB.
        window: of the attention.
        drop_rates: of all blocks, in order.
        refine: builds what stands between convolution and RNAB.
    """
    units = []
    for i, rates in enumerate(_shared_out(depths, drop_rates)):
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
    """ICSA units of a decoder, the mirror of `analysis`: an RNAB, ``refine`` of its output, a transposed convolution."""
    units = []
    for i, rates in enumerate(_shared_out(depths, drop_rates)):
        options = {"padding": kernels[i] // 2, "output_padding": strides[i] - 1}
        conv = nn.ConvTranspose2d(channels[i], channels[i + 1], kernels[i], strides[i], **options)
        extra = refine(channels[i]) if refine else None
        units.append(_unit(rnab=RNAB(channels[i], window, rates), refine=extra, conv=conv))
    return nn.Sequential(*units)
