"""The ``.lic`` file format: writing, reading, and the checks before anything is decoded.

Layout, little-endian::

    4 B   magic "LIC1"
    1 B   version of the layout
    ...   the fields of `Header`, in their order
    1 B   number of sections n
    n*4 B length of each section in bytes
    ...   the sections, one after the other
    4 B   CRC-32 of everything before it
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lic_train.errors import BitstreamError, LicError
from lic_train.models.base import CodecOutput, Compressed, Decompressed

MAGIC = b"LIC1"
VERSION = 2
FINGERPRINT_BYTES = 8
MAX_SECTIONS = 255
# Padded pixels of one picture; 7680 x 4320 just fits. Decoding allocates memory in proportion to this number.
MAX_PIXELS = 2**25

_OTHER_WRITER = "check that this model and version of lic_train wrote the file"
_WORD = struct.Struct("<I")
_KNOWN_FORMATS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PK\x03\x04": "a ZIP archive or a PyTorch checkpoint",
}


class Coder(Protocol):
    """The part of a codec that this module needs; ``lic_train.models.base.Codec`` provides it."""

    downsampling_factor: int

    def compress(self, x: Tensor) -> Compressed:
        """Encode one padded picture (1, 3, H, W)."""

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> Decompressed:
        """Decode the output of ``compress``."""

    def __call__(self, x: Tensor) -> CodecOutput:
        """Run the evaluation forward on one padded picture (1, 3, H, W)."""


class Estimate(NamedTuple):
    """Result without a file: x_hat (3, H, W) in [0, 1], and the likelihoods over the ``padded`` size (H, W)."""

    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    padded: tuple[int, int]

    @property
    def bits(self) -> float:
        """Estimated bits of all sections of the picture."""
        return -sum(float(torch.log2(likelihood.float()).sum()) for likelihood in self.likelihoods.values())


def _stored(layout: str) -> Any:
    """Return a field of `Header` that is written with this code of `struct`."""
    return field(metadata={"layout": layout})


@dataclass(frozen=True)
class Header:
    """All fields of the file except its sections, in the order of the file.

    Attributes:
        fingerprint: 8 bytes that identify the model.
        height: true height in pixels.
        width: true width in pixels.
        pad_bottom: padding in pixels at the bottom.
        pad_right: padding in pixels at the right.
        latent_height: height of the smallest latent.
        latent_width: width of the smallest latent.
    """

    fingerprint: bytes = _stored("8s")
    height: int = _stored("I")
    width: int = _stored("I")
    pad_bottom: int = _stored("H")
    pad_right: int = _stored("H")
    latent_height: int = _stored("I")
    latent_width: int = _stored("I")

    @property
    def latent(self) -> tuple[int, int]:
        """Height and width of the smallest latent."""
        return self.latent_height, self.latent_width

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the input of the networks."""
        return self.height + self.pad_bottom, self.width + self.pad_right


# Magic and version, the fields of the header, the number of sections.
_FIXED = struct.Struct("<4sB" + "".join(part.metadata["layout"] for part in fields(Header)) + "B")


def pack(header: Header, sections: Sequence[bytes]) -> bytes:
    """Return the bytes of a file.

    Raises:
        ValueError: the fingerprint does not have 8 bytes, or there are not 1 to 255 sections.
    """
    if len(header.fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"fingerprint: expected {FINGERPRINT_BYTES} bytes, got {len(header.fingerprint)}")
    if not 1 <= len(sections) <= MAX_SECTIONS:
        raise ValueError(f"sections: expected 1 to {MAX_SECTIONS}, got {len(sections)}")
    fixed = _FIXED.pack(MAGIC, VERSION, *astuple(header), len(sections))
    body = b"".join([fixed, *(_WORD.pack(len(section)) for section in sections), *sections])
    return body + _WORD.pack(zlib.crc32(body))


