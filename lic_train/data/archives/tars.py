"""Tar archives read in place: where each picture lies in them, also in tars inside a tar, as ImageNet is shipped.

A tar is a chain of 512-byte headers, each followed by its file, padded to 512 bytes (POSIX.1-2017, "pax"). Inner tars
are stored as they are, so a picture in one lies at some offset of the outer file, and nothing needs unpacking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from lic_train.data.archives.index import Entry
from lic_train.data.archives.scan import Scan
from lic_train.data.archives.storage import Files, ReadAt

BLOCK = 512
MAX_EXTENSION = 2**20  # bytes of a long name or of PAX records; more is damage
PADDING = 2**20  # zeros that writers put behind the end mark, at most
FILES = (b"0", b"\0", b"7")
SPARSE = b"S"
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes


class Damage(Exception):
    """The chain of headers is broken at ``position``."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class Member(NamedTuple):
    """One file of a tar: its data are ``size`` bytes from ``offset`` on."""

    name: bytes
    kind: bytes
    offset: int
    size: int


class TarReader:
    """Reads pictures out of tars by their places."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def read(self, entry: Entry) -> bytes:
        """The picture's bytes. Raises OSError."""
        data = self.files.read(entry.part, entry.offset, entry.size)
        if len(data) != entry.size:
            raise OSError(f"its tar is cut short: {len(data):,} of {entry.size:,} bytes are there")
        return data


def walk_tar(scan: Scan) -> None:
    """Put the pictures of a tar, and those of tars in it, into the listing."""
    _walk(scan, 0, scan.part.size, b"")


def _walk(scan: Scan, start: int, end: int, folder: bytes) -> None:
    """Over the headers from ``start`` to ``end``: those of the file, or of the inner tar that is called ``folder``."""
    used = start
    try:
        for member in members(scan.read, start, end):
            scan.tell(member.offset)
            last = member.offset + member.size
            if not folder and member.kind in FILES and member.name.lower().endswith(b".tar"):
                used = min(last, end)
                _walk(scan, member.offset, used, member.name[:-4] + b"/")
            elif member.kind in (*FILES, SPARSE):
                unusable = _unusable(member, last - end)
                scan.take(member.name, member.offset, member.size, folder=folder, unusable=unusable)
    except Damage as damage:
        scan.lose(str(damage), max(damage.position, used), end, folder)  # what an inner tar lost, it has told itself


def members(read: ReadAt, start: int, end: int) -> Iterator[Member]:
    """The files of the tar that lies in ``start`` ... ``end``, with the names of GNU and PAX extensions applied.

    Raises:
        Damage: a header is no header, the tar ends without its mark, or there is more behind the mark than padding.
    """
    position, extended = start, _Extensions()
    while (block := _block(read, position, end)) != bytes(BLOCK):
        member = _parse(block, position)
        data = member.offset
        if member.kind in b"LKxg":
            extended.add(member, read)
        elif member.kind == SPARSE:
            data = _behind_map(read, block, data, end)
        if member.kind not in b"LKxg":
            member = extended.applied(member)._replace(offset=data)
            extended = _Extensions()
            yield member
        size = 0 if member.kind in WITHOUT_DATA else member.size
        if data + size > end:
            raise Damage(data, f"cut short: the file at byte {data:,} should have {size:,} bytes")
        position = data + -(-size // BLOCK) * BLOCK
    if end - position > PADDING:
        raise Damage(position, f"its end mark stands at byte {position:,}, with much behind it")


def _unusable(member: Member, missing: int) -> str:
    """Why the file cannot be read in place, empty if it can."""
    if member.kind == SPARSE:
        return "stored as a sparse file, which cannot be read in place"
    return f"cut short with its tar: {missing:,} of {member.size:,} bytes are missing" if missing > 0 else ""


class _Extensions:
    """What GNU and PAX records say of the file that follows them."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.size: int | None = None
        self.sparse = False

    def add(self, record: Member, read: ReadAt) -> None:
        """Read one record."""
        if record.size > MAX_EXTENSION:
            raise Damage(record.offset - BLOCK, f"a name of {record.size:,} bytes stands at byte {record.offset:,}")
        data = read(record.offset, record.size)
        if record.kind == b"L":
            self.name = data.split(b"\0", 1)[0]
        elif record.kind == b"x":
            for key, value in _pax(data, record.offset):
                self._set(key, value, record.offset)

    def applied(self, member: Member) -> Member:
        """The file as the records before it say."""
        name = member.name if self.name is None else self.name
        size = member.size if self.size is None else self.size
        return member._replace(name=_clean(name), size=size, kind=SPARSE if self.sparse else member.kind)

    def _set(self, key: bytes, value: bytes, position: int) -> None:
        if key == b"path":
            self.name = value
        elif key == b"size":
            self.size = _number(value, 10, position)
        elif key.startswith(b"GNU.sparse."):
            self.sparse = True


def _block(read: ReadAt, position: int, end: int) -> bytes:
    block = read(position, BLOCK) if position + BLOCK <= end else b""
    if len(block) < BLOCK:
        raise Damage(min(position, end), f"cut short: it ends at byte {end:,} without an end mark")
    return block


def _parse(block: bytes, position: int) -> Member:
    """The plain header at ``position``."""
    summed = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156], 8, position) != summed:
        raise Damage(position, f"a damaged header stands at byte {position:,}")
    name = block[:100].split(b"\0", 1)[0]
    before = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""  # GNU keeps times there
    size = _number(block[124:136], 8, position)
    return Member(before + b"/" + name if before else name, block[156:157], position + BLOCK, size)


def _number(field: bytes, base: int, position: int) -> int:
    """Digits, or GNU's binary for what has too many of them."""
    if field[:1] == b"\x80":
        value = int.from_bytes(field[1:], "big")
    else:
        try:
            value = int(field.split(b"\0", 1)[0].strip() or b"0", base)
        except ValueError:
            value = -1
    if not 0 <= value < 2**62:
        raise Damage(position, f"a header without meaning stands at byte {position:,}")
    return value


def _pax(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Records ``length key=value newline``; the length counts the whole record."""
    start = 0
    while start < len(data):
        digits = data[start : start + 20].split(b" ", 1)[0]
        length = _number(digits, 10, position) if digits.isdigit() else 0
        key, sign, value = data[start + len(digits) + 1 : start + length].partition(b"=")
        if not sign or start + length > len(data) or value[-1:] != b"\n":
            raise Damage(position - BLOCK, f"PAX records without meaning stand at byte {position:,}")
        yield key, value[:-1]
        start += length


def _behind_map(read: ReadAt, block: bytes, data: int, end: int) -> int:
    """Where the data of an old GNU sparse file begin, behind the further blocks of its map."""
    more = block[482]
    while more:
        more = _block(read, data, end)[504]
        data += BLOCK
    return data


def _clean(name: bytes) -> bytes:
    """Without the ``./`` and ``/`` that some writers put before each name."""
    return re.sub(rb"\A(\./|/)+", b"", name)
