"""The quantities of a paper's tables, each measured on the user's runs: functions of a codec, a column and a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2

from lic_train.complexity.results import Cost, counted
from lic_train.rd.bd import bd_quality, bd_rate
from lic_train.rd.curves import Curve
from lic_train.report.papers.facts import Column, Row
from lic_train.report.papers.inputs import Run
from lic_train.report.papers.selection import Evidence, Selection, same_lambda
from lic_train.runs.training_log import read_log

Measure = Callable[["Ask"], float | None]


@dataclass(frozen=True)
class Ask:
    """What a cell asks for: a quantity (``column``) of a codec (``row``), on the column's set."""

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
        """The codec's run at the row's lambda; without a lambda, the one of the highest."""
        if self.row.lmbda is None:
            return self.runs[-1] if self.runs else None
        wanted = self.row.lmbda
        return next((run for run in self.runs if same_lambda(run.lmbda, wanted)), None)

    @property
    def curve(self) -> Curve | None:
        """The codec's measured curve."""
        return self.selection.measured(self.row.codec)


def bd_rate_over(ask: Ask) -> float | None:
    """BD-rate in percent over the first of the column's ``over`` that has a curve."""
    return _bd(ask, bd_rate, ask.curve)


def bd_quality_over(ask: Ask) -> float | None:
    """BD-PSNR or BD-MS-SSIM in dB, likewise."""
    return _bd(ask, bd_quality, ask.curve)


def cited_bd_rate_over(ask: Ask) -> float | None:
    """BD-rate of the codec's cited points, likewise: what the reference here makes of numbers that others published."""
    return _bd(ask, bd_rate, ask.selection.cited(ask.row.codec))


def bpp(ask: Ask) -> float | None:
    """Bits per pixel of whole files, of the run at the row's lambda."""
    return ask.run.results[ask.column.set].point("").bpp if ask.run else None


def quality(ask: Ask) -> float | None:
    """The column's metric in dB, of the run at the row's lambda."""
    return ask.run.results[ask.column.set].point("").quality(ask.column.metric) if ask.run else None


def quality_at_rate(ask: Ask) -> float | None:
    """The column's metric in dB where the measured curve has the row's rate."""
    return _read_off(ask, ask.column.metric)


def ms_ssim_at_rate(ask: Ask) -> float | None:
    """MS-SSIM, not in dB, where the measured curve has the row's rate."""
    decibels = _read_off(ask, "ms_ssim_db")
    return None if decibels is None else 1 - 10 ** (-decibels / 10)


def encode_seconds(ask: Ask) -> float | None:
    """Mean over the pictures, of the run with the highest lambda, which has the most to code."""
    return ask.run.results[ask.column.set].mean.encode_seconds if ask.run else None


def decode_seconds(ask: Ask) -> float | None:
    """Likewise."""
    return ask.run.results[ask.column.set].mean.decode_seconds if ask.run else None


def parameters(ask: Ask) -> float | None:
    """Learned numbers, as ``python -m lic_train.complexity`` counted them."""
    return next((cost.parameters for cost in _cost(ask)), None)


def profiler_macs(ask: Ask) -> float | None:
    """Multiply-adds at 768x512 in the counting of a profiler by module type, as this paper's are."""
    return next((cost.profiler_macs for cost in _cost(ask) if cost.profiler_macs is not None), None)


def exact_macs(ask: Ask) -> float | None:
    """Multiply-adds at 768x512, exact."""
    return next((cost.macs for cost in _cost(ask) if cost.macs is not None), None)


def last_loss(ask: Ask) -> float | None:
    """Mean of the last tenth of the training loss, of the run at the row's lambda, evaluated or not."""
    assert ask.row.lmbda is not None
    run = ask.selection.trained(ask.row.codec, ask.row.lmbda)
    _, values = read_log(run.path / "metrics.csv", ["train/loss"]).get("train/loss", ([], [])) if run else ([], [])
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
    """Quality at a rate, linear in the logarithm of the rate between two points of (bpp, quality); None outside."""
    for (low, worse), (high, better) in pairwise(points):
        if low <= rate <= high:
            part = log2(rate / low) / log2(high / low) if high > low else 0.0
            return worse + part * (better - worse)
    return None


def _read_off(ask: Ask, metric: str) -> float | None:
    curve, rate = ask.curve, ask.row.bpp
    return None if curve is None or rate is None else at_rate(curve.with_quality(metric), rate)


def _bd(ask: Ask, figure: Callable[..., float], curve: Curve | None) -> float | None:
    reference = _reference(ask)
    if curve is None or reference is None:
        return None
    ask.evidence.say(f"{ask.column.head}: over {reference.name}.")
    metric = ask.column.metric
    return figure(reference.with_quality(metric), curve.with_quality(metric))


def _reference(ask: Ask) -> Curve | None:
    selection = ask.selection
    found = (selection.measured(key) or selection.cited(key) for key in ask.column.over)
    return next((curve for curve in found if curve is not None), None)


def _cost(ask: Ask) -> Iterator[Cost]:
    """What was counted of networks that are the row's codec."""
    for cost in counted(ask.selection.data.outputs / "complexity"):
        if ask.selection.is_codec(ask.row.codec, cost.model, {"model": cost.config}):
            yield cost
