"""Draw figures and picture comparisons for papers: one column wide, readable without colour, reproducible bytes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from lic_train.data.decode.images import read_image
from lic_train.errors import DataError
from lic_train.rd.style import PALETTE, Family, training_colour
from lic_train.report.elements import Comparison, Crop, Figure, Line, Picture

_COLUMN_INCHES, _PAGE_INCHES = 3.5, 7.16  # widths in the usual two-column layout
_PLOT_INCHES, _LEGEND_ROW_INCHES, _SUBTITLE_INCHES = 2.6, 0.15, 0.38
_DPI = 300
_RC: dict[Any, Any] = {
    "text.parse_math": False,  # names are literal, including dollar signs
    "svg.hashsalt": "lic_train",
    "pdf.fonttype": 42,  # TrueType: journals reject Type 3 fonts
    "font.size": 8,
    "axes.linewidth": 0.6,
}
_NO_DATE: dict[str, dict[str, Any]] = {
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
    "png": {"Software": None},
}
_MARKERS = "os^Dv<>phX*Pd"
_COLOURS = PALETTE["light"]
_DASHES: dict[str, Any] = {"model": "-", "anchor": "--", "cited": ":"}
_TRAINING_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 4)))
_SHORT_NAME, _LONGEST_NAME = 26, 60  # characters; a legend of short names has two columns


def draw_figure(figure: Figure, kind: Literal["pdf", "svg"]) -> bytes:
    """Return the figure with its legend below and without its title, which belongs in the caption.

    Lines differ in marker and dash as well as in colour: models are solid with filled markers, anchors dashed and cited
    curves dotted with hollow markers, training curves thin without markers.
    """
    names = [_short(line.name, _LONGEST_NAME) for line in figure.lines]
    columns = 2 if max(map(len, names), default=0) <= _SHORT_NAME else 1
    rows = -(-len(names) // columns)
    with mpl.rc_context(_RC):
        size = (_COLUMN_INCHES, _PLOT_INCHES + rows * _LEGEND_ROW_INCHES)
        canvas = Canvas(figsize=size, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
        axes.grid(linewidth=0.3, color="0.85")
        looks = zip(figure.lines, _colours(figure.lines), strict=True)
        handles = [
            axes.plot(line.x, line.y, **_look(line, number, colour))[0] for number, (line, colour) in enumerate(looks)
        ]
        _limit(axes, figure)
        if handles:
            legend = canvas.legend(
                handles,
                [" "] * len(handles),
                loc="outside lower center",
                ncols=columns,
                fontsize=6.5,
                frameon=False,
                handlelength=3,
            )
            for text, name in zip(legend.get_texts(), names, strict=True):
                text.set_text(name)  # as a label, matplotlib would omit a name with a leading underscore
        return _bytes(canvas, kind, figure.title)


def draw_comparison(comparison: Comparison, kind: Literal["pdf", "png"]) -> bytes:
    """Return the crops side by side without interpolation, each below its name, bits per pixel and PSNR.

    Raises:
        DataError: a picture is unreadable or smaller than the crop.
    """
    crops = [_crop(picture, comparison.crop) for picture in comparison.pictures]
    columns = _columns(len(crops))
    rows = -(-len(crops) // columns)
    width = _PAGE_INCHES / columns
    height = width * comparison.crop[3] / comparison.crop[2] + _SUBTITLE_INCHES
    with mpl.rc_context(_RC):
        canvas = Canvas(figsize=(_PAGE_INCHES, rows * height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(canvas)
        for number, (picture, crop) in enumerate(zip(comparison.pictures, crops, strict=True), start=1):
            _show(canvas.add_subplot(rows, columns, number), picture, crop)
        return _bytes(canvas, kind, comparison.title)


def _limit(axes: Axes, figure: Figure) -> None:
    """Limit the axes to the figure's first view."""
    if figure.x_high is None:
        return
    drawn = [line for line in figure.lines if line.x and min(line.x) <= figure.x_high]
    values = [y for line in drawn for x, y in zip(line.x, line.y, strict=True) if x <= figure.x_high]
    values += [float(np.interp(figure.x_high, line.x, line.y)) for line in drawn]
    air = 0.05 * (max(values) - min(values)) or 0.5
    axes.set(xlim=(0, figure.x_high), ylim=(min(values) - air, max(values) + air))


def _short(name: str, longest: int) -> str:
    """Return a name on one line, truncated to ``longest`` characters."""
    line = " ".join(name.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _colours(lines: Sequence[Line]) -> list[str]:
    """Return the colour of each line, the same as on the page: by order within the line's family."""
    drawn = Counter[str]()
    colours = []
    for line in lines:
        family: Family = "anchor" if line.style == "cited" else line.style
        number = drawn[family]
        drawn[family] += 1
        index = training_colour(number, len(lines)) if family == "training" else number
        colours.append(_COLOURS[family][index % len(_COLOURS[family])])
    return colours


def _look(line: Line, number: int, colour: str) -> dict[str, Any]:
    if line.style == "training":
        return {"color": colour, "linewidth": 0.6, "linestyle": _TRAINING_DASHES[number % len(_TRAINING_DASHES)]}
    marker = _MARKERS[number % len(_MARKERS)]
    face = colour if line.style == "model" else "white"
    shape = {"marker": marker, "markersize": 3.5, "markerfacecolor": face, "markeredgewidth": 0.7}
    return {"color": colour, "linewidth": 1, "linestyle": _DASHES[line.style], **shape}


def _columns(number: int) -> int:
    """Return the number of columns: at most four, with rows as full as possible (five are three and two)."""
    rows = -(-number // 4)
    return max(1, -(-number // max(rows, 1)))


def _crop(picture: Picture, crop: Crop) -> np.ndarray:
    left, top, width, height = crop
    whole = read_image(picture.path).permute(1, 2, 0).numpy()
    inside = min(crop) >= 0 and min(width, height) > 0 and top + height <= whole.shape[0]
    if not inside or left + width > whole.shape[1]:
        raise DataError(
            f"The crop is not inside {picture.path}.",
            expected=f"a picture that contains (left, top, width, height) = {crop}; all have the original's size",
            got=f"a picture of {whole.shape[1]} x {whole.shape[0]}",
        )
    return whole[top : top + height, left : left + width]


def _show(axes: Axes, picture: Picture, crop: np.ndarray) -> None:
    axes.set_axis_off()
    axes.imshow(crop, interpolation="none")
    axes.set_title(f"{_short(picture.name, _SHORT_NAME)}\n{picture.caption}", fontsize=7)


def _bytes(canvas: Canvas, kind: str, title: str) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format=kind, metadata={**_NO_DATE[kind], "Title": title}, dpi=_DPI)
    return file.getvalue()
