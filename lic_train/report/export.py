"""A report's elements as files for a paper: LaTeX and CSV of tables, PDF, SVG and CSV of figures, PDF and PNG of crops.

The same elements always give the same bytes: no dates, no random names inside.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from lic_train.report.elements import Cell, Comparison, Figure, Section, Table
from lic_train.report.export_figures import draw_comparison, draw_figure
from lic_train.report.export_latex import latex_table
from lic_train.system import atomic

_LONGEST_NAME = 80
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet would compute a text that begins so


def export(sections: Sequence[Section], out_dir: Path) -> list[Path]:
    """Write every element of ``sections`` under the name of its key.

    Args:
        sections: keys need not be file names: other characters than letters, digits, "-" and "_" become "_", and a name
            that is taken gets a number.
        out_dir: made if it is not there; files of these names in it are replaced.

    Returns:
        The files, in the order of the elements.

    Raises:
        DataError: a picture of a comparison is unreadable, or its crop does not lie inside.
    """
    elements = [element for section in sections for element in section.elements]
    console = Console(stderr=True)
    shown = track(elements, "exporting", console=console, transient=True, disable=not console.is_terminal)
    taken: set[str] = set()
    written = []
    for element in shown:
        name = file_name(element.key, taken)
        for suffix, content in _files(element, name).items():
            path = out_dir / f"{name}{suffix}"
            atomic.replace_bytes(path, content)
            written.append(path)
    return written


def file_name(key: str, taken: set[str]) -> str:
    """``key`` as a file name without ending, different from all in ``taken`` on every file system; enters it there."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", key)[:_LONGEST_NAME] or "_"
    name, number = plain, 1
    while name.casefold() in taken:
        number += 1
        name = f"{plain}_{number}"
    taken.add(name.casefold())
    return name


def table_csv(table: Table) -> str:
    """Headings and rows; numbers in full, blanks for None."""
    return _csv([table.columns, *table.rows])


def figure_csv(figure: Figure) -> str:
    """One row for each point: line, style, x, y and, where it has one, label."""
    rows: list[Sequence[Cell]] = [["line", "style", figure.x_label, figure.y_label, "label"]]
    for line in figure.lines:
        labels = line.labels or [""] * len(line.x)
        rows += [[line.name, line.style, x, y, label] for x, y, label in zip(line.x, line.y, labels, strict=True)]
    return _csv(rows)


def _files(element: Table | Figure | Comparison, name: str) -> dict[str, bytes]:
    """Contents by ending."""
    if isinstance(element, Table):
        return {".tex": latex_table(element, name).encode(), ".csv": table_csv(element).encode()}
    if isinstance(element, Figure):
        drawn = {f".{kind}": draw_figure(element, kind) for kind in ("pdf", "svg")}
        return {**drawn, ".csv": figure_csv(element).encode()}
    return {f".{kind}": draw_comparison(element, kind) for kind in ("pdf", "png")}


def _csv(rows: Iterable[Sequence[Cell]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return file.getvalue()


def _harmless(cell: Cell) -> Cell:
    """Text that a spreadsheet would take for a formula, marked as text."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