def unpack(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Header, list[bytes]]:
    """Split a file into header and sections. Allocates no more than the size of the file.

    Args:
        data: the whole file.
        max_pixels: upper limit for the pixels of the picture, padding included.

    Raises:
        BitstreamError: empty, not a .lic file, of another version, cut short, damaged, too long, or of too many pixels.
    """
    _check_begin(data)
    _, _, *values, count = _FIXED.unpack_from(data)
    begin = _FIXED.size + count * _WORD.size
    if len(data) < begin + _WORD.size:
        raise _cut_short(begin + _WORD.size, len(data))
    lengths = struct.unpack_from(f"<{count}I", data, _FIXED.size)
    end = begin + sum(lengths)
    _check_end(data, end)
    header = Header(*values)
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
        x: (3, H, W), RGB in [0, 1], on the codec's device. It is padded by replication at the bottom and at the right.
        fingerprint: 8 bytes that identify the model.
        max_pixels: the limit of `unpack`, so that every written file can be read.

    Raises:
        ValueError: x does not have this shape, is not finite, is outside [0, 1], or has too many pixels.
    """
    _check_picture(x)
    height, width = x.shape[1:]
    bottom, right = padding(height, width, codec.downsampling_factor)
    if (height + bottom) * (width + right) > max_pixels:
        raise ValueError(
            f"x: expected at most {max_pixels} pixels (padded), got {height}x{width}; crop it or raise max_pixels"
        )
    with torch.no_grad():
        out = codec.compress(_pad(x, codec.downsampling_factor))
    latent = (int(out["shape"][0]), int(out["shape"][1]))
    assert latent == _latent_shape(codec, height + bottom, width + right), "shape does not fit downsampling_factor"
    return pack(Header(fingerprint, height, width, bottom, right, *latent), out["strings"])


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
    header, sections = unpack(data, max_pixels)
    _check_model(header, codec, fingerprint)
    try:
        with torch.no_grad():
            x_hat = codec.decompress(sections, header.latent)["x_hat"]
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
    if tuple(x_hat.shape) != (1, 3, *header.padded) or not bool(torch.isfinite(x_hat).all()):
        raise BitstreamError(
            "The .lic file decodes to an invalid picture.",
            expected=f"finite values of shape (1, 3, {header.padded[0]}, {header.padded[1]})",
            got=f"shape {tuple(x_hat.shape)}, {int(x_hat.isfinite().sum())} values are finite",
            to_do=_OTHER_WRITER,
        )
    return x_hat[0, :, : header.height, : header.width]


def estimate(codec: Coder, x: Tensor) -> Estimate:
    """Run the evaluation forward on one picture (3, H, W), padded as in `encode`; ``codec`` is in eval mode."""
    height, width = x.shape[1:]
    padded = _pad(x, codec.downsampling_factor)
    with torch.no_grad():
        out = codec(padded)
    x_hat = out["x_hat"][0, :, :height, :width].clamp(0, 1)
    return Estimate(x_hat, out["likelihoods"], (padded.shape[2], padded.shape[3]))


def padding(height: int, width: int, factor: int) -> tuple[int, int]:
    """Return the pixels to add at the bottom and at the right to reach multiples of ``factor``."""
    return -height % factor, -width % factor


def _pad(x: Tensor, factor: int) -> Tensor:
    """Pad (3, H, W) to (1, 3, H', W')."""
    bottom, right = padding(x.shape[1], x.shape[2], factor)
    return F.pad(x[None], (0, right, 0, bottom), mode="replicate")


def _latent_shape(codec: Coder, height: int, width: int) -> tuple[int, int]:
    """Return (h, w) of the smallest latent of a padded picture."""
    return height // codec.downsampling_factor, width // codec.downsampling_factor


def _damaged(what: str, expected: str, got: str) -> BitstreamError:
    return BitstreamError(what, expected=expected, got=got, to_do="copy the file again")


def _cut_short(expected: int, got: int) -> BitstreamError:
    return _damaged("The .lic file is cut short or damaged.", f"{expected} bytes", f"{got} bytes")


def _hostile(expected: str, got: str) -> BitstreamError:
    """Error for a file with a correct CRC-32 that no encoder of this package writes."""
    return BitstreamError("The .lic file is hostile or from a faulty writer.", expected=expected, got=got)


def _check_begin(data: bytes) -> None:
    if not data:
        raise BitstreamError("The .lic file is empty.", to_do="copy it again, or compress the picture again")
    if not data.startswith(MAGIC[: len(data)]):
        found = next((name for magic, name in _KNOWN_FORMATS.items() if data.startswith(magic)), None)
        found = found or f"a file that begins with {data[:8]!r}"
        raise BitstreamError("This is not a .lic file.", expected=f"a file that begins with {MAGIC!r}", got=found)
    if len(data) < _FIXED.size + _WORD.size:
        raise _cut_short(_FIXED.size + _WORD.size, len(data))
    if (version := data[len(MAGIC)]) != VERSION:
        what, advice = "The .lic file has an unknown version.", "decode it with the release that wrote it"
        if version == 1:
            what = "The .lic file is from release 0.1, which guaranteed decoding only on the machine that wrote it."
            advice = "decode it with release 0.1 of lic_train on that machine, and compress the picture again"
        raise BitstreamError(what, expected=f"version {VERSION}", got=f"version {version}", to_do=advice)


def _check_end(data: bytes, end: int) -> None:
    if len(data) < end + _WORD.size:
        raise _cut_short(end + _WORD.size, len(data))
    if len(data) > end + _WORD.size:
        what = "The .lic file has bytes after its end, or its lengths are damaged."
        raise _damaged(what, f"{end + _WORD.size} bytes", f"{len(data)} bytes")
    expected, found = zlib.crc32(data[:end]), _WORD.unpack_from(data, end)[0]
    if expected != found:
        raise _damaged("The .lic file is damaged.", f"CRC-32 {found:08x}", f"CRC-32 {expected:08x} of its bytes")


def _check_meaning(header: Header, count: int, max_pixels: int) -> None:
    """Check values that are wrong only if the writer is faulty or hostile: the CRC-32 is correct at this point."""
    if count == 0:
        raise _hostile("at least one section", "no section")
    if header.height == 0 or header.width == 0 or 0 in header.latent:
        raise _hostile("positive sizes", f"a picture of {header.height}x{header.width}, a latent of {header.latent}")
    height, width = header.padded
    if height * width > max_pixels:
        what, advice = "The picture in the .lic file is too large.", "raise max_pixels if you trust the file"
        limit = f"at most {max_pixels} pixels (padded)"
        raise BitstreamError(what, expected=limit, got=f"{height}x{width}", to_do=advice)


def _check_model(header: Header, codec: Coder, fingerprint: bytes) -> None:
    if header.fingerprint != fingerprint:
        what, advice = "The .lic file is from another model.", "decode it with the model that wrote it"
        ours, theirs = f"fingerprint {fingerprint.hex()}", f"fingerprint {header.fingerprint.hex()}"
        raise BitstreamError(what, expected=ours, got=theirs, to_do=advice)
    expected = padding(header.height, header.width, codec.downsampling_factor)
    if (header.pad_bottom, header.pad_right) != expected:
        raise _hostile(f"padding {expected}", f"padding {(header.pad_bottom, header.pad_right)}")
    if header.latent != (latent := _latent_shape(codec, *header.padded)):
        raise _hostile(f"a latent of {latent}", f"{header.latent} for {header.height}x{header.width}")


def _check_picture(x: Tensor) -> None:
    if x.dim() != 3 or x.shape[0] != 3 or 0 in x.shape:
        raise ValueError(f"x: expected shape (3, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x: expected floats in [0, 1], got {x.dtype}; divide by 255")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite values, got NaN or infinity")
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise ValueError(f"x: expected RGB in [0, 1], got {float(x.min()):g} to {float(x.max()):g}")
