"""File names: which files are images, which belong to an operating system, and how a name is printed."""

from __future__ import annotations

import importlib.util
import os

# Compared in lower case.
HEIF = (".heic", ".heif", ".hif")  # read if the extra "heif" is installed
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
BASIC = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
SUFFIXES = BASIC + HEIF if HAS_HEIF else BASIC
ARCHIVES = (".tar", ".zip", ".parquet")
SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"})


def is_picture(path: str) -> bool:
    """Return whether the name has the suffix of an image format; the content is not inspected."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def short_suffix(path: str) -> str:
    """Return the suffix of a name for a count of ignored files: lower case, empty for unusual ones."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if suffix[1:].isalnum() and len(suffix) <= 9 else ""


def is_hidden(part: str) -> bool:
    """Return whether one part of a path is hidden or a system folder: ``.git``, ``._x.jpg``, ``@eaDir``; not ``..``."""
    return (part.startswith(".") and part not in (".", "..")) or part.lower() in SYSTEM_NAMES


def has_hidden_part(path: str) -> bool:
    """Return whether any part of a path with forward slashes is hidden."""
    return any(map(is_hidden, path.split("/")))


def text(name: bytes) -> str:
    """Decode a file name as Python does: every byte string has a result, and `raw` inverts it."""
    return name.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """Encode a file name; the inverse of `text`."""
    return name.encode("utf-8", "surrogateescape")


def printable(name: str | bytes) -> str:
    """Return the name for display: bytes that are not UTF-8 and control characters are replaced by U+FFFD."""
    shown = (raw(name) if isinstance(name, str) else name).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)
