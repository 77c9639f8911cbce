"""Write the elements of a report as files for papers.

Tables become LaTeX and CSV, figures PDF, SVG and CSV, comparisons PDF and PNG. Equal elements give equal bytes: the
files contain no dates and no random names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from lic_train.report.elements import Cell, Element, Figure, Section, Table
from lic_train.report.export_figures import draw_comparison, draw_figure
from lic_train.report.export_latex import latex_table
from lic_train.system import atomic

_LONGEST_NAME = 80
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # spreadsheets evaluate text that starts with one of these


def export(sections: Sequence[Section], out_dir: Path) -> list[Path]:
    """Write every element of ``sections`` to files named after its key.

    Args:
        sections: their keys may contain any characters: all but letters, digits, "-" and "_" become "_", and duplicates
            are numbered.
        out_dir: folder, created if it does not exist; existing files of the same names are replaced.

    Returns:
        The files in the order of the elements.

    Raises:
        DataError: a picture of a comparison is unreadable or smaller than its crop.
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
    """Return ``key`` as a file name without suffix and add it to ``taken``; names also differ in lower case."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", key)[:_LONGEST_NAME] or "_"
    name, number = plain, 1
    while name.casefold() in taken:
        number += 1
        name = f"{plain}_{number}"
    taken.add(name.casefold())
    return name


def table_csv(table: Table) -> str:
    """Return headings and rows as CSV, with unrounded numbers and empty cells for None."""
    return _csv([table.columns, *table.rows])


def figure_csv(figure: Figure) -> str:
    """Return one CSV row for each point: line, style, x, y and label."""
    rows: list[Sequence[Cell]] = [["line", "style", figure.x_label, figure.y_label, "label"]]
    for line in figure.lines:
        labels = line.labels or [""] * len(line.x)
        rows += [[line.name, line.style, x, y, label] for x, y, label in zip(line.x, line.y, labels, strict=True)]
    return _csv(rows)


def _files(element: Element, name: str) -> dict[str, bytes]:
    """Return the contents of an element's files by suffix."""
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
    """Return text that a spreadsheet would evaluate as a formula with a leading apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
