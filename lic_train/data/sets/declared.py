"""The closed set of data sources that a configuration from an untrusted file can name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points

from lic_train.data.sets import sources
from lic_train.data.sets.splits import Split

# Installed distributions declare sources of their own as entry points of this group.
ENTRY_POINTS = "lic_train.data"
NAMES = [name for name in sources.__all__ if inspect.isfunction(getattr(sources, name))]


def find_source(target: str) -> Callable[..., Split]:
    """Return the function that ``data.source._target_`` of a run's configuration names.

    A target is a function in ``__all__`` of `lic_train.data.sets.sources`, or one that an installed distribution
    declares as an entry point of the group ``lic_train.data`` with the value ``package.module:function``. Nothing is
    imported for any other target, because configurations come from untrusted files.

    Raises:
        ValueError: the target is neither, or it cannot be imported.
    """
    known: dict[str, Callable[..., Split]] = {f"{sources.__name__}.{name}": getattr(sources, name) for name in NAMES}
    if target in known:
        return known[target]
    declared = {point.value.replace(":", "."): point for point in entry_points(group=ENTRY_POINTS)}
    if target not in declared:
        raise ValueError(
            f"_target_: expected one of {', '.join([*known, *declared])}, or a declared entry point of the group "
            f"{ENTRY_POINTS}, got {target!r}"
        )
    try:
        function: Callable[..., Split] = declared[target].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_: expected an existing data source, got {target!r} ({error})") from error
    return function
