"""Reading what strangers may have written: regular files of bounded size, and names that are safe to show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

MAX_BYTES = 64 * 2**20  # of one JSON or YAML file; 100,000 pictures need half of it
_MAX_LINE = 2**16  # of a CSV file
_MAX_SHOWN = 120  # characters of a name
_NAMED = 3  # mistakes that a reason names


class Unreadable(Exception):
    """A file cannot be used; the message is the reason, without the path."""


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        Unreadable: no regular file, too large, or no JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"no JSON: {_first_line(error)}") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, plain values only.

    Raises:
        Unreadable: no regular file, too large, or no YAML.
    """
    try:
        return yaml.safe_load(read_bytes(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unreadable(f"no YAML: {_first_line(error)}") from error


def read_bytes(path: Path) -> bytes:
    """All of a file.

    Raises:
        Unreadable: no regular file (a pipe would wait for ever), or more than MAX_BYTES.
    """
    try:
        if not path.is_file():
            raise Unreadable("the file is missing" if not path.exists() else "not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(error.strerror or type(error).__name__) from error
    if len(data) > MAX_BYTES:
        raise Unreadable(f"more than {MAX_BYTES >> 20} MiB")
    return data


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, in pieces where one is longer than any of ours; nothing if there is no such file."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from iter(lambda: file.readline(_MAX_LINE), "")


def mistakes(error: ValidationError) -> str:
    """What pydantic found, in one line: ``rows.3.psnr: Input should be a finite number``."""
    found = [f"{'.'.join(map(str, e['loc'])) or 'content'}: {e['msg']}" for e in error.errors(include_url=False)]
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return printable("; ".join(found[:_NAMED]), 300) + more


def printable(text: object, limit: int = _MAX_SHOWN) -> str:
    """``text`` on one line, safe for a page or a terminal: control, direction and undecodable characters as codes."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def slug(text: str) -> str:
    """``text`` as a part of a key: small letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "unnamed"


def _first_line(error: BaseException) -> str:
    return printable((str(error) or type(error).__name__).splitlines()[0])
