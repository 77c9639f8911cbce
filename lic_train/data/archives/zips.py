"""Zip archives that are read in place: stored and deflated members (PKWARE's APPNOTE 6.3.3, sections 4.3 to 4.5).

An index entry is the offset of the member's record in the central directory, which contains all other fields.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from lic_train.data.archives.index import Entry
from lic_train.data.archives.scan import Scan
from lic_train.data.archives.storage import MAX_BYTES, Buffered, Files, ReadAt
from lic_train.system.memory import ALLOWANCE, justified

END = struct.Struct("<4s4H2LH")  # end of central directory: signature, disks, counts, size, offset, comment
LOCATOR = struct.Struct("<4sLQL")  # of the ZIP64 end record: signature, disk, offset, disks
END_64 = struct.Struct("<4sQ2H2L4Q")
RECORD = struct.Struct("<4s6H3L5H2L")  # of the central directory, without name, extra field and comment
LOCAL = struct.Struct("<4s5H3L2H")
ABSENT_32 = 0xFFFFFFFF  # the number is in the ZIP64 extra field
ZIP64 = 1
STORED, DEFLATED = 0, 8
ENCRYPTED = 1  # flag
BUFFER = 2**20


class Member(NamedTuple):
    """Fields of one record of the central directory."""

    name: bytes
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    header: int  # offset of the local header
    length: int  # of this record


class NoZip(Exception):
    """The archive has no complete central directory, which is needed to find any member."""


class ZipReader:
    """Reads and unpacks members by the offsets of their records."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def read(self, entry: Entry) -> bytes:
        """Return the unpacked bytes, at most as many as the archive declares. Raises OSError for damage of any kind."""
        try:
            return self._read(entry)
        except (struct.error, zlib.error, NoZip, OverflowError) as error:  # offsets have up to 64 bits
            raise OSError(f"its part of the zip is damaged: {error}") from error

    def _read(self, entry: Entry) -> bytes:
        member = record(lambda offset, size: self.files.read(entry.part, offset, size), entry.offset)
        local = LOCAL.unpack(self.files.read(entry.part, member.header, LOCAL.size))
        if local[0] != b"PK\3\4":
            raise NoZip("no local header at the offset in the directory")
        start = member.header + LOCAL.size + local[-2] + local[-1]
        packed = self.files.read(entry.part, start, member.packed)
        data = _inflated(packed, member.size) if member.method == DEFLATED else packed
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise NoZip("the checksum or the length is wrong")
        return data


def walk_zip(scan: Scan) -> None:
    """Add the images of a zip to the listing."""
    try:
        for place, member in members(Buffered(scan.read, BUFFER), scan.part.size):
            scan.tell(place)
            if not member.name.endswith(b"/"):
                scan.take(
                    member.name, place, max(member.size, member.packed), unusable=_unusable(member, scan.part.size)
                )
    except (struct.error, NoZip) as error:
        scan.lose(f"damaged or cut short: {error}", 0, scan.part.size)


def members(read: ReadAt, size: int) -> Iterator[tuple[int, Member]]:
    """Yield the records of the central directory with their offsets. Raises NoZip or struct.error."""
    place, end = _directory(read, size)
    while place < end:
        member = record(read, place)
        yield place, member
        place += member.length


def record(read: ReadAt, place: int) -> Member:
    """Return the record of the central directory at offset ``place``. Raises NoZip or struct.error."""
    (signature, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, _, header) = RECORD.unpack(
        read(place, RECORD.size)
    )
    if signature != b"PK\1\2":
        raise NoZip("a record of its directory has no signature")
    data = read(place + RECORD.size, name + extra)
    size, packed, header = _widened(data[name:], [size, packed, header])
    path = data[:name].replace(b"\\", b"/")  # some writers on Windows use backslashes
    return Member(path, method, flags, crc, packed, size, header, RECORD.size + name + extra + comment)


def _directory(read: ReadAt, size: int) -> tuple[int, int]:
    """Return the first and last offset of the central directory."""
    start = max(size - END.size - 2**16, 0)
    tail = read(start, size - start)
    if (at := tail.rfind(b"PK\5\6")) < 0:
        raise NoZip("no directory at its end")
    length, offset = END.unpack_from(tail, at)[5:7]
    if ABSENT_32 in (length, offset) and at >= LOCATOR.size:
        _, _, place, _ = LOCATOR.unpack_from(tail, at - LOCATOR.size)
        length, offset = END_64.unpack(read(place, END_64.size))[8:10]
    if offset + length > start + at:
        raise NoZip("its directory ends after the end of the file")
    return offset, offset + length


def _widened(fields: bytes, numbers: list[int]) -> list[int]:
    """Return the numbers; those that do not fit into 32 bits are in the ZIP64 extra field, in this order."""
    while len(fields) >= 4:
        kind, length = struct.unpack_from("<2H", fields)
        if kind == ZIP64:
            wide = iter(struct.unpack_from(f"<{min(length, len(fields) - 4) // 8}Q", fields, 4))
            return [next(wide, number) if number == ABSENT_32 else number for number in numbers]
        fields = fields[4 + length :]
    return numbers


def _unusable(member: Member, archive: int) -> str:
    """Return why this member cannot be read, empty if it can."""
    if member.flags & ENCRYPTED:
        return "encrypted"
    if member.method not in (STORED, DEFLATED):
        return f"compression method {member.method} is not supported, only stored and deflated files are"
    if member.header + member.packed > archive:
        return "its part of the zip is after the end of the file"
    if MAX_BYTES >= member.size > justified(member.packed):
        return f"{member.packed:,} bytes that unpack to {member.size:,} are not an image; {ALLOWANCE} raises the limit"
    return ""


def _inflated(packed: bytes, size: int) -> bytes:
    """Unpack at most ``size`` + 1 bytes, which stops a zip bomb that declares less than it contains."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
