"""Cache of finished rows that survives an interruption."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lic_train.anchors.measure import Row
from lic_train.system.reading import Unreadable, parse_json

_ROW = TypeAdapter(Row)


class Rows:
    """Finished rows in a JSON Lines file, each with a key that hashes everything the row depends on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            self._read(line)

    def get(self, key: str) -> Row | None:
        """Return the row of ``key``, or None if it is not finished."""
        return self._rows.get(key)

    def add(self, key: str, row: Row) -> Row:
        """Store a row in the file and return it."""
        line = json.dumps({"key": key, "row": asdict(row)}, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the first line break ends a line that a killed process left incomplete
        self._rows[key] = row
        return row

    def _read(self, line: str) -> None:
        try:
            content = parse_json(line)
            self._rows[content["key"]] = _ROW.validate_python(content["row"])
        except (Unreadable, ValidationError, TypeError, KeyError):
            return  # empty or incomplete line: the row is measured again
