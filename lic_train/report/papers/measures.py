"""The quantities of a paper's tables, measured on the user's runs: functions of codec, column and row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2

from lic_train.complexity.results import Cost, counted
from lic_train.rd.bd import bd_quality, bd_rate
from lic_train.rd.curves import Curve
from lic_train.report.papers.facts import Column, Row
from lic_train.report.papers.selection import Evidence, Selection, same_lambda
from lic_train.report.runs import Run
from lic_train.runs.layout import METRICS
from lic_train.runs.metric_names import TRAIN_LOSS
from lic_train.runs.training_log import read_log

Measure = Callable[["Query"], float | None]


@dataclass(frozen=True)
class Query:
    """A cell of a table: the quantity (``column``) of a codec (``row``) on the column's picture set."""

    evidence: Evidence
    column: Column
    row: Row

    @property
    def selection(self) -> Selection:
        """The codecs on the column's set."""
        return self.evidence.on(self.column.set)

    @property
    def runs(self) -> list[Run]:
        """The codec's runs."""
        return self.selection.runs(self.row.codec)

    @property
    def run(self) -> Run | None:
        """The codec's run at the row's lambda; for a row without lambda, the run with the highest lambda."""
        if self.row.lmbda is None:
            return self.runs[-1] if self.runs else None
        wanted = self.row.lmbda
        return next((run for run in self.runs if same_lambda(run.lmbda, wanted)), None)

    @property
    def curve(self) -> Curve | None:
        """The codec's measured curve."""
        return self.selection.measured(self.row.codec)


def bd_rate_over(query: Query) -> float | None:
    """BD-rate in percent over the first codec of the column's ``over`` that has a curve."""
    return _bd(query, bd_rate, query.curve)


def bd_quality_over(query: Query) -> float | None:
    """BD-PSNR or BD-MS-SSIM in dB over the first codec of the column's ``over`` that has a curve."""
    return _bd(query, bd_quality, query.curve)


def cited_bd_rate_over(query: Query) -> float | None:
    """BD-rate in percent of the codec's published points, over the same reference as `bd_rate_over`."""
    return _bd(query, bd_rate, query.selection.cited(query.row.codec))


def bpp(query: Query) -> float | None:
    """Bits per pixel of whole files, of the run at the row's lambda."""
    return query.run.results[query.column.set].point("").bpp if query.run else None


def quality(query: Query) -> float | None:
    """The column's metric in dB, of the run at the row's lambda."""
    return query.run.results[query.column.set].point("").quality(query.column.metric) if query.run else None


def quality_at_rate(query: Query) -> float | None:
    """The column's metric in dB, interpolated on the measured curve at the row's rate."""
    return _read_off(query, query.column.metric)


def ms_ssim_at_rate(query: Query) -> float | None:
    """MS-SSIM (not in dB), interpolated in dB on the measured curve at the row's rate."""
    decibels = _read_off(query, "ms_ssim_db")
    return None if decibels is None else 1 - 10 ** (-decibels / 10)


def encode_seconds(query: Query) -> float | None:
    """Encoding time in seconds, mean over the pictures, of the run with the highest lambda (the slowest)."""
    return query.run.results[query.column.set].mean.encode_seconds if query.run else None


def decode_seconds(query: Query) -> float | None:
    """Decoding time in seconds, mean over the pictures, of the run with the highest lambda (the slowest)."""
    return query.run.results[query.column.set].mean.decode_seconds if query.run else None


def parameters(query: Query) -> float | None:
    """Number of learned parameters, counted by ``lic complexity``."""
    return next((cost.parameters for cost in _cost(query)), None)


def profiler_macs(query: Query) -> float | None:
    """Multiply-adds at 768x512 as a profiler by module type counts them, which is the paper's method."""
    return next((cost.profiler_macs for cost in _cost(query) if cost.profiler_macs is not None), None)


def exact_macs(query: Query) -> float | None:
    """Multiply-adds at 768x512, exact."""
    return next((cost.macs for cost in _cost(query) if cost.macs is not None), None)


def last_loss(query: Query) -> float | None:
    """Mean of the last tenth of the training loss, of the run at the row's lambda, evaluated or not."""
    assert query.row.lmbda is not None
    run = query.selection.trained(query.row.codec, query.row.lmbda)
    _, values = read_log(run.path / METRICS, [TRAIN_LOSS]).get(TRAIN_LOSS, ([], [])) if run else ([], [])
    tail = values[-max(1, len(values) // 10) :]
    return sum(tail) / len(tail) if tail else None


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        bd_rate_over,
        bd_quality_over,
        cited_bd_rate_over,
        bpp,
        quality,
        quality_at_rate,
        ms_ssim_at_rate,
        encode_seconds,
        decode_seconds,
        parameters,
        profiler_macs,
        exact_macs,
        last_loss,
    )
}


def at_rate(points: Sequence[tuple[float, float]], rate: float) -> float | None:
    """Interpolate quality at a rate, linearly in the logarithm of the rate; None outside the points.

    Args:
        points: pairs (bpp, quality) in the order of increasing rate.
        rate: bits per pixel.
    """
    for (low, worse), (high, better) in pairwise(points):
        if low <= rate <= high:
            part = log2(rate / low) / log2(high / low) if high > low else 0.0
            return worse + part * (better - worse)
    return None


def _read_off(query: Query, metric: str) -> float | None:
    curve, rate = query.curve, query.row.bpp
    return None if curve is None or rate is None else at_rate(curve.with_quality(metric), rate)


def _bd(query: Query, difference: Callable[..., float], curve: Curve | None) -> float | None:
    reference = _reference(query)
    if curve is None or reference is None:
        return None
    query.evidence.remark(f"{query.column.head}: over {reference.name}.")
    metric = query.column.metric
    return difference(reference.with_quality(metric), curve.with_quality(metric))


def _reference(query: Query) -> Curve | None:
    selection = query.selection
    found = (selection.measured(key) or selection.cited(key) for key in query.column.over)
    return next((curve for curve in found if curve is not None), None)


def _cost(query: Query) -> Iterator[Cost]:
    """Yield the counts of networks that are the row's codec."""
    for cost in counted(query.selection.data.outputs / "complexity"):
        if query.selection.is_codec(query.row.codec, cost.model, {"model": cost.config}):
            yield cost
