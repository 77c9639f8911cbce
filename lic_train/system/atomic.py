"""Atomic file writes: after a kill, a power failure or a full disk a file has its old or its new content."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".*.tmp"  # glob pattern of the files that a killed process may leave behind
_NAME = re.compile(r"\.(.+)\.\d+\.tmp", re.DOTALL)


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
    temporary.unlink(missing_ok=True)  # a link would be followed
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def target_of(temporary: Path) -> str | None:
    """Return the name of the file that a temporary file was to replace; None for a file that `replace` did not make."""
    match = _NAME.fullmatch(temporary.name)
    return match[1] if match and temporary.is_file() and not temporary.is_symlink() else None


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
