"""Elements of a report as HTML. Every text goes through `html.escape`, every JSON through `script_json`."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from lic_train.report.elements import COMMANDS, MAX_CELL, Cell, Comparison, Figure, Picture, Table
from lic_train.report.page import embed
from lic_train.system.reading import printable, slug

_BLANK = "–"


def table(element: Table) -> str:
    """A table whose headings sort it; numbers to the right, blanks as a dash."""
    numeric = [_is_numeric(element, column) for column in range(len(element.columns))]
    digits = list(element.digits) or [None] * len(element.columns)
    head = "".join(_heading(name, number) for name, number in zip(element.columns, numeric, strict=True))
    rows = []
    for row in element.rows:
        cells = [_cell(*parts) for parts in zip(row, element.columns, digits, numeric, strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    label = escape(printable(element.title, 200))
    return (
        f'<div class="element table" id="{_id(element.key)}">\n<h3>{label}</h3>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>\n"
        f"{_note(element.note)}</div>"
    )


def figure(element: Figure) -> str:
    """A place for the script to draw in, with the lines as JSON beside it."""
    title = printable(element.title, 200)
    data = {
        "title": title,
        "x_label": printable(element.x_label),
        "y_label": printable(element.y_label),
        "x_high": element.x_high,
        "lines": [
            {
                "name": printable(line.name),
                "style": line.style,
                "x": [_short(x) for x in line.x],
                "y": [_short(y) for y in line.y],
                "labels": [printable(label) for label in line.labels],
            }
            for line in element.lines
        ],
    }
    small = " small" if is_small(element) else ""
    return (
        f'<div class="element figure{small}" id="{_id(element.key)}">\n'
        f'<div class="head"><h3>{escape(title)}</h3></div>\n'
        f'<div class="chart"></div>\n{script_json(data)}\n{_note(element.note)}</div>'
    )


def comparison(element: Comparison) -> str:
    """Crops side by side, each with bits per pixel and PSNR, and a place for the slider."""
    crops = "\n".join(_crop(picture, element.crop) for picture in element.pictures)
    return (
        f'<div class="element comparison" id="{_id(element.key)}">\n<h3>{escape(printable(element.title, 200))}</h3>\n'
        f'<div class="crops">\n{_overview(element)}\n{crops}\n</div>\n'
        f'<div class="inspector" hidden></div>\n{_note(element.note)}</div>'
    )


def is_small(element: Any) -> bool:
    """Whether the element is a training figure, of which several stand in a row."""
    return isinstance(element, Figure) and all(line.style == "training" for line in element.lines)


def script_json(data: Any) -> str:
    """JSON inside a script element of a type that is never run; nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json">{text}</script>'


def number(value: float | int, digits: int | None) -> str:
    """A number as a reader expects it: 12,345; -3.10 with a true minus sign."""
    text = format(value, f"z,.{digits}f" if digits is not None else "," if isinstance(value, int) else "g")
    return text.replace("-", "−")


def _id(key: str) -> str:
    return f"element-{slug(key)}"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n' if text else ""


def _is_numeric(element: Table, column: int) -> bool:
    """Whether a column holds numbers; one that is blank so far does if it has decimals."""
    cells = [row[column] for row in element.rows]
    expected = bool(element.digits) and element.digits[column] is not None
    return (expected or any(map(_is_number, cells))) and not any(isinstance(cell, str) for cell in cells)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _heading(name: str, numeric: bool) -> str:
    side = ' class="number"' if numeric else ""
    return f'<th scope="col"{side}><button type="button">{escape(printable(name))}</button></th>'


def _cell(cell: Cell, heading: str, digits: int | None, numeric: bool) -> str:
    side = "number" if numeric else ""
    if cell is None:
        return f'<td class="{side} blank">{_BLANK if numeric else ""}</td>'
    if isinstance(cell, str):
        words = "words code" if heading == COMMANDS else "words"
        return f'<td class="{words}">{escape(printable(cell, MAX_CELL))}</td>'
    return f'<td class="number" data-value="{float(cell):.9g}">{number(cell, digits)}</td>'


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _crop(picture: Picture, crop: tuple[int, int, int, int]) -> str:
    layers = {"picture": picture.path, "error": picture.error, "bits": picture.bits}
    name = escape(printable(picture.name))
    images = "".join(
        f'<img data-layer="{layer}" alt="{name}, {layer}" src="{embed.crop(path, crop)}"{_hidden(layer)}>'
        for layer, path in layers.items()
        if path is not None
    )
    return f'<figure data-codec="{name}">{images}<figcaption><b>{name}</b>{_caption(picture)}</figcaption></figure>'


def _hidden(layer: str) -> str:
    return "" if layer == "picture" else " hidden"


def _caption(picture: Picture) -> str:
    """``0.312 bpp / 33.41 dB``, as the papers write it."""
    rate = [] if picture.bpp is None else [f"{picture.bpp:.3f} bpp"]
    quality = [] if picture.psnr is None else [f"{picture.psnr:.2f} dB"]
    return escape(" / ".join(rate + quality))


def _overview(element: Comparison) -> str:
    """The whole photograph, small, with the place of the crop."""
    source, (width, height) = embed.overview(element.pictures[0].path)
    left, top, crop_width, crop_height = element.crop
    places = {"left": left / width, "top": top / height, "width": crop_width / width, "height": crop_height / height}
    window = " ".join(f'data-{name}="{100 * share:.2f}"' for name, share in places.items())
    upright = " upright" if height > width else ""
    return (
        f'<figure><div class="overview{upright}"><img alt="the whole photograph" src="{source}">'
        f'<div class="window" {window}></div></div>'
        f"<figcaption><b>photograph</b>{width} × {height}, crop {crop_width} × {crop_height}</figcaption></figure>"
    )
