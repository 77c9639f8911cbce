"""Folders and tars that lie at an address, such as ``s3://bucket/shards``: any file system that fsspec knows.

A network that fails for a moment must not change what a run trains on: every request is repeated for a minute and a
half, and then the run stops, to be continued by the same command. Only a file that is not there counts as unreadable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lic_train.data.archives.fetched import ByteCache
from lic_train.data.archives.index import Entry, Index, Listing, Part, name_hash
from lic_train.data.archives.names import has_hidden_part, is_picture, printable, raw, text
from lic_train.data.archives.storage import MAX_BYTES, too_large
from lic_train.errors import DataError

T = TypeVar("T")

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)  # seconds between attempts
FIRST_DELAYS = DELAYS[:4]  # while the user watches: a wrong address shall not take long to be told
AT_ONCE = 8  # questions
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated", "created")


class Remote:
    """One file system; every process makes its own connection."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._process, self._system = -1, None

    @property
    def system(self) -> Any:
        """The fsspec file system. Raises DataError if there is none for the address."""
        if self._process != os.getpid():
            self._process, self._system = os.getpid(), _system(self.address)
        return self._system

    def path(self, address: str) -> str:
        """The address as the file system writes it."""
        return self.system._strip_protocol(address)

    def glob(self, pattern: str) -> list[str]:
        """The paths that fit a pattern."""
        return self.ask(pattern, lambda system: system.glob(pattern), FIRST_DELAYS)

    def kind(self, path: str) -> str | None:
        """ "file", "directory" or None for nothing. (fsspec's own ``isdir`` takes a failing network for a no.)"""
        try:
            return self.ask(path, lambda system: system.info(path), FIRST_DELAYS)["type"]
        except FINAL:
            return None

    def part(self, path: str, delays: Sequence[float]) -> Part:
        """What identifies the file. For the errors see `ask`."""
        info = self.ask(path, lambda system: system.info(path), delays)
        return Part(path, info["size"], _stamp(info))

    def find(self, path: str) -> dict[str, Any]:
        """All files below the path, with what fsspec says of them."""
        return self.ask(path, lambda system: system.find(path, detail=True), FIRST_DELAYS)

    def ask(self, what: str, request: Callable[[Any], T], delays: Sequence[float] = DELAYS) -> T:
        """The answer to ``request(system)``, asked for again after each of the delays.

        Raises:
            OSError: the file is not there, or may not be read.
            DataError: no answer after all delays.
        """
        for delay in delays:
            try:
                return request(self.system)
            except (*FINAL, DataError):
                raise
            except Exception:  # each file system raises what its library raises
                time.sleep(delay)
        try:
            return request(self.system)
        except FINAL:
            raise
        except Exception as error:
            raise DataError(
                f"cannot read {what}: {error or type(error).__name__}.\n  expected  an answer within "
                f"{len(delays) + 1} attempts over {sum(delays):.0f} seconds\n"
                "  to do     check address, credentials and network; the same command goes on where the run stopped"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "_process": -1, "_system": None}


class RemoteFiles:
    """Pieces of remote files, read by range; see `lic_train.data.archives.storage.Files`.

    Args:
        system: where they lie.
        parts: their addresses, sizes and stamps.
        cache: keeps the pieces; None for none.
    """

    remote = True

    def __init__(self, system: Remote, parts: Sequence[Part], cache: ByteCache | None) -> None:
        self.system, self.parts, self.cache = system, parts, cache
        self._seen: set[int] = set()

    def read(self, part: int, offset: int, size: int) -> bytes:
        """See `Files`. Raises DataError if there is no answer, or the file is not the one that was indexed."""
        path, end = self.parts[part].path, min(offset + size, self.parts[part].size)
        key = f"{self.parts[part]} {offset} {end}"
        return _through(self.cache, key, lambda: self._fetch(part, path, offset, end))

    def _fetch(self, part: int, path: str, start: int, end: int) -> bytes:
        if part not in self._seen:
            if (now := self.system.part(path, DELAYS)) != self.parts[part]:
                raise DataError(f"{path} has changed since it was indexed ({now} now).\n  to do     start again")
            self._seen.add(part)
        return self.system.ask(path, lambda system: system.cat_file(path, start=start, end=end))


class RemoteFolderReader:
    """Reads whole remote files by their names.

    Args:
        remote: their file system.
        root: the folder.
        cache: keeps them; None for none.
    """

    def __init__(self, remote: Remote, root: str, cache: ByteCache | None) -> None:
        self.remote, self.root, self.cache = remote, root, cache

    def read(self, entry: Entry) -> bytes:
        """The whole file. Raises OSError or DataError."""
        path = f"{self.root.rstrip('/')}/{text(entry.name)}"
        key = f"{self.remote.address} {path} {entry.size} {entry.offset}"
        return _through(self.cache, key, lambda: self._fetch(path, entry.size))

    def _fetch(self, path: str, size: int) -> bytes:
        data = self.remote.ask(path, lambda system: system.cat_file(path))
        if len(data) != size:
            raise OSError(f"{len(data):,} bytes came where {size:,} were listed")
        return data


def remote_parts(remote: Remote, paths: Sequence[str]) -> list[Part]:
    """What identifies these files. Raises DataError if one is not there."""
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda path: remote.part(path, FIRST_DELAYS), paths))
    except FINAL as error:
        raise DataError(f"no file {error} of {remote.address}.\n  to do     correct data.root") from error


def list_remote(root: str, files: dict[str, Any]) -> Index:
    """The index of the pictures among ``files``, which maps paths below ``root`` to what fsspec says of them.

    An entry's offset is no place: it changes with the file's stamp, so that nothing outdated is taken from the cache.
    """
    listing = Listing()
    for path, info in files.items():
        name = path[len(root) :].lstrip("/")
        if has_hidden_part(name):
            listing.hidden += 1
        elif not is_picture(name):
            listing.others += 1
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
        raise DataError("Addresses need fsspec.\n  to do     pip install 'lic-train[remote]'") from error
    try:
        return url_to_fs(address)[0]
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot open {address}: {error}") from error
