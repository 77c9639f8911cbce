"""Tables of Bjontegaard differences over an anchor with confidence intervals, or the reason that there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lic_train.errors import BDError
from lic_train.rd import bd
from lic_train.rd.curves import METRICS, Curve
from lic_train.rd.style import METRIC_NAMES
from lic_train.report.elements import Cell, Table
from lic_train.report.figures import drawn
from lic_train.report.gather import Gathered
from lic_train.report.runs import one_line

_Found = TypeVar("_Found")
COLUMNS = {
    "Codec": None,
    "BD-rate of the mean curves [%]": 2,
    "95 %: from": 2,
    "to": 2,
    "Mean of the pictures' BD-rates [%]": 2,
    "95 %: from ": 2,
    "to ": 2,
    "BD-{metric} of the mean curves [dB]": 3,
    "Compared over [dB]": None,
    "Remark": None,
}
NOTE = (
    "Negative rates are savings. PCHIP interpolation of log-rate over quality, in the range that both curves cover. "
    "Mean curves: the means over the pictures at each rate, then one difference. Pictures' BD-rates: one difference "
    "for each picture, then their mean. Intervals: 95 % percentile bootstrap over the pictures."
)


def bd_tables(gathered: Gathered, anchor: Curve) -> list[Table]:
    """Return one table over ``anchor`` for each of its metrics, sorted by BD-rate."""
    return [_table(gathered, anchor, metric) for metric in METRICS if anchor.with_quality(metric)]


def _table(gathered: Gathered, anchor: Curve, metric: str) -> Table:
    name = METRIC_NAMES[metric]
    rows = [_row(anchor, curve, metric) for curve in drawn(gathered, metric) if curve.key != anchor.key]
    rows.sort(key=lambda row: (row[1] is None, row[1] or 0))
    return Table(
        key=f"bd_{metric}",
        title=f"BD-rate over {anchor.name} in {name}, {gathered.set}",
        columns=[column.format(metric=name) for column in COLUMNS],
        rows=rows,
        digits=list(COLUMNS.values()),
        note=NOTE,
    )


def _row(anchor: Curve, curve: Curve, metric: str) -> list[Cell]:
    """Return the cells of one codec; a difference that is undefined is blank, with the reason under "Remark"."""
    pairs = anchor.with_quality(metric), curve.with_quality(metric)
    reasons: list[str] = []
    name = f"{curve.name}, cited" if curve.kind == "cited" else curve.name
    rate = _or_reason(lambda: bd.bd_rate_of_curves(anchor, curve, metric), reasons)
    if rate is None:
        return [name, *[None] * 8, reasons[0]]
    common = bd.common_quality(*pairs)
    quality = _or_reason(lambda: bd.bd_quality(*pairs), reasons)
    compared = f"{common.low:.1f} to {common.high:.1f}"
    pictures = _by_picture(anchor, curve, metric, reasons)
    return [name, rate, *pictures, quality, compared, " ".join(reasons) or None]


def _by_picture(anchor: Curve, curve: Curve, metric: str, reasons: list[str]) -> list[Cell]:
    """Return the interval of the mean curves' BD-rate, then the mean of the pictures' BD-rates and its interval."""
    if not all(point.images for point in (*anchor.points, *curve.points)):
        reasons.append("No interval: the source has no results of single pictures.")
        return [None] * 5
    interval = _or_reason(lambda: bd.bd_rate_interval(anchor, curve, metric), reasons)
    average = _or_reason(lambda: bd.bd_rate_of_images(anchor, curve, metric), reasons)
    if average is not None and average.left_out:
        reasons.append(f"Without the pictures {', '.join(average.left_out)}.")
    return [*(interval or [None] * 2), *(average[:3] if average else [None] * 3)]


def _or_reason(find: Callable[[], _Found], reasons: list[str]) -> _Found | None:
    try:
        return find()
    except BDError as error:
        reasons.append(one_line(error))
        return None
