"""What a report is made of: tables, line figures and picture comparisons, as plain data.

A preset or the general report builds these; the HTML page, the PDF and SVG figures, LaTeX and CSV all render the same
elements, so that a number is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MAX_CELL = 2000  # characters of a table's cell that are shown
COMMANDS = "command"  # heading of a column of command lines
USUAL_RATE = 1.25  # bits per pixel
Cell = str | float | int | None  # None is a blank: nothing was run, or nothing is known


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns.

    Attributes:
        key: unique in a report, used in file names: "bd_rate", "iblic_table_2".
        title: one line, "Table II: BD-rate over BPG".
        columns: headings with units.
        rows: cells; numbers stay numbers.
        digits: decimals of the numbers, by column; None leaves them as they are.
        note: what a reader must know: definitions, sources, what was left out.
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: Sequence[int | None] = ()
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        style: "model" solid, "anchor" dashed, "cited" dotted, "training" thin without markers.
        labels: of the points, for hovering; empty or as long as ``x``.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["model", "anchor", "cited", "training"] = "model"
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """Lines over common axes: rate-distortion curves, training curves.

    Attributes:
        x_high: where the first view ends; None shows everything.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    note: str = ""
    x_high: float | None = None


def usual_rates(lines: Sequence[Line]) -> float | None:
    """The rate in bits per pixel up to which curves are compared; None if that is all of them.

    The models trained here lie below it with all their points, and the field compares up to `USUAL_RATE`.
    """
    trained = [x for line in lines if line.style == "model" for x in line.x]
    high = max(USUAL_RATE, 1.05 * max(trained, default=0))
    return high if any(x > high for line in lines for x in line.x) else None


@dataclass(frozen=True)
class Picture:
    """One reconstruction of a comparison.

    Attributes:
        name: of the codec, or "original".
        path: a picture file on disk that Pillow reads.
        bpp: of the file; None for the original.
        psnr: dB; None for the original.
        error: picture of the error, on disk; None if there is none.
        bits: picture of the bit allocation, on disk; None if there is none.
    """

    name: str
    path: Path
    bpp: float | None = None
    psnr: float | None = None
    error: Path | None = None
    bits: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """Crops of one photograph side by side; the first picture is the original.

    Attributes:
        crop: (left, top, width, height) in pixels.
    """

    key: str
    title: str
    pictures: Sequence[Picture]
    crop: tuple[int, int, int, int]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with elements below it."""

    title: str
    elements: Sequence[Table | Figure | Comparison] = field(default_factory=tuple)
    text: str = ""
