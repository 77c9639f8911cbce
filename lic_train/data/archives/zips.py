"""Zip archives read in place: stored and deflated members (PKWARE's APPNOTE 6.3.3, sections 4.3 to 4.5).

An entry of the index points at the member's record in the central directory, which says the rest.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from lic_train.data.archives.index import Entry
from lic_train.data.archives.scan import Scan
from lic_train.data.archives.storage import Buffered, Files, ReadAt

END = struct.Struct("<4s4H2LH")  # end of central directory: signature, disks, counts, size, offset, comment
LOCATOR = struct.Struct("<4sLQL")  # of the ZIP64 end record: signature, disk, offset, disks
END_64 = struct.Struct("<4sQ2H2L4Q")
RECORD = struct.Struct("<4s6H3L5H2L")  # of the central directory, without name, extra field and comment
LOCAL = struct.Struct("<4s5H3L2H")
ABSENT_32 = 0xFFFFFFFF  # the number stands in the ZIP64 extra field
ZIP64 = 1
STORED, DEFLATED = 0, 8
ENCRYPTED = 1  # flag
BUFFER = 2**20


class Member(NamedTuple):
    """What the central directory says of one file."""

    name: bytes
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    header: int  # offset of the local header
    length: int  # of this record


class NoZip(Exception):
    """The archive has no whole central directory, without which nothing in it can be found."""


class ZipReader:
    """Reads and unpacks members by the places of their records."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def read(self, entry: Entry) -> bytes:
        """The unpacked bytes, no more of them than the archive declares. Raises OSError for damage of any kind."""
        try:
            return self._read(entry)
        except (struct.error, zlib.error, NoZip) as error:
            raise OSError(f"its zip is damaged there: {error}") from error

    def _read(self, entry: Entry) -> bytes:
        member = record(lambda offset, size: self.files.read(entry.part, offset, size), entry.offset)
        local = LOCAL.unpack(self.files.read(entry.part, member.header, LOCAL.size))
        if local[0] != b"PK\3\4":
            raise NoZip("no header where the directory points")
        start = member.header + LOCAL.size + local[-2] + local[-1]
        packed = self.files.read(entry.part, start, member.packed)
        data = _inflated(packed, member.size) if member.method == DEFLATED else packed
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise NoZip("the checksum or the length is wrong")
        return data


def walk_zip(scan: Scan) -> None:
    """Put the pictures of a zip into the listing."""
    try:
        for place, member in members(Buffered(scan.read, BUFFER), scan.part.size):
            scan.tell(place)
            if not member.name.endswith(b"/"):
                scan.take(member.name, place, max(member.size, member.packed), unusable=_unusable(member))
    except (struct.error, NoZip) as error:
        scan.lose(f"damaged or cut short: {error}", 0, scan.part.size)


def members(read: ReadAt, size: int) -> Iterator[tuple[int, Member]]:
    """The records of the central directory with their places. Raises NoZip or struct.error."""
    place, end = _directory(read, size)
    while place < end:
        member = record(read, place)
        yield place, member
        place += member.length


def record(read: ReadAt, place: int) -> Member:
    """The record of the central directory at ``place``. Raises NoZip or struct.error."""
    (signature, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, _, header) = RECORD.unpack(
        read(place, RECORD.size)
    )
    if signature != b"PK\1\2":
        raise NoZip("a record of its directory has no signature")
    data = read(place + RECORD.size, name + extra)
    size, packed, header = _widened(data[name:], [size, packed, header])
    path = data[:name].replace(b"\\", b"/")  # some writers on Windows
    return Member(path, method, flags, crc, packed, size, header, RECORD.size + name + extra + comment)


def _directory(read: ReadAt, size: int) -> tuple[int, int]:
    """Where the central directory begins and ends."""
    start = max(size - END.size - 2**16, 0)
    tail = read(start, size - start)
    if (at := tail.rfind(b"PK\5\6")) < 0:
        raise NoZip("no directory at its end")
    length, offset = END.unpack_from(tail, at)[5:7]
    if ABSENT_32 in (length, offset) and at >= LOCATOR.size:
        _, _, place, _ = LOCATOR.unpack_from(tail, at - LOCATOR.size)
        length, offset = END_64.unpack(read(place, END_64.size))[8:10]
    if offset + length > start + at:
        raise NoZip("its directory would lie behind its end")
    return offset, offset + length


def _widened(fields: bytes, numbers: list[int]) -> list[int]:
    """The numbers, those that did not fit into 32 bits from the ZIP64 extra field, where they stand in this order."""
    while len(fields) >= 4:
        kind, length = struct.unpack_from("<2H", fields)
        if kind == ZIP64:
            wide = iter(struct.unpack_from(f"<{min(length, len(fields) - 4) // 8}Q", fields, 4))
            return [next(wide, number) if number == ABSENT_32 else number for number in numbers]
        fields = fields[4 + length :]
    return numbers


def _unusable(member: Member) -> str:
    """Why this member cannot be read, empty if it can."""
    if member.flags & ENCRYPTED:
        return "encrypted"
    if member.method not in (STORED, DEFLATED):
        return f"packed by method {member.method}; only stored and deflated files are read"
    return ""


def _inflated(packed: bytes, size: int) -> bytes:
    """At most ``size`` + 1 bytes: a bomb that declares less than it holds ends here."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
