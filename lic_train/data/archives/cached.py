"""Indexes on disk: built once by one process, reused by the others, and rebuilt when the collection changes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from lic_train.data.archives.index import DamagedIndex, Index
from lic_train.data.archives.names import SUFFIXES
from lic_train.system.screen import say


def cached(folder: Path | None, key: str, is_current: Callable[[Index], bool], build: Callable[[], Index]) -> Index:
    """Return the index named ``key``: from disk if the file is valid and current, otherwise built and saved.

    Args:
        folder: directory of the index files; None disables the cache.
        key: identifies the collection, usually by its path.
        is_current: returns whether the collection is unchanged since the index was built.
        build: builds the index and shows a progress bar.
    """
    if folder is None:
        return build()
    rule = "\n".join([key, *SUFFIXES])  # an extra adds suffixes, and with them images
    path = folder / f"{sha256(os.fsencode(rule)).hexdigest()[:20]}.index"
    if (index := _usable(path, is_current)) is not None:
        return index
    with _locked(path, key):
        if (index := _usable(path, is_current)) is not None:  # built by another process in the meantime
            return index
        return _saved(build(), path)


def _usable(path: Path, is_current: Callable[[Index], bool]) -> Index | None:
    try:
        index = Index.open(path)
    except (DamagedIndex, OSError):
        return None
    return index if is_current(index) else None


def _saved(index: Index, path: Path) -> Index:
    """Save the index and map the file, which other processes share; return it unsaved if the file cannot be written."""
    try:
        index.save(path)
        return Index.open(path)
    except OSError as error:
        _warn(f"The index cannot be saved in {path.parent} ({error.strerror}); the next start rebuilds it")
        return index


@contextlib.contextmanager
def _locked(path: Path, key: str) -> Iterator[None]:
    """Hold the lock file of ``path``. Without support for locks, two processes may build the same index at once."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _warn(f"Waiting for another process that builds the index of {key}")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _warn(message: str) -> None:
    say(message, style="yellow")
