"""A tree of pictures: listed once, read file by file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lic_train.data.archives.index import Entry, Index, Listing, Part
from lic_train.data.archives.names import ARCHIVES, SUFFIXES, is_hidden, is_picture, printable, raw, text
from lic_train.data.archives.progress import number_found
from lic_train.data.archives.storage import read_file
from lic_train.errors import DataError

LOOKED_AT = 2**13  # files whose size is compared before an old listing is used; above that, evenly spaced ones
SETTLED = 2 * 10**9  # nanoseconds after which a folder's time stamp must have moved if the folder has changed
UNSETTLED = -1  # stands for a time stamp that proves nothing


class NoPicture(DataError):
    """There is no picture below a folder; perhaps there are archives."""


class Found(NamedTuple):
    """The contents of one folder: paths below the root, in order."""

    below: str
    stamp: int
    pictures: list[os.DirEntry[str]]
    archives: list[str]
    hidden: int
    others: int


def walk(root: Path) -> Iterator[Found]:
    """Look into ``root`` and all folders below it; each real folder is entered once.

    Raises:
        DataError: a folder cannot be listed.
    """
    entered, pending = set(), [""]
    while pending:
        below = pending.pop()
        try:
            status = os.stat(root / below)
            entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
        except OSError as error:
            where = printable(str(root / below))
            raise DataError(f"cannot list {where}: {error.strerror}.\n  to do     mend its permissions") from error
        if (status.st_dev, status.st_ino) in entered:  # a symbolic link back into the tree
            continue
        entered.add((status.st_dev, status.st_ino))
        folders, found = _sort_out(below, _stamp(status.st_mtime_ns), entries)
        pending += reversed(folders)  # in order, so that a folder reached twice always gets the same name
        yield found


def list_folder(root: Path) -> Index:
    """The index of all pictures below ``root``.

    Raises:
        DataError: a folder cannot be listed.
        NoPicture: there is none.
    """
    listing, parts = Listing(), []
    with number_found(f"Listing {printable(str(root))}") as tell:
        for found in walk(root):
            parts.append(Part(found.below, 0, found.stamp))
            for entry in found.pictures:
                listing.add(raw(_below(found.below, entry.name)), 0, 0, _size(entry.stat))
            listing.hidden += found.hidden
            listing.others += found.others + len(found.archives)
            tell(len(listing))
    if not len(listing):
        raise NoPicture(
            f"no image below {printable(str(root))}.\n  expected  files ending in {' '.join(SUFFIXES)}, or archives of "
            f"them\n  got       {listing.others} other files\n  to do     correct data.root"
        )
    return Index.of(listing, parts)


def is_current(root: Path, index: Index) -> bool:
    """Whether no folder has changed since it was listed, nor the size of any file that is looked at."""
    try:
        if any(os.stat(root / part.path).st_mtime_ns != part.stamp for part in index.parts):
            return False
    except OSError:
        return False
    step = -(-len(index) // LOOKED_AT)
    return all(_size((root / text(index.name(i))).stat) == index[i].size for i in range(0, len(index), step))


class FolderReader:
    """Reads the files of a folder by their names."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, entry: Entry) -> bytes:
        """The whole file as it is now. Raises OSError."""
        return read_file(self.root / text(entry.name))


def _sort_out(below: str, stamp: int, entries: list[os.DirEntry[str]]) -> tuple[list[str], Found]:
    """The sub-folders of one folder, and what else is in it."""
    folders, pictures, archives, hidden, others = [], [], [], 0, 0
    for entry in entries:
        if is_hidden(entry.name):
            hidden += 1
        elif _is_folder(entry):
            folders.append(_below(below, entry.name))
        elif is_picture(entry.name) and (entry.is_symlink() or entry.is_file()):
            pictures.append(entry)  # a broken link stays in, to be named as unreadable rather than vanish
        elif entry.name.lower().endswith(ARCHIVES):
            archives.append(_below(below, entry.name))
        else:
            others += 1
    return folders, Found(below, stamp, pictures, archives, hidden, others)


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(look: Callable[[], os.stat_result]) -> int:
    """Bytes of a file; 0 for one that cannot be looked at, which reading will name."""
    try:
        return look().st_size
    except OSError:
        return 0


def _stamp(mtime: int) -> int:
    return mtime if time.time_ns() - mtime > SETTLED else UNSETTLED
