"""The container of the ``.lic`` format: byte layout, and the checks before anything is decoded.

Layout, little-endian::

    4 B     magic "LIC1"
    1 B     version of the layout
    ...     the fields of `Header`, in their order
    1 B     number of sections n of each tile
    t*n*4 B length of each section in bytes, tile by tile
    ...     the sections, one after the other
    4 B     CRC-32 of everything before it
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any

import numpy as np

from lic_train.errors import BitstreamError
from lic_train.files.tiles import MAX_PIXELS, Grid, padding, plan

MAGIC = b"LIC1"
VERSION = 2
FINGERPRINT_BYTES = 8
MAX_SECTIONS = 255
LEVEL_STEPS = 1024  # of one level of a variable rate
ONE_RATE = 2**16 - 1  # in place of a level

_WORD = struct.Struct("<I")
_KNOWN_FORMATS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PK\x03\x04": "a ZIP archive or a PyTorch checkpoint",
}


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
        pad_bottom: padding in pixels at the bottom of the last tile.
        pad_right: padding in pixels at the right of the last tile.
        latent_height: height of the smallest latent of the first tile.
        latent_width: width of the smallest latent of the first tile.
        tile: side of the tiles in pixels; 0: the picture is one tile.
        overlap: pixels by which neighbouring tiles overlap.
        level: of a variable rate, in steps of 1/1024; 65535: the model has one rate.
    """

    fingerprint: bytes = _stored("8s")
    height: int = _stored("I")
    width: int = _stored("I")
    pad_bottom: int = _stored("H")
    pad_right: int = _stored("H")
    latent_height: int = _stored("I")
    latent_width: int = _stored("I")

    tile: int = _stored("I")
    overlap: int = _stored("H")
    level: int = _stored("H")

    @property
    def grid(self) -> Grid:
        """The tiles of the picture."""
        return Grid(self.height, self.width, self.tile, self.overlap)


def header_of(fingerprint: bytes, grid: Grid, factor: int, level: int = ONE_RATE) -> Header:
    """Return the header of a picture that a codec with the downsampling factor ``factor`` codes in these tiles."""
    bottom, right = padding(grid.last.height, grid.last.width, factor)
    rows, columns = -(-grid.first.height // factor), -(-grid.first.width // factor)
    return Header(fingerprint, grid.height, grid.width, bottom, right, rows, columns, grid.tile, grid.overlap, level)


# Magic and version, the fields of the header, the number of sections.
_FIXED = struct.Struct("<4sB" + "".join(part.metadata["layout"] for part in fields(Header)) + "B")


def pack(header: Header, tiles: Sequence[Sequence[bytes]]) -> bytes:
    """Return the bytes of a file.

    Args:
        header: see `Header`.
        tiles: the sections of each tile, the same number for all.

    Raises:
        ValueError: the fingerprint does not have 8 bytes, another number of tiles than in the header, or a tile does
            not have 1 to 255 sections or has another number than the first.
    """
    if len(header.fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"fingerprint: expected {FINGERPRINT_BYTES} bytes, got {len(header.fingerprint)}")
    if len(tiles) != header.grid.count:
        raise ValueError(f"tiles: expected {header.grid.count}, got {len(tiles)}")
    count = len(tiles[0])
    if not 1 <= count <= MAX_SECTIONS or any(len(sections) != count for sections in tiles):
        numbers = sorted({len(sections) for sections in tiles})
        raise ValueError(f"sections: expected 1 to {MAX_SECTIONS}, the same number for every tile, got {numbers}")
    fixed = _FIXED.pack(MAGIC, VERSION, *astuple(header), count)
    every = [section for sections in tiles for section in sections]
    body = b"".join([fixed, *(_WORD.pack(len(section)) for section in every), *every])
    return body + _WORD.pack(zlib.crc32(body))


def unpack(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Header, list[list[bytes]]]:
    """Split a file into the header and the sections of each tile. Memory is proportional to the size of the file.

    Args:
        data: the whole file.
        max_pixels: upper limit for the pixels of the picture.

    Raises:
        BitstreamError: empty, not a .lic file, of another version, cut short, damaged, too long, or of too many pixels.
    """
    _check_begin(data)
    _, _, *values, count = _FIXED.unpack_from(data)
    header = Header(*values)
    begin = _FIXED.size + header.grid.count * count * _WORD.size
    if len(data) < begin + _WORD.size:
        raise _cut_short(begin + _WORD.size, len(data))
    lengths = np.frombuffer(data, "<u4", header.grid.count * count, _FIXED.size)
    _check_end(data, begin + int(lengths.sum(dtype=np.uint64)))
    _check_meaning(header, count, max_pixels)
    sections, position = [], begin
    for length in map(int, lengths):
        sections.append(data[position : position + length])
        position += length
    return header, [sections[first : first + count] for first in range(0, len(sections), count)]


def check_model(header: Header, fingerprint: bytes, factor: int, highest: int | None = None) -> None:
    """Check that a model can decode a file with this header.

    Args:
        header: of the file.
        fingerprint: of the model.
        factor: downsampling factor of the model.
        highest: the highest level of its variable rate; None: it has one rate.

    Raises:
        BitstreamError: another model wrote the file, or its tiles, padding, latent or level are not of this model.
    """
    if (header.level == ONE_RATE) != (highest is None):
        ours, theirs = ("one rate", "a variable rate") if highest is None else ("a variable rate", "one rate")
        what, advice = f"The .lic file is from a model with {theirs}.", "decode it with the model that wrote it"
        raise BitstreamError(what, expected=f"a file of this model, which has {ours}", got=theirs, to_do=advice)
    if header.fingerprint != fingerprint:
        what, advice = "The .lic file is from another model.", "decode it with the model that wrote it"
        ours, theirs = f"fingerprint {fingerprint.hex()}", f"fingerprint {header.fingerprint.hex()}"
        raise BitstreamError(what, expected=ours, got=theirs, to_do=advice)
    size = header.height, header.width
    try:
        grid = plan(*size, factor, header.tile, header.overlap, max_pixels=header.height * header.width)
    except ValueError as error:
        raise _hostile("tiles that this model can code", str(error)) from error
    if highest is not None and header.level > highest * LEVEL_STEPS:
        raise _hostile(f"a level from 0 to {highest}", f"level {header.level / LEVEL_STEPS:g}")
    given, expected = asdict(header), asdict(header_of(fingerprint, grid, factor, header.level))
    wrong = [name for name, value in given.items() if value != expected[name]]
    if wrong:
        wanted, got = ([f"{name} {values[name]}" for name in wrong] for values in (expected, given))
        raise _hostile(", ".join(wanted), f"{', '.join(got)} of {header.height}x{header.width}")


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
    if header.height == 0 or header.width == 0:
        raise _hostile("positive sizes", f"a picture of {header.height}x{header.width}")
    if header.height * header.width > max_pixels:
        what, advice = "The picture in the .lic file is too large.", "raise max_pixels if you trust the file"
        got = f"{header.height}x{header.width}"
        raise BitstreamError(what, expected=f"at most {max_pixels} pixels", got=got, to_do=advice)
