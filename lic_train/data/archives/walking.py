"""Builds the index of archives, with a progress bar, and rejects archives with too much damage."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lic_train.data.archives.cached import cached
from lic_train.data.archives.index import Index, Listing
from lic_train.data.archives.indexed import Cache, reading
from lic_train.data.archives.names import SUFFIXES, printable, raw
from lic_train.data.archives.progress import share_done
from lic_train.data.archives.scan import Scan
from lic_train.data.archives.storage import Buffered, Files
from lic_train.errors import DataError

MAX_LOST = 0.05  # fraction of the bytes of the archives that damage may make unreachable
REMOTE_BLOCK = 2**22  # bytes of one request for a part of a remote archive
REMOTE_AT_ONCE = 8  # remote archives that are indexed in parallel

Walk = Callable[[Scan], None]


def index_archives(walk: Walk, files: Files, cache: Cache, key: str) -> Index:
    """Return the index of these archives, from disk if a current one exists.

    Args:
        walk: finds the images of one archive.
        files: the archives.
        cache: directory of the index.
        key: identifies these archives: their kind, and the root that the user typed.

    Raises:
        DataError: an archive cannot be read, too much is damaged, or there is no image.
    """
    paths = [part.path for part in files.parts]

    def is_current(index: Index) -> bool:
        return index.parts == tuple(files.parts)

    index = cached(cache.folder, "\n".join([key, *paths]), is_current, lambda: _build(walk, files))
    if index.lost > MAX_LOST * sum(part.size for part in index.parts):
        raise _too_much_lost(index)
    if not len(index):
        raise DataError(
            f"No image in {places(paths)}.",
            expected=f"files ending in {' '.join(SUFFIXES)}",
            got=f"{sum(index.others.values()):,} other files",
            to_do="correct data.root",
        )
    return index


def places(paths: Sequence[str]) -> str:
    """Return one path, or the first of several and their number, for messages."""
    first, *rest = paths
    return printable(first) + (f" and {len(rest)} more" if rest else "")


def _build(walk: Walk, files: Files) -> Index:
    """Index all archives, with a progress bar."""
    paths = [part.path for part in files.parts]
    prefixes, listing = _prefixes(paths), Listing()

    def one(number: int) -> Listing:
        read: Callable[[int, int], bytes] = lambda offset, size: files.read(number, offset, size)  # noqa: E731
        if files.remote:
            read = Buffered(read, REMOTE_BLOCK)
        scan = Scan(read, number, files.parts[number], prefixes[number], advance)
        walk(scan)
        return scan.listing

    total = sum(part.size for part in files.parts)
    title = f"Indexing {places(paths)}"
    with (
        reading(places(paths)),
        share_done(title, total) as advance,
        ThreadPoolExecutor(REMOTE_AT_ONCE if files.remote else 1) as pool,
    ):
        for found in pool.map(one, range(len(paths))):
            listing.extend(found)
    return Index.of(listing, files.parts)


def _prefixes(paths: list[str]) -> list[bytes]:
    """Return the prefix of the names in each archive: empty for a single archive, otherwise its path without suffix."""
    if len(paths) == 1:
        return [b""]
    base = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [raw(os.path.splitext(os.path.relpath(path, base))[0]) + b"/" for path in paths]


def _too_much_lost(index: Index) -> DataError:
    total = sum(part.size for part in index.parts)
    return DataError(
        f"Too much of the archives is damaged: {index.lost:,} of {total:,} bytes cannot be reached.",
        expected=f"at most {MAX_LOST:.0%}",
        got="\n".join(f"{file}: {reason}" for file, reason in index.problems[:5]),
        to_do="download the archives again",
    )
