"""Former names of commands, so that ``python -m lic_train.checkpoint`` and others keep working."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "lic_train.checkpoint": "lic_train.codec.__main__",
    "lic_train.zoo": "lic_train.files.zoo.__main__",
    "lic_train.report.anchors": "lic_train.anchors.__main__",
}


class MovedCommands:
    """Import finder for the names in `MOVED`; it is asked after all others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a module of the former name with the code at the new place."""
        if fullname not in MOVED:
            return None
        found = importlib.util.find_spec(MOVED[fullname])
        assert found is not None
        assert found.origin is not None
        return importlib.util.spec_from_file_location(fullname, found.origin)
