"""The ``.lic`` file: what a compressed picture looks like on disk, checked before anything is decoded.

Layout, little-endian::

    4 B   magic "LIC1"
    1 B   version of the layout
    8 B   fingerprint of the model
    4+4 B true height and width in pixels
    2+2 B padding in pixels at the bottom and at the right
    4+4 B height and width of the smallest latent
    1 B   number of sections n
    n*4 B length of each section in bytes
    ...   the sections, one after the other
    4 B   CRC-32 of everything before it
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lic_train.errors import BitstreamError, LicError
from lic_train.models.base import CodecOutput, Compressed, Decompressed

MAGIC = b"LIC1"
VERSION = 1
FINGERPRINT_BYTES = 8
MAX_SECTIONS = 255
# Padded pixels of one picture; 7680 x 4320 just fits. What decoding may allocate is proportional to it.
MAX_PIXELS = 2**25

_FIXED = struct.Struct("<4sB8sIIHHIIB")
_WORD = struct.Struct("<I")
_KNOWN_FORMATS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PK\x03\x04": "a ZIP archive or a PyTorch checkpoint",
}


class Coder(Protocol):
    """What this module needs of a codec; ``lic_train.models.base.Codec`` has it."""

    downsampling_factor: int

    def compress(self, x: Tensor) -> Compressed:
        """(1, 3, H, W) -> {"strings", "shape"}."""

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> Decompressed:
        """The reverse: {"x_hat"} (1, 3, H, W)."""

    def __call__(self, x: Tensor) -> CodecOutput:
        """(1, 3, H, W) -> {"x_hat", "likelihoods"}."""


class Estimate(NamedTuple):
    """What the encoder knows without a file: x_hat (3, H, W) in [0, 1], and likelihoods over the ``padded`` (H, W)."""

    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    padded: tuple[int, int]

    @property
    def bits(self) -> float:
        """Of the whole picture, sections only."""
        return -sum(float(torch.log2(likelihood.float()).sum()) for likelihood in self.likelihoods.values())


@dataclass(frozen=True)
class Header:
    """Everything in the file but its sections. Sizes in pixels; ``latent`` is (h, w) of the smallest latent."""

    fingerprint: bytes
    height: int
    width: int
    pad_bottom: int
    pad_right: int
    latent: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width that the networks see."""
        return self.height + self.pad_bottom, self.width + self.pad_right


def pack(header: Header, sections: Sequence[bytes]) -> bytes:
    """Assemble the file.

    Raises:
        ValueError: the fingerprint has not 8 bytes, or there is no section or more than 255.
    """
    if len(header.fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"expected a fingerprint of {FINGERPRINT_BYTES} bytes, got {len(header.fingerprint)}")
    if not 1 <= len(sections) <= MAX_SECTIONS:
        raise ValueError(f"expected 1 to {MAX_SECTIONS} sections, got {len(sections)}")
    size = (header.height, header.width, header.pad_bottom, header.pad_right, *header.latent)
    fixed = _FIXED.pack(MAGIC, VERSION, header.fingerprint, *size, len(sections))
    body = b"".join([fixed, *(_WORD.pack(len(section)) for section in sections), *sections])
    return body + _WORD.pack(zlib.crc32(body))


def unpack(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Header, list[bytes]]:
    """Take the file apart. Allocates no more than the file's own size.

    Args:
        data: the whole file.
        max_pixels: refuse a picture that has more, padding included.

    Raises:
        BitstreamError: empty, no .lic, of another version, cut short, damaged, with bytes after its end, or too large.
    """
    _check_begin(data)
    _, _, fingerprint, height, width, bottom, right, latent_h, latent_w, count = _FIXED.unpack_from(data)
    begin = _FIXED.size + count * _WORD.size
    if len(data) < begin + _WORD.size:
        raise BitstreamError(_cut_short(begin + _WORD.size, len(data)))
    lengths = struct.unpack_from(f"<{count}I", data, _FIXED.size)
    end = begin + sum(lengths)
    _check_end(data, end)
    header = Header(fingerprint, height, width, bottom, right, (latent_h, latent_w))
    _check_meaning(header, count, max_pixels)
    sections, position = [], begin
    for length in lengths:
        sections.append(data[position : position + length])
        position += length
    return header, sections


