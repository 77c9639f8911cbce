"""Pictures as the bytes of a ``.lic`` file and back, and their estimates without a file.

The bytes are defined in `lic_train.files.container`, the tiles of large pictures in `lic_train.files.tiles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lic_train.errors import BitstreamError, LicError
from lic_train.files.container import LEVEL_STEPS, ONE_RATE, check_model, header_of, pack, unpack
from lic_train.files.tiles import MAX_PIXELS, OVERLAP, Box, Grid, blended, padding, plan
from lic_train.layers.gains import Ladder
from lic_train.models.base import CodecOutput, Compressed, Decompressed
from lic_train.rd import metrics

_OTHER_WRITER = "check that this model and version of lic_train wrote the file"


class Coder(Protocol):
    """The part of a codec that this module needs; ``lic_train.models.base.Codec`` provides it."""

    downsampling_factor: int
    ladder: Ladder | None

    def at_level(self, level: float | None) -> AbstractContextManager[None]:
        """Context in which the codec computes at a level of its rate."""

    def compress(self, x: Tensor) -> Compressed:
        """Encode one padded picture (1, 3, H, W)."""

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> Decompressed:
        """Decode the output of ``compress``."""

    def __call__(self, x: Tensor) -> CodecOutput:
        """Run the evaluation forward on one padded picture (1, 3, H, W)."""


class Part(NamedTuple):
    """Estimate of one tile: its place, its padded size (H, W), and its likelihoods."""

    box: Box
    padded: tuple[int, int]
    likelihoods: dict[str, Tensor]


class Estimate(NamedTuple):
    """Result without a file: x_hat (3, H, W) in [0, 1], and the estimates of all tiles."""

    x_hat: Tensor
    parts: list[Part]

    @property
    def bits(self) -> float:
        """Estimated bits of all sections of the picture."""
        every = [likelihood for part in self.parts for likelihood in part.likelihoods.values()]
        return -sum(float(torch.log2(likelihood.float()).sum()) for likelihood in every)

    def bits_map(self) -> Tensor:
        """Return (H, W), bits per pixel, without padding. Bits of tiles that overlap are added."""
        total = torch.zeros(self.x_hat.shape[1:])
        for box, padded, likelihoods in self.parts:
            box.of(total).add_(metrics.bits_map(likelihoods, padded)[: box.height, : box.width])
        return total


def encode(
    codec: Coder,
    x: Tensor,
    fingerprint: bytes,
    tile: int | None = None,
    overlap: int = OVERLAP,
    max_pixels: int = MAX_PIXELS,
    level: float | None = None,
) -> bytes:
    """Compress one picture of any size into the bytes of a ``.lic`` file.

    Args:
        codec: in eval mode, after ``update()``.
        x: (3, H, W), RGB, floats in [0, 1] or uint8, on the codec's device. Each tile is padded by replication at the
            bottom and at the right.
        fingerprint: 8 bytes that identify the model.
        tile: as in `lic_train.files.tiles.plan`.
        overlap: as in `lic_train.files.tiles.plan`.
        max_pixels: the limit of `unpack`, so that every written file can be read.
        level: of a codec with a variable rate, stored in steps of 1/1024; None is the middle of its range.

    Raises:
        ConfigError: the codec has one rate, or the level is outside its range.
        ValueError: x does not have this shape, is not finite, is outside [0, 1], or has too many pixels; or ``tile``
            does not fit the codec.
    """
    _check_picture(x)
    factor = codec.downsampling_factor
    grid = plan(x.shape[1], x.shape[2], factor, tile, overlap, max_pixels)
    level = stored_level(codec, level)
    with torch.no_grad(), codec.at_level(level):
        coded = [codec.compress(_padded(box.of(x), factor)) for box in grid.boxes()]
    header = header_of(fingerprint, grid, factor, ONE_RATE if level is None else round(level * LEVEL_STEPS))
    latent = header.latent_height, header.latent_width
    assert tuple(coded[0]["shape"]) == latent, "shape does not fit downsampling_factor"
    return pack(header, [out["strings"] for out in coded])


def stored_level(codec: Coder, level: float | None) -> float | None:
    """Return the level with which `encode` codes and which it stores: the nearest of its steps; None of one rate.

    Raises:
        ConfigError: the level is outside the range of a variable rate.
    """
    if codec.ladder is None:
        return level
    level = codec.ladder.middle if level is None else codec.ladder.check(level)
    return round(level * LEVEL_STEPS) / LEVEL_STEPS


def decode(codec: Coder, data: bytes, fingerprint: bytes, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Return x_hat (3, H, W) in [0, 1], cropped to the true size, on the codec's device.

    Args:
        codec: in eval mode, after ``update()``.
        data: the whole file.
        fingerprint: of ``codec``; files of another model are refused.
        max_pixels: as in `unpack`.

    Raises:
        BitstreamError: as in `unpack`; or the file is from another model, or its sections cannot be decoded.
    """
    return _joined(*_decoded(codec, data, fingerprint, max_pixels))


