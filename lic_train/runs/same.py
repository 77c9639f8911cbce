"""In which values two configurations differ."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lic_train.report.files import printable

# What names or places a run, or cannot change its result.
_FREE = ("checkpoint", "compile", "eval", "fresh", "hydra", "logger", "name", "output", "trainer", "data.num_workers")
_MAX_DEPTH = 8
_MAX_VALUES = 10_000  # a YAML file of a few lines can stand for billions
_SHOWN = 4


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``model.N: 128 → 64`` for everything that makes another run of it; after a few, how many more."""
    before, after = (dict(islice(_flat(config), _MAX_VALUES)) for config in (old, new))
    every = sorted(before.keys() | after.keys())
    keys = [key for key in every if before.get(key) != after.get(key) and not _is_free(key)]
    shown = [f"{printable(key)}: {_value(before, key)} → {_value(after, key)}" for key in keys[:_SHOWN]]
    return shown + ([f"and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else [])


def _flat(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key and plain value; what lies deeper than in any configuration of ours is not told apart."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or depth == _MAX_DEPTH:
        yield prefix, value if items is None else "…"
    else:
        for key, child in items:
            yield from _flat(child, f"{prefix}.{key}".lstrip("."), depth + 1)


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _value(flat: dict[str, Any], key: str) -> str:
    return printable(flat[key], 40) if key in flat else "absent"
