"""Files that survive a kill, a power cut and a full disk: the old one or the new one, never half of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".*.tmp"  # what a killed process may leave behind


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, bring it to the disk, then move it into place.

    Raises:
        OSError: the disk is full or the directory is not writable; the old file is untouched.
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
    """`replace` by ``data``."""
    replace(path, lambda temporary: temporary.write_bytes(data))


def replace_text(path: Path, text: str) -> None:
    """`replace` by UTF-8 text."""
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
