"""Bytes fetched from far away, kept on the local disk up to a limit; all processes of a machine share them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

BUCKET = 2**26  # bytes that a sub-folder holds at least: looking over it must not take long
MAX_BUCKETS = 256


class ByteCache:
    """Keeps what was used last. Losing any of it costs a fetch and nothing else, so no error reaches the caller.

    The pieces are spread evenly over sub-folders, each with its share of the limit and a lock of its own.

    Args:
        folder: of the pieces; it is made.
        limit: bytes on the disk, over all processes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self._buckets = max(1, min(MAX_BUCKETS, limit // BUCKET))
        self._share = limit // self._buckets

    def get(self, key: str) -> bytes | None:
        """What was put under this key, None if it is not there or damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)  # used just now
        except OSError:
            return None
        checksum, data = content[:4], content[4:]
        return data if checksum == _checksum(data) else None

    def put(self, key: str, data: bytes) -> None:
        """Keep ``data``, and drop what has not been used for longest."""
        path = self._path(key)
        with contextlib.suppress(OSError), _locked(path.parent):
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            if _make_room(path.parent, self._share - len(data) - 4):
                temporary.write_bytes(_checksum(data) + data)  # a power cut may leave half of it: hence the checksum
                os.replace(temporary, path)

    def _path(self, key: str) -> Path:
        name = sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / f"{int(name[:8], 16) % self._buckets:03d}" / name[8:]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_room(folder: Path, allowed: int) -> bool:
    """Delete the pieces used least lately until ``allowed`` bytes or fewer are left; False if that cannot be."""
    pieces = [(entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in os.scandir(folder)]
    used = sum(size for _, size, _ in pieces)
    for _, size, path in sorted(pieces):
        if used <= allowed:
            break
        if size:  # the lock has none
            os.unlink(path)
            used -= size
    return used <= allowed


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")
