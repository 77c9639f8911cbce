"""Reading untrusted files: one reader for each format, with limits, and names that are safe to print.

Each reader accepts regular files of bounded size only, and returns plain values of bounded depth and number, or raises
`Unreadable`. What the values mean is checked by the caller, usually with pydantic.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

MAX_BYTES = 64 * 2**20  # per JSON file; results of 100,000 images take half of it
MAX_YAML_BYTES = 2**18  # a configuration has 5 kB, and PyYAML reads a megabyte in ten seconds
MAX_LINE = 2**16  # characters per line of a CSV file
MAX_DEPTH = 32  # containers inside each other
MAX_VALUES = 2**16  # of a configuration, counted as often as YAML aliases and shared objects repeat them
MAX_JSON_VALUES = 2**22  # per JSON file, which cannot repeat values
MAX_BITS = 64  # of an integer; Python cannot print one of 2**14 bits, nor convert one of 2**10 bits to a float
_MAX_SHOWN = 120  # characters of a name
_MAX_MISTAKES = 3  # validation errors in one message


class Unreadable(Exception):
    """A file cannot be used; the message is the reason, without the path."""


class _Loader(yaml.SafeLoader):
    """Loader without merge keys (``<<``), which can multiply the entries of a mapping without bound."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Keep the merge key as it is, for which no constructor exists."""


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        Unreadable: the file is not a regular file, is too large, or is not valid JSON within the limits of `plain`.
    """
    return parse_json(read_bytes(path))


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        Unreadable: it is not valid JSON within the limits of `plain`.
    """
    comma = b"," if isinstance(data, bytes) else ","
    if data.count(comma) > MAX_JSON_VALUES:  # type: ignore[arg-type]  # before parsing, which takes 64 bytes for "[],"
        raise Unreadable(f"more than {MAX_JSON_VALUES:,} values")
    try:
        return plain(json.loads(data), MAX_JSON_VALUES)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not valid JSON: {_first_line(error)}") from error


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file. Interpolations such as ``${oc.env:HOME}`` remain text.

    Raises:
        Unreadable: the file is not a regular file, is too large, or is not valid YAML within the limits of `plain`.
    """
    data = read_bytes(path, MAX_YAML_BYTES)
    try:
        content = yaml.load(data, _Loader)
    except Exception as error:  # PyYAML raises IndexError, KeyError, AttributeError, ... for invalid scalars
        raise Unreadable(f"not valid YAML: {_first_line(error)}") from error
    return plain(content)


def plain(content: Any, most: int = MAX_VALUES) -> Any:
    """Return ``content`` if it consists of dictionaries, lists, strings, numbers, booleans and None, within limits.

    Raises:
        Unreadable: another type, more than `MAX_DEPTH` levels (a cycle has infinitely many), more than ``most``
            values, an integer of more than `MAX_BITS` bits, or text that is not Unicode.
    """
    count, layer = 0, [content]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in layer:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
            else:
                _check_scalar(value)
            if count + len(below) > most:
                raise Unreadable(f"more than {most:,} values")
        if not below:
            return content
        count, layer = count + len(below), below
    raise Unreadable(f"more than {MAX_DEPTH} levels of lists and mappings")


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise Unreadable("text with half of a surrogate pair, which is not Unicode")
    elif isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise Unreadable(f"an integer of more than {MAX_BITS} bits")
    elif value is not None and type(value) is not float:
        raise Unreadable(f"a value of type {type(value).__name__}")


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Return the content of a file.

    Raises:
        Unreadable: the file is not a regular file, or is larger than ``limit`` bytes; None is `MAX_BYTES`.
    """
    limit = MAX_BYTES if limit is None else limit
    try:
        require_file(path)
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Unreadable(error.strerror or type(error).__name__) from error
    if len(data) > limit:
        raise Unreadable(f"more than {limit / 2**20:g} MiB")
    return data


def require_file(path: Path) -> None:
    """Check that ``path`` is a regular file: opening a pipe would block.

    Raises:
        Unreadable: it is something else, or missing.
    """
    try:
        if not path.is_file():
            raise Unreadable("the file is missing" if not path.exists() else "not a regular file")
    except ValueError as error:  # a null character in the path
        raise Unreadable(str(error)) from error


def rows(source: Iterable[str]) -> Iterator[list[str]]:
    """Yield the rows of a CSV file up to the first one that is not valid.

    Args:
        source: its lines; see `lines`.
    """
    try:
        yield from csv.reader(source)
    except (csv.Error, OSError):  # the remaining content is not a table
        return


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
