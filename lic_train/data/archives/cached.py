"""Indexes on disk: made once, by one process of those that ask, and made anew when the collection changes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from rich import get_console

from lic_train.data.archives.index import DamagedIndex, Index


def cached(folder: Path | None, key: str, is_current: Callable[[Index], bool], build: Callable[[], Index]) -> Index:
    """The index named ``key``, from disk if it is whole and current, else built and put there.

    Args:
        folder: of the indexes; None keeps none.
        key: what the index is of: the place of the collection.
        is_current: whether the collection is still as it was when the index was made.
        build: makes the index, with a progress bar.
    """
    if folder is None:
        return build()
    path = folder / f"{sha256(os.fsencode(key)).hexdigest()[:20]}.index"
    if (index := _usable(path, is_current)) is not None:
        return index
    with _alone(path, key):
        if (index := _usable(path, is_current)) is not None:  # made while we waited
            return index
        return _kept(build(), path)


def _usable(path: Path, is_current: Callable[[Index], bool]) -> Index | None:
    try:
        index = Index.open(path)
    except (DamagedIndex, OSError):
        return None
    return index if is_current(index) else None


def _kept(index: Index, path: Path) -> Index:
    """The index as it was written, which other processes can share; as it is where nothing can be written."""
    try:
        index.save(path)
        return Index.open(path)
    except OSError as error:
        _say(f"The index cannot be kept in {path.parent} ({error.strerror}); the next start makes it again")
        return index


@contextlib.contextmanager
def _alone(path: Path, key: str) -> Iterator[None]:
    """Hold the lock beside ``path``; where there can be no lock, two processes make the same index at once."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"Waiting for another process, which is making the index of {key}")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(message: str) -> None:
    get_console().print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)
