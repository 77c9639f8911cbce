"""Tar archives that are read in place, including tars inside a tar, as ImageNet is distributed.

The standard library's `tarfile` parses the headers once; afterwards an image is one read at a known offset. Inner tars
are stored uncompressed, so an image in one of them has an offset in the outer file and nothing is unpacked.

`tarfile` skips some damage without an error. `members` therefore verifies that the archive ends with its end mark, that
every file is complete, and that PAX records are well-formed.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator

from lic_train.data.archives.index import Entry
from lic_train.data.archives.names import raw
from lic_train.data.archives.scan import Scan
from lic_train.data.archives.storage import Buffered, Files, ReadAt

BLOCK = tarfile.BLOCKSIZE
MAX_HEADERS = 2**20  # bytes of the headers of one member, including long names and PAX records; more is damage
PADDING = 2**20  # maximum number of bytes that writers append to the end mark
PIECE = 1 + 3 * BLOCK  # bytes of one read: the byte that tarfile reads first, a PAX header, its records, the header
CODING = "utf-8", "surrogateescape"  # the inverse of lic_train.data.archives.names.raw
POSIX = b"ustar\0"  # magic of headers with a name prefix at byte 345; GNU tar stores times in these bytes
PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
# Errors that tarfile raises for damaged headers. It does not catch all errors of its own parsers.
TARFILE_ERRORS = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)


class Damage(Exception):
    """The chain of headers is broken at byte ``position``."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class TarReader:
    """Reads images from tars by offset and size."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def read(self, entry: Entry) -> bytes:
        """Return the bytes of an image. Raises OSError."""
        data = self.files.read(entry.part, entry.offset, entry.size)
        if len(data) != entry.size:
            raise OSError(f"its tar is truncated: {len(data):,} of {entry.size:,} bytes are present")
        return data


def walk_tar(scan: Scan) -> None:
    """Add the images of a tar, and of the tars inside it, to the listing."""
    _walk(scan, 0, scan.part.size, b"")


def _walk(scan: Scan, start: int, end: int, folder: bytes) -> None:
    """Index the tar in bytes ``start`` to ``end``; ``folder`` is the name of an inner tar, empty for the outer one."""
    used = start
    try:
        for member in members(scan.read, start, end):
            scan.tell(member.offset_data)
            name, last = _clean(raw(member.name)), member.offset_data + member.size
            is_sparse = _is_sparse(member)
            if not folder and member.isreg() and not is_sparse and name.lower().endswith(b".tar"):
                used = min(last, end)
                _walk(scan, member.offset_data, used, name[:-4] + b"/")
            elif member.isreg():
                unusable = _unusable(member.size, last - end, is_sparse)
                scan.take(name, member.offset_data, member.size, folder=folder, unusable=unusable)
    except Damage as damage:
        scan.lose(str(damage), max(damage.position, used), end, folder)  # losses in an inner tar are reported already


def members(read: ReadAt, start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members of the tar in bytes ``start`` to ``end`` of a file; offsets are relative to the file.

    A file that is cut short is yielded before the error is raised.

    Raises:
        Damage: a header is damaged, a file is cut short, the end mark is missing, or much data follows it.
    """
    section, position = Section(read, start, end), start
    archive = _opened(section)
    while archive is not None and (member := _next(archive)) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it keeps every member; an archive may have a million
        section.allowed = MAX_HEADERS
        if member.size < 0 or archive.offset < member.offset_data:
            break
        yield member
        stored = min(member.size, archive.offset - member.offset_data)  # links have a size but no data
        if member.offset_data + stored > end:
            where = f"the file at byte {member.offset_data:,} should have {stored:,} bytes"
            raise Damage(member.offset_data, f"cut short: {where}")
        position = archive.offset
    _require_end_mark(read, position, end)


