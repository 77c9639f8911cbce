"""Folders and tars at an address such as ``s3://bucket/shards``, on any file system that fsspec supports.

A temporary network failure must not change the training data. Every request is repeated for a minute and a half; then
the run stops, and the same command resumes it. Only a file that does not exist counts as unreadable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lic_train.data.archives.fetched import ByteCache
from lic_train.data.archives.index import Entry, Index, Listing, Part, name_hash
from lic_train.data.archives.names import has_hidden_part, is_picture, printable, raw, short_suffix, text
from lic_train.data.archives.storage import MAX_BYTES, too_large
from lic_train.errors import DataError

T = TypeVar("T")

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)  # seconds between attempts
FIRST_DELAYS = DELAYS[:4]  # at the start of a run, so that a wrong address is reported soon
AT_ONCE = 8  # parallel requests
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated", "created")


class Remote:
    """One remote file system; every process opens its own connection."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._process, self._system = -1, None

    @property
    def system(self) -> Any:
        """The fsspec file system. Raises DataError if no file system supports the address."""
        if self._process != os.getpid():
            self._process, self._system = os.getpid(), _system(self.address)
        return self._system

    def path(self, address: str) -> str:
        """Return the address in the notation of the file system."""
        return self.system._strip_protocol(address)

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern."""
        return self.ask(pattern, lambda system: system.glob(pattern), FIRST_DELAYS)

    def kind(self, path: str) -> str | None:
        """Return "file", "directory" or None. (``isdir`` of fsspec returns False if the network fails.)"""
        try:
            return self.ask(path, lambda system: system.info(path), FIRST_DELAYS)["type"]
        except FINAL:
            return None

    def part(self, path: str, delays: Sequence[float]) -> Part:
        """Return what identifies the file. For the errors see `ask`."""
        info = self.ask(path, lambda system: system.info(path), delays)
        return Part(path, info["size"], _stamp(info))

    def find(self, path: str) -> dict[str, Any]:
        """Return all files below the path, with the details that fsspec provides."""
        return self.ask(path, lambda system: system.find(path, detail=True), FIRST_DELAYS)

    def ask(self, what: str, request: Callable[[Any], T], delays: Sequence[float] = DELAYS) -> T:
        """Return ``request(system)``; a failed request is repeated after each of the delays.

        Raises:
            OSError: the file does not exist, or may not be read.
            DataError: no answer after all attempts.
        """
        for delay in delays:
            try:
                return request(self.system)
            except (*FINAL, DataError):
                raise
            except Exception:  # each file system raises the exceptions of its own library
                time.sleep(delay)
        try:
            return request(self.system)
        except FINAL:
            raise
        except Exception as error:
            raise DataError(
                f"Cannot read {what}: {error or type(error).__name__}.",
                expected=f"an answer within {len(delays) + 1} attempts over {sum(delays):.0f} seconds",
                to_do="check address, credentials and network; the same command resumes the run",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "_process": -1, "_system": None}


class RemoteFiles:
    """Byte ranges of remote files; see `lic_train.data.archives.storage.Files`.

    Args:
        system: their file system.
        parts: their addresses, sizes and stamps.
        cache: cache of the ranges; None disables it.
    """

    remote = True

    def __init__(self, system: Remote, parts: Sequence[Part], cache: ByteCache | None) -> None:
        self.system, self.parts, self.cache = system, parts, cache
        self._seen: set[int] = set()

    def read(self, part: int, offset: int, size: int) -> bytes:
        """See `Files`. Raises DataError if there is no answer, or if the file has changed since it was indexed."""
        path, end = self.parts[part].path, min(offset + size, self.parts[part].size)
        key = f"{self.parts[part]} {offset} {end}"
        return _through(self.cache, key, lambda: self._fetch(part, path, offset, end))

    def _fetch(self, part: int, path: str, start: int, end: int) -> bytes:
        if part not in self._seen:
            if (now := self.system.part(path, DELAYS)) != self.parts[part]:
                raise DataError(
                    f"{path} has changed since it was indexed.",
                    expected=str(self.parts[part]),
                    got=str(now),
                    to_do="start again: it is indexed again then",
                )
            self._seen.add(part)
        return self.system.ask(path, lambda system: system.cat_file(path, start=start, end=end))


class RemoteFolderReader:
    """Reads whole remote files by name.

    Args:
        remote: their file system.
        root: the folder.
        cache: cache of the files; None disables it.
    """

    def __init__(self, remote: Remote, root: str, cache: ByteCache | None) -> None:
        self.remote, self.root, self.cache = remote, root, cache

    def read(self, entry: Entry) -> bytes:
        """Return the whole file. Raises OSError or DataError."""
        path = f"{self.root.rstrip('/')}/{text(entry.name)}"
        key = f"{self.remote.address} {path} {entry.size} {entry.offset}"
        return _through(self.cache, key, lambda: self._fetch(path, entry.size))

    def _fetch(self, path: str, size: int) -> bytes:
        data = self.remote.ask(path, lambda system: system.cat_file(path))
        if len(data) != size:
            raise OSError(f"{len(data):,} bytes were received where {size:,} were listed")
        return data


def remote_parts(remote: Remote, paths: Sequence[str]) -> list[Part]:
    """Return what identifies these files. Raises DataError if one does not exist."""
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda path: remote.part(path, FIRST_DELAYS), paths))
    except FINAL as error:
        raise DataError(f"No file {error} of {remote.address}.", to_do="correct data.root") from error


def list_remote(root: str, files: dict[str, Any]) -> Index:
    """Return the index of the images among ``files``, which maps paths below ``root`` to the details from fsspec.

    The offset of an entry is a hash of the stamp of the file, so that the cache never returns an outdated file.
    """
    listing = Listing()
    for path, info in files.items():
        name = path[len(root) :].lstrip("/")
        if has_hidden_part(name):
            listing.hidden += 1
        elif not is_picture(name):
            listing.others[short_suffix(name)] += 1
        elif info["size"] > MAX_BYTES:
            listing.report(printable(name), too_large(info["size"]))
        else:
            listing.add(raw(name), 0, name_hash(_stamp(info).encode()) >> 1, info["size"])
    return Index.of(listing, [])


def _through(cache: ByteCache | None, key: str, fetch: Callable[[], bytes]) -> bytes:
    if cache is None:
        return fetch()
    if (data := cache.get(key)) is None:
        data = fetch()
        cache.put(key, data)
    return data


def _stamp(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in STAMPS if info.get(key) is not None), ""))


def _system(address: str) -> Any:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise DataError(f"{address} needs fsspec.", to_do="pip install 'lic-train[remote]'") from error
    try:
        return url_to_fs(address)[0]
    except (ImportError, ValueError) as error:
        raise DataError(
            f"Cannot open {address}: {error}", to_do="correct data.root, or install the package for this protocol"
        ) from error
