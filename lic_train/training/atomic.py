"""Files of a run that survive a kill and a power cut: the old one or the new one, and synced to the disk."""

import os
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".*.tmp"  # what a killed process may leave behind


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, sync it to the disk, then rename it over ``path``.

    Raises:
        OSError: the disk is full or the directory is not writable; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """``replace`` by UTF-8 text."""
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
