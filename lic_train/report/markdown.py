"""Render a section of a report as Markdown that is readable without rendering."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lic_train.report.elements import COMMANDS, MAX_CELL, Cell, Section, Table
from lic_train.system.reading import printable

_SPECIAL = re.compile(r"([\\`*\[\]|])")


def markdown(section: Section) -> str:
    """Return title, text and tables; figures and pictures are omitted.

    A table whose only column is of commands becomes a code block, any other table of one column a list.
    """
    tables = [_table(element) for element in section.elements if isinstance(element, Table)]
    parts = [f"# {escape(section.title)}", *map(escape, section.text.splitlines()), *tables]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """Return ``text`` on one line without anything that Markdown or HTML interprets as markup."""
    return _SPECIAL.sub(r"\\\1", printable(text, MAX_CELL)).replace("&", "&amp;").replace("<", "&lt;")


def _table(table: Table) -> str:
    note = ["", escape(table.note)] if table.note else []
    return "\n".join([f"## {escape(table.title)}", "", *_body(table), *note])


def _body(table: Table) -> Iterator[str]:
    digits = list(table.digits) + [None] * (len(table.columns) - len(table.digits))
    if list(table.columns) == [COMMANDS]:
        yield from (f"    {printable(row[0], MAX_CELL)}" for row in table.rows)
    elif len(table.columns) == 1:
        yield from (f"- {_cell(row[0], digits[0])}" for row in table.rows)
    else:
        rows = [[_cell(cell, places) for cell, places in zip(row, digits, strict=True)] for row in table.rows]
        yield from _ruled([list(map(escape, table.columns)), *rows])


def _ruled(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    yield _line(lines[0], widths)
    yield _line(["-" * width for width in widths], widths)
    yield from (_line(line, widths) for line in lines[1:])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _cell(cell: Cell, digits: int | None) -> str:
    match cell:
        case None:
            return ""
        case str():
            return escape(cell)
        case int():
            return f"{cell:,}"
    return f"{cell:g}" if digits is None else f"{cell:.{digits}f}"