def decode_8bit(codec: Coder, data: bytes, fingerprint: bytes, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Return x_hat as `decode`, but rounded to uint8 tile by tile, on the CPU: a quarter of the memory."""
    grid, parts = _decoded(codec, data, fingerprint, max_pixels)
    return _joined(grid, ((box, metrics.to_8bit(x).byte().cpu()) for box, x in parts))


def estimate(
    codec: Coder, x: Tensor, tile: int | None = None, overlap: int = OVERLAP, level: float | None = None
) -> Estimate:
    """Run the evaluation forward on one picture, with ``codec`` in eval mode.

    Args:
        codec: as in `encode`.
        x: as in `encode`.
        tile: as in `encode`.
        overlap: as in `encode`.
        level: as in `encode`.

    Raises:
        ConfigError: as in `encode`.
        ValueError: the picture has too many pixels, or ``tile`` does not fit the codec.
    """
    level = stored_level(codec, level)
    factor, parts = codec.downsampling_factor, []
    grid = plan(x.shape[1], x.shape[2], factor, tile, overlap)

    def tiles() -> Iterator[Tensor]:
        for box in grid.boxes():
            padded = _padded(box.of(x), factor)
            with torch.no_grad(), codec.at_level(level):
                out = codec(padded)
            parts.append(Part(box, (padded.shape[2], padded.shape[3]), out["likelihoods"]))
            yield out["x_hat"][0, :, : box.height, : box.width].clamp(0, 1)

    return Estimate(_joined(grid, blended(grid, tiles())), parts)


def _decoded(
    codec: Coder, data: bytes, fingerprint: bytes, max_pixels: int
) -> tuple[Grid, Iterator[tuple[Box, Tensor]]]:
    """Check a file; return its tiles and the iterator over the finished parts of its picture, which decodes it."""
    header, sections = unpack(data, max_pixels)
    highest = None if codec.ladder is None else codec.ladder.highest
    check_model(header, fingerprint, codec.downsampling_factor, highest)
    grid, level = header.grid, None if highest is None else header.level / LEVEL_STEPS
    tiles = (_decoded_tile(codec, part, box, level) for part, box in zip(sections, grid.boxes(), strict=True))
    return grid, blended(grid, tiles)


def _decoded_tile(codec: Coder, sections: list[bytes], box: Box, level: float | None) -> Tensor:
    """Return x_hat (3, h, w) of one tile."""
    factor = codec.downsampling_factor
    latent = -(-box.height // factor), -(-box.width // factor)
    try:
        with torch.no_grad(), codec.at_level(level):
            x_hat = codec.decompress(sections, latent)["x_hat"]
    except LicError:
        raise
    # A hostile file can raise any exception in a network or a coder; callers see one type.
    except Exception as error:
        raise BitstreamError(
            "The model cannot decode the sections of the .lic file.",
            expected="a file that this model and version wrote",
            got=f"{type(error).__name__}: {error}",
            to_do=_OTHER_WRITER,
        ) from error
    size = latent[0] * factor, latent[1] * factor
    if tuple(x_hat.shape) != (1, 3, *size) or not bool(torch.isfinite(x_hat).all()):
        raise BitstreamError(
            "The .lic file decodes to an invalid picture.",
            expected=f"finite values of shape (1, 3, {size[0]}, {size[1]})",
            got=f"shape {tuple(x_hat.shape)}, {int(x_hat.isfinite().sum())} values are finite",
            to_do=_OTHER_WRITER,
        )
    return x_hat[0, :, : box.height, : box.width]


def _joined(grid: Grid, parts: Iterable[tuple[Box, Tensor]]) -> Tensor:
    """Return the picture (3, H, W) from its parts. It is allocated when the first tile has been decoded."""
    picture = torch.empty(0)
    for box, part in parts:
        if not picture.numel():
            picture = part.new_empty(3, grid.height, grid.width)
        box.of(picture).copy_(part)
    return picture


def _padded(x: Tensor, factor: int) -> Tensor:
    """Pad (3, H, W), floats or uint8, to floats (1, 3, H', W')."""
    bottom, right = padding(x.shape[1], x.shape[2], factor)
    return F.pad(as_floats(x)[None], (0, right, 0, bottom), mode="replicate")


def as_floats(x: Tensor) -> Tensor:
    """Return a picture as floats in [0, 1]; uint8 is divided by 255."""
    return x if x.is_floating_point() else x.float().div(255)


def _check_picture(x: Tensor) -> None:
    if x.dim() != 3 or x.shape[0] != 3 or 0 in x.shape:
        raise ValueError(f"x: expected shape (3, H, W), got {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return
    if not x.is_floating_point():
        raise ValueError(f"x: expected floats in [0, 1] or uint8, got {x.dtype}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite values, got NaN or infinity")
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise ValueError(f"x: expected RGB in [0, 1], got {float(x.min()):g} to {float(x.max()):g}")
