"""Byte ranges of local files, which stay open in each process."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from lic_train.data.archives.index import Part
from lic_train.errors import DataError

ReadAt = Callable[[int, int], bytes]  # (offset, size) -> bytes, fewer at the end of the file

MAX_BYTES = 2**30  # of one image file, which is read into memory as a whole
MAX_OPEN = 128  # open files of one process; the limit of the system is often 1024


class Files(Protocol):
    """Numbered files, local or remote; ``remote`` is True if a read is a network request."""

    parts: Sequence[Part]
    remote: bool

    def read(self, part: int, offset: int, size: int) -> bytes:
        """Return ``size`` bytes at ``offset`` of file ``part``; fewer at its end. Raises OSError."""


class LocalFiles:
    """Local files in the state in which they were indexed.

    Args:
        parts: their paths, sizes and time stamps.
    """

    remote = False

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._open: OrderedDict[int, int] = OrderedDict()  # handles, the most recently used one is last

    def read(self, part: int, offset: int, size: int) -> bytes:
        """See `Files`. Raises DataError if the file has changed since it was indexed: its offsets are invalid then."""
        handle = self._handle(part)
        _require_same(self.parts[part], os.fstat(handle))
        data = os.pread(handle, size, offset)
        while 0 < len(data) < size and (more := os.pread(handle, size - len(data), offset + len(data))):
            data += more
        return data

    def _handle(self, part: int) -> int:
        if part in self._open:
            self._open.move_to_end(part)
            return self._open[part]
        self._open[part] = handle = os.open(self.parts[part].path, os.O_RDONLY | os.O_CLOEXEC)
        if len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return handle

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "_open": OrderedDict()}  # another process opens its own handles

    def __del__(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


class Buffered:
    """Reads large blocks and returns parts of them; for sequential reads of remote files and of small adjacent ranges.

    Args:
        read: reads a byte range of the file.
        block: minimum number of bytes of one request.
    """

    def __init__(self, read: ReadAt, block: int) -> None:
        self._read, self._block = read, block
        self._start, self._data = 0, b""

    def __call__(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes at ``offset``; fewer at the end of the file. Raises OSError."""
        if not self._start <= offset <= offset + size <= self._start + len(self._data):
            self._start, self._data = offset, self._read(offset, max(size, self._block))
        return self._data[offset - self._start : offset - self._start + size]


def read_file(path: Path) -> bytes:
    """Return the content of a regular file of at most MAX_BYTES. Raises OSError, also for pipes and devices."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would block
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device, not a file")
        if status.st_size > MAX_BYTES:
            raise OSError(too_large(status.st_size))
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def too_large(size: int) -> str:
    """Return the message for an image file above the limit."""
    return f"{size:,} bytes are more than the limit of {MAX_BYTES:,}"


def local_parts(paths: Sequence[Path]) -> list[Part]:
    """Return what identifies these files. Raises OSError."""
    return [_part(str(path), path.stat()) for path in paths]


def require_unchanged(part: Part) -> None:
    """Raise DataError if the archive has changed since it was indexed, OSError if it does not exist."""
    _require_same(part, os.stat(part.path))


def _require_same(part: Part, now: os.stat_result) -> None:
    if _part(part.path, now) != part:
        raise DataError(
            f"{part.path} has changed since this run began.",
            expected="the archive as it was indexed",
            got="another size or modification time",
            to_do="start again: the archive is indexed again then",
        )


def _part(path: str, status: os.stat_result) -> Part:
    return Part(path, status.st_size, status.st_mtime_ns)
