"""Tiles of large pictures: their places, and the blending of decoded tiles where they overlap.

A picture above `MAX_TILE_PIXELS` is coded in tiles, each a picture of its own, so that the memory of the networks does
not grow with the picture. Neighbouring tiles overlap by a few pixels, over which they are blended linearly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Padded pixels that the networks process at once; 7680 x 4320 just fits. Their memory is proportional to this number.
MAX_TILE_PIXELS = 2**25
# Pixels of a picture. A decoded picture takes 3 bytes per pixel.
MAX_PIXELS = 2**28
# Defaults for pictures above MAX_TILE_PIXELS; docs/file_format.md has the measurement.
TILE = 2048
OVERLAP = 32


class Box(NamedTuple):
    """Place and size of a tile in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, x: Tensor) -> Tensor:
        """Return this part of ``x`` (..., H, W), a view."""
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture, from left to right and from top to bottom.

    Attributes:
        height: of the picture in pixels.
        width: of the picture in pixels.
        tile: side of the tiles in pixels; those in the last row and column may be smaller. 0: the picture is one tile.
        overlap: pixels by which neighbouring tiles overlap, at most half of ``tile``.
    """

    height: int
    width: int
    tile: int = 0
    overlap: int = 0

    @property
    def count(self) -> int:
        """Number of tiles. Computed for any field values, because a damaged file can have any."""
        return self._along(self.height) * self._along(self.width)

    @property
    def first(self) -> Box:
        """The tile at the top left."""
        return next(self.boxes())

    @property
    def last(self) -> Box:
        """The tile at the bottom right."""
        (top, height), (left, width) = (self._span(side, self._along(side) - 1) for side in (self.height, self.width))
        return Box(top, left, height, width)

    def boxes(self) -> Iterator[Box]:
        """Yield the places of all tiles."""
        for row in range(self._along(self.height)):
            top, height = self._span(self.height, row)
            for column in range(self._along(self.width)):
                left, width = self._span(self.width, column)
                yield Box(top, left, height, width)

    def _along(self, side: int) -> int:
        """Return the number of tiles along a side of the picture."""
        if self.tile == 0 or side <= self.tile:
            return 1
        return 1 - (self.tile - side) // max(self.tile - self.overlap, 1)

    def _span(self, side: int, number: int) -> tuple[int, int]:
        """Return begin and length of a tile along a side of the picture."""
        begin = number * (self.tile - self.overlap)
        return begin, min(self.tile or side, side - begin)


def padding(height: int, width: int, factor: int) -> tuple[int, int]:
    """Return the pixels to add at the bottom and at the right to reach multiples of ``factor``."""
    return -height % factor, -width % factor


def padded_pixels(height: int, width: int, factor: int) -> int:
    """Return the number of pixels with padding to multiples of ``factor``."""
    bottom, right = padding(height, width, factor)
    return (height + bottom) * (width + right)


def plan(
    height: int,
    width: int,
    factor: int,
    tile: int | None = None,
    overlap: int = OVERLAP,
    max_pixels: int = MAX_PIXELS,
) -> Grid:
    """Return the tiles in which a picture is coded.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
        factor: the codec's downsampling factor.
        tile: side of the tiles, a multiple of ``factor``; 0: the whole picture; None: the whole picture if it has at
            most `MAX_TILE_PIXELS` with its padding, else `TILE`.
        overlap: pixels by which neighbouring tiles overlap; at most half a tile is used.
        max_pixels: limit for the pixels of the picture.

    Raises:
        ValueError: the picture or the tiles have too many pixels, or the tiles do not fit the factor.
    """
    if height * width > max_pixels:
        raise ValueError(f"x: expected at most {max_pixels} pixels, got {height}x{width}; crop it or raise max_pixels")
    if tile is None:
        whole = padded_pixels(height, width, factor) <= MAX_TILE_PIXELS
        tile = 0 if whole else TILE + -TILE % factor
    if tile < 0 or tile % factor:
        raise ValueError(f"tile: expected 0 or a multiple of the model's downsampling factor {factor}, got {tile}")
    one = tile == 0 or max(height, width) <= tile
    grid = Grid(height, width) if one else Grid(height, width, tile, min(overlap, tile // 2))
    if padded_pixels(*grid.first[2:], factor) > MAX_TILE_PIXELS:
        got = "x".join(map(str, grid.first[2:]))
        raise ValueError(f"tile: expected at most {MAX_TILE_PIXELS} pixels (padded), got {got}; use tile={TILE}")
    return grid


def blended(grid: Grid, tiles: Iterable[Tensor]) -> Iterator[tuple[Box, Tensor]]:
    """Yield the finished parts of a picture, which cover it without overlap, in the order of the tiles.

    Keeps the overlaps with the tiles to come. Over the ``overlap`` pixels that two tiles share, the weight
    of the later one rises linearly from 1 / (overlap + 1) to overlap / (overlap + 1).

    Args:
        grid: places of the tiles.
        tiles: (C, h, w) of the sizes in ``grid.boxes()``, floats.
    """
    overlap = grid.overlap
    right = below = torch.empty(0)
    for box, x in zip(grid.boxes(), tiles, strict=True):
        ramp = torch.arange(1, overlap + 1, device=x.device) / (overlap + 1)
        if overlap and box.left:
            x = torch.cat([torch.lerp(right, x[..., :overlap], ramp), x[..., overlap:]], dim=-1)
        width = box.width - overlap * (box.left + box.width < grid.width)
        right, x = x[..., width:].clone(), x[..., :width]
        if overlap and box.top:
            above = below[..., box.left : box.left + width]
            x = torch.cat([torch.lerp(above, x[:, :overlap], ramp[:, None]), x[:, overlap:]], dim=1)
        height = box.height - overlap * (box.top + box.height < grid.height)
        if height < box.height:
            if not box.left:
                below = below if box.top else x.new_empty(len(x), overlap, grid.width)
            below[..., box.left : box.left + width] = x[:, height:]
        yield Box(box.top, box.left, height, width), x[:, :height]
