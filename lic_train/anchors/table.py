"""Table of the measured anchors for the terminal, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lic_train.anchors.run import Pictures
from lic_train.errors import BDError
from lic_train.rd.bd import bd_rate_of_curves
from lic_train.rd.curves import Curve
from lic_train.system.screen import ruled_table

_BASE = "hevc"


def table(curves: Sequence[Curve], pictures: Pictures) -> Table:
    """Return one row for each curve: ranges of rate, quality and seconds, and the BD-rate over HEVC in PSNR."""
    title = f"{pictures.set}: {len(pictures.names)} pictures"
    made = ruled_table(title=title)
    made.add_column("codec", no_wrap=True)
    for heading in ("bpp", "PSNR", "MS-SSIM dB", "enc s", "dec s", f"BD % {_BASE}"):
        made.add_column(heading, justify="right", no_wrap=True)
    base = next((curve for curve in curves if curve.key == _BASE), None)
    for curve in curves:
        cells = [
            _range([point.bpp for point in curve.points], ".2f"),
            _range([point.psnr for point in curve.points], ".1f"),
            _range([point.ms_ssim_db for point in curve.points], ".1f"),
            _range(curve.about["encode_seconds"], ".2f"),
            _range(curve.about["decode_seconds"], ".2f"),
            _bd_rate(base, curve),
        ]
        made.add_row(curve.key, *cells)
    return made


def _range(values: Sequence[float | None], spec: str) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):{spec}}-{max(known):{spec}}" if known else "-"


def _bd_rate(base: Curve | None, curve: Curve) -> str:
    try:
        return "-" if base is None else f"{bd_rate_of_curves(base, curve, 'psnr'):+.1f}"
    except BDError:
        return "-"