def encode(codec: Coder, x: Tensor, fingerprint: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """Compress one picture of any size into the bytes of a ``.lic`` file.

    Args:
        codec: in eval mode, after ``update()``.
        x: (3, H, W), RGB in [0, 1], on the codec's device; it is padded by replication at the bottom and the right.
        fingerprint: 8 bytes that name the model.
        max_pixels: as in `unpack`, so that what is written can be read.

    Raises:
        ValueError: x has another shape, is not finite or leaves [0, 1], or has too many pixels.
    """
    _check_picture(x)
    height, width = x.shape[1:]
    bottom, right = padding(height, width, codec.downsampling_factor)
    if (height + bottom) * (width + right) > max_pixels:
        raise ValueError(
            f"expected at most {max_pixels} pixels (padded), got {height}x{width}; cut the picture, or raise max_pixels"
        )
    with torch.no_grad():
        out = codec.compress(_pad(x, codec.downsampling_factor))
    latent = (int(out["shape"][0]), int(out["shape"][1]))
    assert latent == _latent_shape(codec, height + bottom, width + right), "shape of the codec is wrong"
    return pack(Header(fingerprint, height, width, bottom, right, latent), out["strings"])


def decode(codec: Coder, data: bytes, fingerprint: bytes, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Return x_hat (3, H, W) in [0, 1], cropped to the true size, on the codec's device.

    Args:
        codec: in eval mode, after ``update()``.
        data: the whole file.
        fingerprint: of ``codec``; files of another model are refused.
        max_pixels: as in `unpack`.

    Raises:
        BitstreamError: as `unpack`, or written by another model, or the sections are no code of this model.
    """
    header, sections = unpack(data, max_pixels)
    _check_model(header, codec, fingerprint)
    try:
        with torch.no_grad():
            x_hat = codec.decompress(sections, header.latent)["x_hat"]
    except LicError:
        raise
    # Whatever a hostile body makes a network or a coder raise, the caller sees one type.
    except Exception as error:
        raise BitstreamError(
            f"the model cannot decode these sections: {type(error).__name__}: {error}. "
            "The file was not written by this model and version, or is hostile"
        ) from error
    if tuple(x_hat.shape) != (1, 3, *header.padded) or not bool(torch.isfinite(x_hat).all()):
        raise BitstreamError(
            f"expected a finite picture (1, 3, {header.padded[0]}, {header.padded[1]}), got {tuple(x_hat.shape)}, in "
            f"which {int(x_hat.isfinite().sum())} values are finite. The file was not written by this model and version"
        )
    return x_hat[0, :, : header.height, : header.width]


def estimate(codec: Coder, x: Tensor) -> Estimate:
    """Run the evaluation forward on one picture (3, H, W), padded as `encode` pads it; ``codec`` in eval mode."""
    height, width = x.shape[1:]
    padded = _pad(x, codec.downsampling_factor)
    with torch.no_grad():
        out = codec(padded)
    x_hat = out["x_hat"][0, :, :height, :width].clamp(0, 1)
    return Estimate(x_hat, out["likelihoods"], (padded.shape[2], padded.shape[3]))


def padding(height: int, width: int, factor: int) -> tuple[int, int]:
    """Pixels to add at the bottom and at the right to reach multiples of ``factor``."""
    return -height % factor, -width % factor


def _pad(x: Tensor, factor: int) -> Tensor:
    """(3, H, W) -> (1, 3, H', W')."""
    bottom, right = padding(x.shape[1], x.shape[2], factor)
    return F.pad(x[None], (0, right, 0, bottom), mode="replicate")


def _latent_shape(codec: Coder, height: int, width: int) -> tuple[int, int]:
    """Return (h, w) of the smallest latent of a padded picture."""
    return height // codec.downsampling_factor, width // codec.downsampling_factor


def _cut_short(expected: int, got: int) -> str:
    return f"expected {expected} bytes, got {got}: the .lic file is cut short or damaged; copy it again"


def _check_begin(data: bytes) -> None:
    if not data:
        raise BitstreamError("expected a .lic file, got an empty one; copy it again, or compress the picture again")
    if not data.startswith(MAGIC[: len(data)]):
        found = next((name for magic, name in _KNOWN_FORMATS.items() if data.startswith(magic)), None)
        found = found or f"one that begins with {data[:8]!r}"
        raise BitstreamError(f"expected a .lic file, which begins with {MAGIC!r}, got {found}")
    if len(data) < _FIXED.size + _WORD.size:
        raise BitstreamError(_cut_short(_FIXED.size + _WORD.size, len(data)))
    if data[len(MAGIC)] != VERSION:
        raise BitstreamError(
            f"expected version {VERSION} of the .lic layout, got {data[len(MAGIC)]}; "
            "decode it with the release that wrote it, or copy it again if it is damaged"
        )


def _check_end(data: bytes, end: int) -> None:
    if len(data) < end + _WORD.size:
        raise BitstreamError(_cut_short(end + _WORD.size, len(data)))
    if len(data) > end + _WORD.size:
        raise BitstreamError(
            f"expected {end + _WORD.size} bytes, got {len(data)}: something follows the end of the .lic file, or its "
            "lengths are damaged; copy it again"
        )
    expected, found = zlib.crc32(data[:end]), _WORD.unpack_from(data, end)[0]
    if expected != found:
        raise BitstreamError(
            f"the .lic file is damaged: its CRC-32 says {found:08x}, its bytes give {expected:08x}; copy it again"
        )


def _check_meaning(header: Header, count: int, max_pixels: int) -> None:
    """Only a program that computes the CRC can write what is refused here."""
    if count == 0:
        raise BitstreamError("expected at least one section, got none: the file is hostile or of a faulty writer")
    if header.height == 0 or header.width == 0 or 0 in header.latent:
        raise BitstreamError(
            f"expected positive sizes, got a picture of {header.height}x{header.width} and a latent of "
            f"{header.latent[0]}x{header.latent[1]}: the file is hostile or of a faulty writer"
        )
    height, width = header.padded
    if height * width > max_pixels:
        raise BitstreamError(
            f"expected at most {max_pixels} pixels (padded), got {height}x{width}; "
            "raise max_pixels if you trust the file"
        )


def _check_model(header: Header, codec: Coder, fingerprint: bytes) -> None:
    if header.fingerprint != fingerprint:
        raise BitstreamError(
            f"expected a file of the model {fingerprint.hex()}, got one of the model {header.fingerprint.hex()}; "
            "decode it with the model that wrote it"
        )
    expected = padding(header.height, header.width, codec.downsampling_factor)
    if (header.pad_bottom, header.pad_right) != expected:
        raise BitstreamError(
            f"expected padding {expected} for {header.height}x{header.width}, got "
            f"{(header.pad_bottom, header.pad_right)}: the file is hostile or of a faulty writer"
        )
    if header.latent != (latent := _latent_shape(codec, *header.padded)):
        raise BitstreamError(
            f"expected a latent of {latent} for {header.height}x{header.width}, got {header.latent}: "
            "the file is hostile or of a faulty writer"
        )


def _check_picture(x: Tensor) -> None:
    if x.dim() != 3 or x.shape[0] != 3 or 0 in x.shape:
        raise ValueError(f"expected a picture (3, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"expected a float picture in [0, 1], got {x.dtype}; divide by 255")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("expected a finite picture, got NaN or infinity in it")
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise ValueError(f"expected RGB in [0, 1], got {float(x.min()):g} to {float(x.max()):g}")
