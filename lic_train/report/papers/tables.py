"""A paper's tables with the user's results: the published number, the measured one, and the difference."""

from __future__ import annotations

from collections.abc import Sequence

from lic_train.errors import BDError
from lic_train.rd.bd import bd_rate
from lic_train.rd.curves import Curve
from lic_train.rd.style import METRIC_LABELS, METRIC_OF, lambda_label
from lic_train.report.elements import Cell, Table
from lic_train.report.gather import curve_of
from lic_train.report.papers.facts import Paper, PointsFacts, Row, TableFacts
from lic_train.report.papers.measures import MEASURES, Query, at_rate
from lic_train.report.papers.selection import Evidence, same_lambda
from lic_train.report.runs import Run, one_line

WHOSE = ("paper", "here", "difference")
POINTS_DIGITS = (None, 4, 4, 4, 3, 3, 3, 2)
Rate = tuple[float | None, float | None]  # bpp, quality in dB
Rates = dict[float, Rate]  # by lambda
NO_RATE: Rate = (None, None)


def table(facts: TableFacts, evidence: Evidence) -> Table:
    """Return a table of the paper. A quantity has three columns, or one if the paper has no number of it."""
    published = [
        any(number is not None for number in numbers) for numbers in zip(*map(facts.papers, facts.rows), strict=True)
    ]
    heads: list[str] = [facts.head]
    digits: list[int | None] = [None]
    for column, is_published in zip(facts.columns, published, strict=True):
        named = [f"{column.head}, {whose}" for whose in WHOSE] if is_published else [column.head]
        heads += named
        digits += [column.digits] * len(named)
    return Table(facts.key, facts.title, heads, [_row(row, facts, published, evidence) for row in facts.rows], digits)


def _row(row: Row, facts: TableFacts, published: Sequence[bool], evidence: Evidence) -> list[Cell]:
    cells: list[Cell] = [_label(row, evidence.paper)]
    for column, paper, is_published in zip(facts.columns, facts.papers(row), published, strict=True):
        here = _measured(Query(evidence, column, row))
        cells += _compared(paper, here) if is_published else [here]
    return cells


def _label(row: Row, paper: Paper) -> str:
    where = f", {lambda_label(row.lmbda)}" if row.lmbda else f", {row.bpp:.3f} bpp" if row.bpp else ""
    return (row.name or paper.codecs[row.codec].name) + where


def _measured(query: Query) -> float | None:
    try:
        value = MEASURES[query.column.measure](query)
    except BDError as error:
        name = query.selection.codec(query.row.codec).name
        query.evidence.remark(f"{name}, {query.column.head}: {one_line(error)}.")
        return None
    return None if value is None else value / query.column.divisor


def _compared(paper: float | None, here: float | None) -> tuple[Cell, Cell, Cell]:
    """Return the paper's number, the measured one, and measured minus paper."""
    return paper, here, None if paper is None or here is None else here - paper


def points(facts: PointsFacts, evidence: Evidence) -> Table:
    """Return the measured points of a codec against its published ones."""
    selection = evidence.on(facts.set)
    metric = METRIC_OF[selection.codec(facts.codec).distortion]
    runs, cited = selection.runs(facts.codec), selection.cited(facts.codec)
    rows = points_rows(runs, cited, facts.set, metric)
    if runs and cited:
        evidence.remark(bd_rate_over_paper(runs, facts.set, cited, metric))
    return Table(facts.key, facts.title, points_columns(metric), rows, POINTS_DIGITS)


def points_columns(metric: str) -> list[str]:
    """Return the headings of `points_rows`."""
    named = [f"{what}, {whose}" for what in ("bpp", METRIC_LABELS[metric]) for whose in WHOSE]
    return ["λ", *named, "above the paper's curve at equal rate [dB]"]


def points_rows(runs: Sequence[Run], cited: Curve | None, set_name: str, metric: str) -> list[list[Cell]]:
    """Return one row for each measured or published lambda, then the published points of unknown lambda.

    The last cell compares with the paper's curve at the same rate, so that it needs no published point at that lambda.
    """
    lambdas = cited.about.get("lambdas", []) if cited else []
    points = [(point.bpp, point.quality(metric)) for point in cited.points] if cited else []
    published: Rates = dict(zip(lambdas, points, strict=False))
    ours: Rates = {run.lmbda: _rate(run, set_name, metric) for run in runs}
    curve = cited.with_quality(metric) if cited else []
    rows = [_points_row(lmbda, _at(ours, lmbda), _at(published, lmbda), curve) for lmbda in _union(ours, published)]
    return rows + [_points_row(None, NO_RATE, point, curve) for point in points[len(lambdas) :]]


def _points_row(lmbda: float | None, ours: Rate, paper: Rate, curve: Sequence[tuple[float, float]]) -> list[Cell]:
    level = None if ours[0] is None else at_rate(curve, ours[0])
    gain = None if ours[1] is None or level is None else ours[1] - level
    return [lmbda, *_compared(paper[0], ours[0]), *_compared(paper[1], ours[1]), gain]


def _rate(run: Run, set_name: str, metric: str) -> Rate:
    point = run.results[set_name].point("")
    return point.bpp, point.quality(metric)


def _union(ours: Rates, published: Rates) -> list[float]:
    more = (lmbda for lmbda in published if not any(same_lambda(lmbda, other) for other in ours))
    return sorted([*ours, *more])


def _at(rates: Rates, lmbda: float) -> Rate:
    return next((rate for other, rate in rates.items() if same_lambda(other, lmbda)), NO_RATE)


def bd_rate_over_paper(runs: Sequence[Run], set_name: str, cited: Curve, metric: str) -> str:
    """Return one sentence with the BD-rate of the runs over the published points, or the reason that there is none."""
    ours = curve_of(runs, set_name, runs[0].model, runs[0].model)
    try:
        value = bd_rate(cited.with_quality(metric), ours.with_quality(metric))
    except BDError as error:
        return f"No BD-rate over the paper's points: {one_line(error)}."
    return f"BD-rate over the paper's points: {value:+.2f} %."
