"""Reading untrusted files: regular files of bounded size, and names that are safe to print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

MAX_BYTES = 64 * 2**20  # per JSON or YAML file; results of 100,000 images take half of it
MAX_LINE = 2**16  # characters per line of a CSV file
_MAX_SHOWN = 120  # characters of a name
_MAX_MISTAKES = 3  # validation errors in one message


class Unreadable(Exception):
    """A file cannot be used; the message is the reason, without the path."""


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        Unreadable: the file is not a regular file, is too large, or is not valid JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not valid JSON: {_first_line(error)}") from error


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file with plain values only.

    Raises:
        Unreadable: the file is not a regular file, is too large, or is not valid YAML.
    """
    try:
        return yaml.safe_load(read_bytes(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unreadable(f"not valid YAML: {_first_line(error)}") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        Unreadable: the file is not a regular file (reading a pipe would block), or is larger than `MAX_BYTES`.
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
    """Yield the lines of a text file, split after `MAX_LINE` characters; yield nothing if it is not a regular file."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from iter(lambda: file.readline(MAX_LINE), "")


def mistakes(error: ValidationError) -> str:
    """Return pydantic's messages on one line, such as ``rows.3.psnr: Input should be a finite number``."""
    found = [f"{'.'.join(map(str, e['loc'])) or 'content'}: {e['msg']}" for e in error.errors(include_url=False)]
    more = f"; and {len(found) - _MAX_MISTAKES} more" if len(found) > _MAX_MISTAKES else ""
    return printable("; ".join(found[:_MAX_MISTAKES]), 300) + more


def printable(text: object, limit: int = _MAX_SHOWN) -> str:
    """Return ``text`` on one line of at most ``limit`` characters, safe for a web page or a terminal.

    Control, text-direction and undecodable characters are replaced by escape sequences.
    """
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def slug(text: str) -> str:
    """Return ``text`` reduced to lower-case letters, digits and underscores, for use in a key."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "unnamed"


def _first_line(error: BaseException) -> str:
    return printable((str(error) or type(error).__name__).splitlines()[0])
