"""Render the elements of a report with the Jinja2 templates of this folder.

Autoescaping is on for every template. Markup that the templates must not escape comes from three places only: the style
sheet, the script, and `script_json`. The Content-Security-Policy of the page contains the hashes of its style sheet and
its script, so that a browser runs and loads nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lic_train.rd.style import PALETTE
from lic_train.report.elements import COMMANDS, MAX_CELL, Cell, Comparison, Element, Figure, Section, Table
from lic_train.report.page import embed
from lic_train.system import atomic
from lic_train.system.reading import printable, slug

HERE = Path(__file__).parent
SCRIPTS = ("axes.js", "figure.js", "controls.js", "comparison.js", "main.js")
Track = Callable[[Sequence[Section]], Iterator[Section]]


class Column(NamedTuple):
    """A column of a table; ``numeric`` columns are aligned right."""

    heading: str
    digits: int | None
    numeric: bool


def write(
    path: Path, sections: Sequence[Section], title: str, facts: Sequence[tuple[str, str]], track: Track = iter
) -> None:
    """Write the page of `render` to ``path`` atomically."""
    atomic.replace_text(path, render(sections, title, facts, track))


def render(sections: Sequence[Section], title: str, facts: Sequence[tuple[str, str]], track: Track = iter) -> str:
    """Return the page as HTML.

    Args:
        sections: in the order of the page. Pictures of comparisons are read from disk and embedded as crops.
        title: title of the page.
        facts: (name, value) pairs that apply to the whole page, shown below the title.
        track: wraps the sections to show progress.
    """
    return _TEMPLATES.get_template("document.html").render(
        title=title,
        facts=facts,
        contents=sections,
        sections=track(sections),
        style=Markup(_TEMPLATES.get_template("style.css").render(palette=PALETTE)),
        script=Markup("(() => {\n" + '"use strict";\n' + "".join(map(_read, SCRIPTS)) + "})();\n"),
    )


def table(element: Table) -> str:
    """Return one table as HTML."""
    return _TEMPLATES.get_template("table.html").render(element=element)


def script_json(data: Any) -> Markup:
    """Return JSON inside a script element of a type that browsers do not run; no content can close the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(f'<script type="application/json">{text}</script>')


def number(value: float | int, digits: int | None) -> str:
    """Format a number for reading: ``12,345``, ``−3.10`` with a typographic minus sign."""
    text = format(value, f"z,.{digits}f" if digits is not None else "," if isinstance(value, int) else "g")
    return text.replace("-", "−")


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _is_small(element: Element) -> bool:
    """Return whether the element is a training figure, several of which share one row."""
    return isinstance(element, Figure) and all(line.style == "training" for line in element.lines)


def _rows(section: Section) -> Iterator[tuple[bool, Iterator[Element]]]:
    """Group neighbouring small figures; yield (is small, elements)."""
    return groupby(section.elements, _is_small)


def _columns(element: Table) -> list[Column]:
    digits = list(element.digits) or [None] * len(element.columns)
    cells = [[row[index] for row in element.rows] for index in range(len(element.columns))]
    return [
        Column(heading, places, _is_numeric(column, places))
        for heading, places, column in zip(element.columns, digits, cells, strict=True)
    ]


def _is_numeric(cells: Sequence[Cell], digits: int | None) -> bool:
    """Return whether a column contains numbers; a blank column does if its number of decimals is set."""
    is_number = [isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells]
    return (digits is not None or any(is_number)) and not any(isinstance(cell, str) for cell in cells)


def _chart(element: Figure) -> dict[str, Any]:
    """Return the data that the script draws; six significant digits are finer than a pixel."""
    return {
        "title": printable(element.title, 200),
        "x_label": printable(element.x_label),
        "y_label": printable(element.y_label),
        "x_high": element.x_high,
        "lines": [
            {
                "name": printable(line.name),
                "style": line.style,
                "x": [float(f"{x:.6g}") for x in line.x],
                "y": [float(f"{y:.6g}") for y in line.y],
                "labels": [printable(label) for label in line.labels],
            }
            for line in element.lines
        ],
    }


def _overview(element: Comparison) -> dict[str, Any]:
    """Return the whole photograph at a small size and the position of the crop in percent of its sides."""
    source, (width, height) = embed.overview(element.pictures[0].path)
    left, top, crop_width, crop_height = element.crop
    shares = {"left": left / width, "top": top / height, "width": crop_width / width, "height": crop_height / height}
    return {
        "source": source,
        "upright": height > width,
        "window": {name: 100 * share for name, share in shares.items()},
        "size": f"{width} × {height}",
        "crop_size": f"{crop_width} × {crop_height}",
    }


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "chart": _chart,
        "columns": _columns,
        "crop": embed.crop,
        "digest": _digest,
        "number": number,
        "overview": _overview,
        "printable": printable,
        "rows": _rows,
        "script_json": script_json,
        "slug": slug,
        "template": lambda element: f"{type(element).__name__.lower()}.html",
    }
    made.tests["small"] = _is_small
    made.globals |= {"COMMANDS": COMMANDS, "MAX_CELL": MAX_CELL}
    return made


_TEMPLATES = _environment()
