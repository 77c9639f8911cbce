"""Comparison of two configurations: whether they describe the same run, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

# Keys that do not change the result of a run, so they may differ when the run is resumed. The name of a section
# includes all keys below it. data.root is not in the list: another folder may contain other images, which the manifest
# of the run decides (`lic_train.runs.claim`).
FREE_KEYS = (
    "checkpoint",
    "choice",
    "compile",
    "data.num_workers",
    "data.source.cache",
    "data.source.cache_gib",
    "eval",
    "extend",
    "fresh",
    "group",
    "logger",
    "output",
    "recipe.downscale",  # data.downscale and data.flip have the values that count
    "recipe.flip",
    "trainer",
    "validate.bitstreams",
    "validate.every",
)
ABSENT = "(absent)"
# Keys that earlier versions did not store, with the value that they had in effect.
_ADDED = {
    "data.downscale": None,
    "rate.kind": "fixed",
    "rate.lambdas": None,
    "recipe.downscale": None,
    "recipe.initial_weights": "random",
}
# Larger than any configuration of this project. The limits are needed because a short YAML file can expand to billions
# of values by aliases.
_MAX_DEPTH = 8
_MAX_VALUES = 10_000


@dataclass(frozen=True)
class Difference:
    """One value that differs; ``ABSENT`` on the side that lacks the key."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    """Return the values, sorted by dotted key, that make ``new`` a different run from ``old``; see `FREE_KEYS`."""
    before, after = (_ADDED | dict(islice(_flat(config), _MAX_VALUES)) for config in (old, new))
    pairs = ((key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in sorted(before.keys() | after.keys()))
    return [Difference(key, a, b) for key, a, b in pairs if a != b and not _is_free(key)]


def _flat(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Flatten ``{"a": {"b": [1]}}`` to ``("a.b.0", 1)``; empty containers are kept, deeper values become "…"."""
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
