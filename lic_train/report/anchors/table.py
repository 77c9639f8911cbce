"""The last thing on the screen: what was measured, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from lic_train.report.curves import Curve


def table(curves: Sequence[Curve], set_name: str, pictures: int) -> Table:
    """One line for each curve: rates, and the lowest and highest of bits per pixel, quality and seconds."""
    made = Table(title=f"{set_name}: {pictures} pictures", title_justify="left", box=box.SIMPLE_HEAD)
    made.add_column("codec", no_wrap=True)
    for heading in ("rates", "bpp", "PSNR", "MS-SSIM dB", "enc s", "dec s"):
        made.add_column(heading, justify="right", no_wrap=True)
    for curve in curves:
        cells = [
            _range([point.bpp for point in curve.points], ".2f"),
            _range([point.psnr for point in curve.points], ".1f"),
            _range([point.ms_ssim_db for point in curve.points], ".1f"),
            _range(curve.about["encode_seconds"], ".2f"),
            _range(curve.about["decode_seconds"], ".2f"),
        ]
        made.add_row(Text(curve.key), str(len(curve.points)), *cells)
    return made


def _range(values: Sequence[float | None], spec: str) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):{spec}}-{max(known):{spec}}" if known else "-"
