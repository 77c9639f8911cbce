"""Images as numbered byte strings with names: an index of their locations and a reader that fetches them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from lic_train.data.archives import folders
from lic_train.data.archives.cached import cached
from lic_train.data.archives.fetched import ByteCache
from lic_train.data.archives.index import Entry, Index
from lic_train.data.archives.names import printable
from lic_train.errors import DataError


@contextmanager
def reading(what: str = "data.root") -> Iterator[None]:
    """Convert OSError into DataError. Also usable as a decorator of functions that open collections."""
    try:
        yield
    except OSError as error:
        where = printable(str(error.filename)) if error.filename else what
        raise DataError(
            f"Cannot read {where}: {error.strerror or error}.", to_do="correct its permissions, or data.root"
        ) from error


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Replace ``data.root`` by ``key`` in the messages of a command that has no such key."""
    try:
        yield
    except DataError as error:
        texts = (error.what, error.expected, error.got, error.to_do)
        what, expected, got, to_do = (text.replace("data.root", key) for text in texts)
        raise DataError(what, expected=expected, got=got, to_do=to_do) from error


class Cache(NamedTuple):
    """Directory of the indexes (None disables it), and the limit in bytes of the cache of remote data in it."""

    folder: Path | None = None
    limit: int = 0

    def pieces(self) -> ByteCache | None:
        """Return the cache of remote data, or None if it is disabled."""
        return ByteCache(self.folder / "fetched", self.limit) if self.folder and self.limit else None


class Reader(Protocol):
    """Fetches the bytes of one entry."""

    def read(self, entry: Entry) -> bytes:
        """Return the encoded image. Raises OSError if it cannot be read."""


class Indexed:
    """Images that are listed in an index and fetched by a reader."""

    def __init__(self, index: Index, reader: Reader) -> None:
        self.index, self.reader = index, reader

    def __len__(self) -> int:
        return len(self.index)

    def read(self, number: int) -> bytes:
        """Return the encoded file. Raises OSError if it cannot be read."""
        return self.reader.read(self.index[number])

    def name(self, number: int) -> str:
        """Return the printable path, relative to the root or in the archive."""
        return printable(self.index.name(number))


class FolderSource(Indexed):
    """All images in the tree below ``root``, sorted by name; hidden and system files are ignored.

    Raises:
        DataError: ``root`` is missing, is not a folder, cannot be listed or contains no image.
    """

    def __init__(self, root: str | os.PathLike[str] | None, cache: Cache = Cache()) -> None:  # noqa: B008  # immutable
        self.root = require_folder(root)
        index = cached(
            cache.folder,
            f"folder {self.root.resolve()}",
            lambda index: folders.is_current(self.root, index),
            lambda: folders.list_folder(self.root),
        )
        super().__init__(index, folders.FolderReader(self.root))


def require_folder(root: str | os.PathLike[str] | None) -> Path:
    """Return ``root`` as a path, with ``~`` expanded. Raises DataError if it is None, missing, or not a folder."""
    if root is None:
        raise DataError("data.root is not set.", to_do="add data.root=/path/to/the/images")
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(
            f"{path} cannot be used.", expected="a folder", got="a file", to_do="unpack it, or use its parent folder"
        )
    raise nothing_there(path)


def listing_of(path: Path, most: int = 6) -> str:
    """Return the first ``most`` names of a folder, for messages."""
    names = sorted(printable(entry.name) for entry in os.scandir(path) if not entry.name.startswith("."))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def nothing_there(path: Path) -> DataError:
    """Return the error for a path that does not exist."""
    parent = next((p for p in path.absolute().parents if p.is_dir()), Path("/"))
    return DataError(
        f"No folder or archive {path}.", got=f"{parent} contains {listing_of(parent)}", to_do="correct data.root"
    )
