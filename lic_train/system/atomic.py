"""Atomic file writes: after a kill, a power failure or a full disk a file has its old or its new content."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".*.tmp"  # glob pattern of the files that a killed process may leave behind


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file next to ``path``, flush it to the disk, and rename it to ``path``.

    Args:
        path: the file to write; missing parent folders are created.
        write: called with the path of the temporary file.

    Raises:
        OSError: the disk is full or the directory is not writable; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace the content of ``path`` by ``data``; see `replace`."""
    replace(path, lambda temporary: temporary.write_bytes(data))


def replace_text(path: Path, text: str) -> None:
    """Replace the content of ``path`` by UTF-8 text; see `replace`."""
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