class Section:
    """Bytes ``start`` to ``end`` of a file, as the seekable reader that `tarfile` needs.

    Positions are those of the whole file.

    Attributes:
        allowed: number of bytes that may still be read for the current member. It bounds the memory and the time that
            a damaged or hostile header can cost.
    """

    def __init__(self, read: ReadAt, start: int, end: int) -> None:
        self._read, self._position, self._end = Buffered(read, PIECE), start, end
        self.allowed = MAX_HEADERS

    def tell(self) -> int:
        """Return the current position."""
        return self._position

    def seek(self, position: int) -> None:
        """Move to ``position``."""
        self._position = position

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes, fewer at the end. Raises ValueError above the limit and for negative sizes."""
        self.allowed -= size
        if size < 0 or self.allowed < 0:
            raise ValueError("the size in the header is not plausible")
        data = self._read(self._position, max(min(size, self._end - self._position), 0))
        self._position += len(data)
        return data


class Header(tarfile.TarInfo):
    """A tar header with two corrections to `tarfile`: malformed PAX records are errors, GNU times are not a prefix."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Header:
        """Parse the header at the current position. Raises tarfile.HeaderError or ValueError."""
        section = archive.fileobj
        assert section is not None
        position = section.tell()
        block = section.read(BLOCK)
        kind, magic, prefix = block[156:157], block[257:263], block[345:346]
        if kind in PAX_TYPES:
            _check_records(section.read(cls.frombuf(block, *CODING).size))
        section.seek(position)
        header = super().fromtarfile(archive)
        if prefix not in (b"", b"\0") and magic != POSIX and header.offset_data == position + BLOCK:
            header.name = block[:100].split(b"\0", 1)[0].decode(*CODING)
        return header


def _opened(section: Section) -> tarfile.TarFile | None:
    """Open the archive, which parses its first header; None if that header is not usable."""
    encoding, errors = CODING
    try:  # a reader is enough for the argument fileobj
        return tarfile.TarFile(fileobj=section, tarinfo=Header, encoding=encoding, errors=errors)  # type: ignore[arg-type]
    except TARFILE_ERRORS:
        return None


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Return the next member; None at the end and at the first damaged header."""
    try:
        return archive.next()
    except TARFILE_ERRORS:
        return None


def _require_end_mark(read: ReadAt, position: int, end: int) -> None:
    """Raise Damage unless the headers that end at ``position`` are followed by a block of zeros and little else."""
    block = read(position, BLOCK) if position + BLOCK <= end else b""
    if len(block) < BLOCK:
        raise Damage(min(position, end), f"cut short: it ends at byte {end:,} without an end mark")
    if block != bytes(BLOCK):
        raise Damage(position, f"damaged header at byte {position:,}")
    if end - position > PADDING:
        raise Damage(position, f"its end mark at byte {position:,} is followed by {end - position:,} bytes")


def _check_records(data: bytes) -> None:
    """Raise tarfile.HeaderError for malformed PAX records, which Python before 3.11.10 skips.

    A record is ``length key=value newline``; the length counts the whole record.
    """
    start = 0
    while start < len(data):
        digits = data[start : start + 20].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        key, sign, value = data[start + len(digits) + 1 : start + length].partition(b"=")
        is_complete = sign and start + length <= len(data) and value.endswith(b"\n")
        if not is_complete or (key == b"size" and not value[:-1].isdigit()):
            raise tarfile.HeaderError("malformed PAX record")
        start += length


def _is_sparse(member: tarfile.TarInfo) -> bool:
    """Whether holes of the file are left out in the archive (old GNU header, or any GNU.sparse PAX record)."""
    return member.issparse() or any(key.startswith("GNU.sparse.") for key in member.pax_headers)


def _unusable(size: int, missing: int, is_sparse: bool) -> str:
    """Return why the file cannot be read in place, empty if it can."""
    if is_sparse:
        return "stored as a sparse file, which cannot be read in place"
    return f"cut short with its tar: {missing:,} of {size:,} bytes are missing" if missing > 0 else ""


def _clean(name: bytes) -> bytes:
    """Remove the leading ``./`` and ``/`` that some writers put in front of each name."""
    return re.sub(rb"\A(\./|/)+", b"", name)
