"""Whether two configurations are the same run, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

# What cannot change the result of a run, so that it may differ when the run is continued. A name stands for the whole
# section below it. data.root is not among them: another folder may hold other photographs.
FREE_KEYS = (
    "checkpoint",
    "choice",
    "compile",
    "data.num_workers",
    "data.source.cache",
    "data.source.cache_gib",
    "eval",
    "fresh",
    "group",
    "logger",
    "output",
    "trainer",
)
ABSENT = "(absent)"
# No configuration of this project is deeper or larger. A YAML file of a few lines can stand for billions of values.
_MAX_DEPTH = 8
_MAX_VALUES = 10_000


@dataclass(frozen=True)
class Difference:
    """One value that differs; ``ABSENT`` on the side that does not have the key."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    """Everything that makes ``new`` another run than ``old``, by dotted key; see `FREE_KEYS`."""
    before, after = (dict(islice(_flat(config), _MAX_VALUES)) for config in (old, new))
    pairs = ((key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in sorted(before.keys() | after.keys()))
    return [Difference(key, a, b) for key, a, b in pairs if a != b and not _is_free(key)]


def _flat(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """``{"a": {"b": [1]}}`` -> ``("a.b.0", 1)``; empty containers stay as they are, and deeper values become "…"."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        yield prefix, value
    elif depth == _MAX_DEPTH:
        yield prefix, "…"
    else:
        for key, child in items:
            yield from _flat(child, f"{prefix}.{key}".lstrip("."), depth + 1)


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
