"""Elements of a report as plain data: tables, line figures and comparisons of pictures.

The general report and the papers' reports build these elements. The HTML page, the PDF and SVG figures, LaTeX, CSV and
Markdown render the same elements, so that every number is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MAX_CELL = 2000  # characters of a table cell that are shown
COMMANDS = "command"  # heading of a column of command lines
USUAL_RATE = 1.25  # bits per pixel
Cell = str | float | int | None  # None is a blank: not run, or not known
Crop = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: unique in a report and used in file names: "bd_rate", "iblic_table_2".
        title: one line, "Table II: BD-rate over BPG".
        columns: headings with units.
        rows: cells in the order of ``columns``; numbers are not formatted yet.
        digits: number of decimals by column; None prints numbers as they are.
        note: definitions, sources and omissions, shown below the table.
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
        name: entry of the legend.
        x: positions.
        y: values, as many as ``x``.
        style: "model" solid, "anchor" dashed, "cited" dotted, "training" thin without markers.
        labels: labels of the points, shown on hovering; empty or as many as ``x``.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["model", "anchor", "cited", "training"] = "model"
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """Lines over common axes: rate-distortion curves or training curves.

    Attributes:
        key: unique in a report and used in file names.
        title: one line.
        x_label: label of the horizontal axis, with its unit.
        y_label: label of the vertical axis, with its unit.
        lines: the lines, in the order of the legend.
        note: shown below the figure.
        x_high: upper end of the horizontal axis in the first view; None shows all points.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    note: str = ""
    x_high: float | None = None


def usual_rates(lines: Sequence[Line]) -> float | None:
    """Return the rate in bits per pixel at which the first view of a rate-distortion figure ends.

    It is `USUAL_RATE`, up to which the literature compares codecs, or higher where a model trained here has points
    beyond it. None if no line continues beyond that rate.
    """
    trained = [x for line in lines if line.style == "model" for x in line.x]
    high = max(USUAL_RATE, 1.05 * max(trained, default=0))
    return high if any(x > high for line in lines for x in line.x) else None


@dataclass(frozen=True)
class Picture:
    """One reconstruction of a comparison.

    Attributes:
        name: name of the codec, or "original".
        path: picture file on disk.
        bpp: bits per pixel of the file; None for the original.
        psnr: PSNR in dB; None for the original.
        error: picture file of the error map; None if there is none.
        bits: picture file of the bit allocation; None if there is none.
    """

    name: str
    path: Path
    bpp: float | None = None
    psnr: float | None = None
    error: Path | None = None
    bits: Path | None = None

    @property
    def caption(self) -> str:
        """Rate and quality as papers print them, ``0.312 bpp / 33.41 dB``; empty for the original."""
        rate = "" if self.bpp is None else f"{self.bpp:.3f} bpp"
        quality = "" if self.psnr is None else f"{self.psnr:.2f} dB"
        return " / ".join(filter(None, (rate, quality)))

    @property
    def layers(self) -> dict[str, Path]:
        """Existing picture files by layer: "picture", "error", "bits"."""
        files = {"picture": self.path, "error": self.error, "bits": self.bits}
        return {layer: path for layer, path in files.items() if path is not None}


@dataclass(frozen=True)
class Comparison:
    """Crops of one photograph side by side.

    Attributes:
        key: unique in a report and used in file names.
        title: name of the photograph.
        pictures: the original first, then the reconstructions.
        crop: (left, top, width, height) in pixels.
        note: shown below the crops.
    """

    key: str
    title: str
    pictures: Sequence[Picture]
    crop: Crop
    note: str = ""


Element = Table | Figure | Comparison


@dataclass(frozen=True)
class Section:
    """A heading with text and elements below it."""

    title: str
    elements: Sequence[Element] = field(default_factory=tuple)
    text: str = ""
