"""Image folders: the tree is listed once, then files are read by name."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lic_train.data.archives.index import Entry, Index, Listing, Part
from lic_train.data.archives.names import ARCHIVES, SUFFIXES, is_hidden, is_picture, printable, raw, short_suffix, text
from lic_train.data.archives.progress import number_found
from lic_train.data.archives.storage import read_file
from lic_train.errors import DataError

MAX_SIZE_CHECKS = 2**13  # files whose size is compared before a saved listing is used; in larger sets evenly spaced
SETTLED = 2 * 10**9  # nanoseconds after which any further change of a folder changes its time stamp
UNSETTLED = -1  # replaces a time stamp that is too recent to detect further changes


class NoPicture(DataError):
    """A folder contains no image; it may contain archives."""


class Found(NamedTuple):
    """Contents of one folder, sorted; paths are relative to the root."""

    below: str
    stamp: int
    pictures: list[os.DirEntry[str]]
    archives: list[str]
    hidden: int
    others: Counter[str]


def walk(root: Path) -> Iterator[Found]:
    """Yield the contents of ``root`` and of all folders below it; each folder is visited once.

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
            raise DataError(f"Cannot list {where}: {error.strerror}.", to_do="correct its permissions") from error
        if (status.st_dev, status.st_ino) in entered:  # a symbolic link back into the tree
            continue
        entered.add((status.st_dev, status.st_ino))
        folders, found = _sort_out(below, _stamp(status.st_mtime_ns), entries)
        pending += reversed(folders)  # sorted order, so that a folder with two paths always gets the same one
        yield found


def list_folder(root: Path) -> Index:
    """Return the index of all images below ``root``.

    Raises:
        DataError: a folder cannot be listed.
        NoPicture: there is no image.
    """
    listing, parts = Listing(), []
    with number_found(f"Listing {printable(str(root))}") as show:
        for found in walk(root):
            parts.append(Part(found.below, 0, found.stamp))
            for entry in found.pictures:
                listing.add(raw(_below(found.below, entry.name)), 0, 0, _size(entry.stat))
            listing.hidden += found.hidden
            listing.others += found.others
            show(len(listing))
    if not len(listing):
        raise NoPicture(
            f"No image below {printable(str(root))}.",
            expected=f"files ending in {' '.join(SUFFIXES)}, or archives of them",
            got=f"{listing.others.total():,} other files",
            to_do="correct data.root",
        )
    return Index.of(listing, parts)


def is_current(root: Path, index: Index) -> bool:
    """Return whether no folder and no size of a checked file has changed since the listing."""
    try:
        if any(os.stat(root / part.path).st_mtime_ns != part.stamp for part in index.parts):
            return False
    except OSError:
        return False
    step = -(-len(index) // MAX_SIZE_CHECKS)
    return all(_size((root / text(index.name(i))).stat) == index[i].size for i in range(0, len(index), step))


class FolderReader:
    """Reads files of a folder by name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, entry: Entry) -> bytes:
        """Return the current content of the whole file. Raises OSError."""
        return read_file(self.root / text(entry.name))


def _sort_out(below: str, stamp: int, entries: list[os.DirEntry[str]]) -> tuple[list[str], Found]:
    """Split the entries of one folder into sub-folders and everything else."""
    folders, pictures, archives, hidden = [], [], [], 0
    others: Counter[str] = Counter()
    for entry in entries:
        if is_hidden(entry.name):
            hidden += 1
        elif _is_folder(entry):
            folders.append(_below(below, entry.name))
        elif is_picture(entry.name) and (entry.is_symlink() or entry.is_file()):
            pictures.append(entry)  # broken links are included, so that they are reported as unreadable
        else:
            others[short_suffix(entry.name)] += 1
            if entry.name.lower().endswith(ARCHIVES):
                archives.append(_below(below, entry.name))
    return folders, Found(below, stamp, pictures, archives, hidden, others)


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _size(stat: Callable[[], os.stat_result]) -> int:
    """Return the size of a file in bytes, or 0 if it has no status; reading it reports the error."""
    try:
        return stat().st_size
    except OSError:
        return 0


def _stamp(mtime: int) -> int:
    return mtime if time.time_ns() - mtime > SETTLED else UNSETTLED
