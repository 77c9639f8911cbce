"""Disk cache of bytes fetched from remote storage, with a size limit; all processes of a machine share it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

BUCKET = 2**26  # minimum bytes of a sub-folder; scanning one sub-folder must be fast
MAX_BUCKETS = 256


class ByteCache:
    """Least-recently-used cache on disk. A lost entry only costs another fetch, so no error reaches the caller.

    Entries are distributed evenly over sub-folders. Each sub-folder has an equal share of the limit and its own lock.

    Args:
        folder: directory of the entries; created if missing.
        limit: bytes on disk, over all processes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self._buckets = max(1, min(MAX_BUCKETS, limit // BUCKET))
        self._share = limit // self._buckets

    def get(self, key: str) -> bytes | None:
        """Return the bytes stored under ``key``, or None if they are missing or damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)  # marks the entry as recently used
        except OSError:
            return None
        checksum, data = content[:4], content[4:]
        return data if checksum == _checksum(data) else None

    def put(self, key: str, data: bytes) -> None:
        """Store ``data`` and delete the least recently used entries above the limit."""
        path = self._path(key)
        with contextlib.suppress(OSError), _locked(path.parent):
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            if _make_room(path.parent, self._share - len(data) - 4):
                temporary.write_bytes(_checksum(data) + data)  # detects files cut short by a power failure
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
    """Delete the least recently used entries until at most ``allowed`` bytes remain; return whether that succeeded."""
    pieces = [(entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in os.scandir(folder)]
    used = sum(size for _, size, _ in pieces)
    for _, size, path in sorted(pieces):
        if used <= allowed:
            break
        if size:  # the lock file is empty and must stay
            os.unlink(path)
            used -= size
    return used <= allowed


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")
