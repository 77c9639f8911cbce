"""Pictures as numbered bytes with names: an index of where they lie, and a reader that fetches them."""

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
    """Tell a disk's or a network's refusal as a DataError. Also a decorator, for functions that open collections."""
    try:
        yield
    except OSError as error:
        where = printable(str(error.filename)) if error.filename else what
        raise DataError(
            f"cannot read {where}: {error.strerror or error}.\n  to do     mend its permissions, or correct data.root"
        ) from error


class Cache(NamedTuple):
    """Where indexes are kept (None: nowhere), and how many bytes fetched from afar may lie beside them."""

    folder: Path | None = None
    limit: int = 0

    def pieces(self) -> ByteCache | None:
        """Keeps what is fetched, None if nothing is to be kept."""
        return ByteCache(self.folder / "fetched", self.limit) if self.folder and self.limit else None


class Reader(Protocol):
    """Fetches the bytes of one entry."""

    def read(self, entry: Entry) -> bytes:
        """The encoded picture. Raises OSError if it cannot be read."""


class Indexed:
    """Pictures that an index knows and a reader fetches."""

    def __init__(self, index: Index, reader: Reader) -> None:
        self.index, self.reader = index, reader

    def __len__(self) -> int:
        return len(self.index)

    def read(self, number: int) -> bytes:
        """The encoded file. Raises OSError if it cannot be read."""
        return self.reader.read(self.index[number])

    def name(self, number: int) -> str:
        """The path below the root or in the archive, printable."""
        return printable(self.index.name(number))


class FolderSource(Indexed):
    """Every picture in the tree below ``root``, sorted by name; hidden and system files are left out.

    Raises:
        DataError: ``root`` is missing, is no folder, cannot be listed or holds no picture.
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
    """``root`` as a path, with ``~`` replaced. Raises DataError if it is not given, not there, or no folder."""
    if root is None:
        raise DataError("data.root is not given.\n  to do     add data.root=/where/the/photographs/are")
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"expected a folder, got the file {path}.\n  to do     unpack it, or give the folder around it")
    raise nothing_there(path)


def listing_of(path: Path, most: int = 6) -> str:
    """The first names of a folder, for messages."""
    names = sorted(printable(entry.name) for entry in os.scandir(path) if not entry.name.startswith("."))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def nothing_there(path: Path) -> DataError:
    """The error for a path that does not exist."""
    parent = next((p for p in path.absolute().parents if p.is_dir()), Path("/"))
    return DataError(
        f"no folder or archive {path}.\n  got       {parent} with {listing_of(parent)}\n  to do     correct data.root"
    )
