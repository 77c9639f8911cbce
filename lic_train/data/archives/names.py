"""Which files count as pictures, which as the leavings of an operating system, and how a name is shown."""

from __future__ import annotations

import os

# Compared in lower case.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
ARCHIVES = (".tar", ".zip", ".parquet")
SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"})


def is_picture(path: str) -> bool:
    """Whether the name ends as a picture's does; what is inside is seen when it is decoded."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def is_hidden(part: str) -> bool:
    """Whether one part of a path is hidden or a system's own: ``.git``, ``._x.jpg``, ``__MACOSX``; not ``..``."""
    return (part.startswith(".") and part not in (".", "..")) or part.lower() in SYSTEM_NAMES


def has_hidden_part(path: str) -> bool:
    """Whether any part of a path with forward slashes is hidden."""
    return any(map(is_hidden, path.split("/")))


def text(name: bytes) -> str:
    """The name as Python spells file names: every sequence of bytes has one, and it is turned back by `raw`."""
    return name.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """The inverse of `text`."""
    return name.encode("utf-8", "surrogateescape")


def printable(name: str | bytes) -> str:
    """The name for the eye: what is no text, or would move the cursor, becomes U+FFFD."""
    shown = (raw(name) if isinstance(name, str) else name).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)
