"""A paper's tables with our numbers: for every quantity the paper's, ours, and the difference."""

from __future__ import annotations

from collections.abc import Sequence

from lic_train.errors import BDError
from lic_train.rd.bd import bd_rate
from lic_train.rd.curves import Curve
from lic_train.report.elements import Cell, Table
from lic_train.report.papers.facts import Paper, PointsFacts, Row, TableFacts
from lic_train.report.papers.inputs import Run
from lic_train.report.papers.measures import MEASURES, Ask, at_rate
from lic_train.report.papers.selection import Evidence, curve_of, same_lambda

METRIC_NAMES = {"psnr": "PSNR, dB", "ms_ssim_db": "MS-SSIM, dB"}
WHOSE = ("paper", "here", "difference")
METRIC_OF = {"mse": "psnr", "ms_ssim": "ms_ssim_db"}  # what a distortion is judged by
POINTS_DIGITS = (None, 4, 4, 4, 3, 3, 3, 2)


def table(facts: TableFacts, evidence: Evidence) -> Table:
    """The paper's table; a blank where nothing was run. What the paper has no number of is one column, else three."""
    told = [
        any(number is not None for number in numbers) for numbers in zip(*map(facts.papers, facts.rows), strict=True)
    ]
    heads: list[str] = [facts.head]
    digits: list[int | None] = [None]
    for column, beside_paper in zip(facts.columns, told, strict=True):
        named = [f"{column.head}, {whose}" for whose in WHOSE] if beside_paper else [column.head]
        heads += named
        digits += [column.digits] * len(named)
    return Table(facts.key, facts.title, heads, [_row(row, facts, told, evidence) for row in facts.rows], digits)


def _row(row: Row, facts: TableFacts, told: Sequence[bool], evidence: Evidence) -> list[Cell]:
    cells: list[Cell] = [_label(row, evidence.paper)]
    for column, paper, beside_paper in zip(facts.columns, facts.papers(row), told, strict=True):
        here = _measured(Ask(evidence, column, row))
        cells += beside(paper, here) if beside_paper else [here]
    return cells


def _label(row: Row, paper: Paper) -> str:
    where = f", λ {row.lmbda:g}" if row.lmbda else f", {row.bpp:.3f} bpp" if row.bpp else ""
    return (row.name or paper.codecs[row.codec].name) + where


def _measured(ask: Ask) -> float | None:
    try:
        value = MEASURES[ask.column.measure](ask)
    except BDError as error:
        ask.evidence.say(f"{ask.selection.codec(ask.row.codec).name}, {ask.column.head}: {error}.")
        return None
    return None if value is None else value / ask.column.divisor


def beside(paper: float | None, here: float | None) -> tuple[Cell, Cell, Cell]:
    """The paper's number, ours, and ours minus the paper's."""
    return paper, here, None if paper is None or here is None else here - paper


def points(facts: PointsFacts, evidence: Evidence) -> Table:
    """Our points against the cited ones of the same codec."""
    selection = evidence.on(facts.set)
    metric = METRIC_OF[selection.codec(facts.codec).distortion]
    runs, cited = selection.runs(facts.codec), selection.cited(facts.codec)
    rows = points_rows(runs, cited, facts.set, metric)
    if runs and cited:
        evidence.say(bd_rate_over_paper(curve_of(runs, facts.set), cited, metric))
    return Table(facts.key, facts.title, points_columns(metric), rows, POINTS_DIGITS)


def points_columns(metric: str) -> list[str]:
    """Headings of `points_rows`."""
    named = [f"{what}, {whose}" for what in ("bpp", METRIC_NAMES[metric]) for whose in WHOSE]
    return ["λ", *named, "over the paper's curve at equal rate, dB"]


def points_rows(runs: Sequence[Run], cited: Curve | None, set_name: str, metric: str) -> list[list[Cell]]:
    """A row for every lambda that we or the paper have, then the paper's points whose lambda is not told.

    The last cell needs no equal lambda.
    """
    lambdas = cited.about.get("lambdas", []) if cited else []
    points = [(point.bpp, point.quality(metric)) for point in cited.points] if cited else []
    published: Rates = dict(zip(lambdas, points, strict=False))
    ours: Rates = {run.lmbda: _rate(run, set_name, metric) for run in runs}
    curve = cited.with_quality(metric) if cited else []
    rows = [_points_row(lmbda, _at(ours, lmbda), _at(published, lmbda), curve) for lmbda in _union(ours, published)]
    return rows + [_points_row(None, NO_RATE, point, curve) for point in points[len(lambdas) :]]


Rate = tuple[float | None, float | None]  # bpp, quality in dB
Rates = dict[float, Rate]  # by lambda
NO_RATE: Rate = (None, None)


def _points_row(lmbda: float | None, ours: Rate, paper: Rate, curve: Sequence[tuple[float, float]]) -> list[Cell]:
    level = None if ours[0] is None else at_rate(curve, ours[0])
    gain = None if ours[1] is None or level is None else ours[1] - level
    return [lmbda, *beside(paper[0], ours[0]), *beside(paper[1], ours[1]), gain]


def _rate(run: Run, set_name: str, metric: str) -> Rate:
    point = run.results[set_name].point("")
    return point.bpp, point.quality(metric)


def _union(ours: Rates, published: Rates) -> list[float]:
    more = (lmbda for lmbda in published if not any(same_lambda(lmbda, other) for other in ours))
    return sorted([*ours, *more])


def _at(rates: Rates, lmbda: float) -> Rate:
    return next((rate for other, rate in rates.items() if same_lambda(other, lmbda)), NO_RATE)


def bd_rate_over_paper(ours: Curve, cited: Curve, metric: str) -> str:
    """One sentence: our BD-rate over the cited points, or why there is none."""
    try:
        value = bd_rate(cited.with_quality(metric), ours.with_quality(metric))
    except BDError as error:
        return f"No BD-rate over the paper's points: {error}."
    return f"BD-rate over the paper's points: {value:+.2f} %."
