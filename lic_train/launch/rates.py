"""Comparison of a run with a variable rate with runs of one rate each: steps, hours, and rate at equal quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from lic_train.errors import BDError
from lic_train.evaluate.results import Result
from lic_train.launch.plan import Job
from lic_train.rd import bd
from lic_train.rd.curves import Curve, Point
from lic_train.rd.style import METRIC_OF, lambda_label
from lic_train.runs import layout
from lic_train.runs.state import read_state
from lic_train.system.reading import Unreadable, read_json
from lic_train.system.screen import ruled_table


@dataclass(frozen=True)
class Comparison:
    """One run with a variable rate, and the runs with the same network and one rate each.

    Attributes:
        variable: directory of the run with a variable rate.
        fixed: directories of the others.
        steps, fixed_steps: optimiser steps, those of the others summed.
        hours, fixed_hours: device hours; None unless all runs are finished.
        bd_rate: rate of the variable curve over the points of the others at equal quality, in percent.
        interval: 95 % interval of ``bd_rate``, by bootstrap over the pictures.
        reason: why there is no ``bd_rate`` or no interval.
    """

    variable: str
    fixed: list[str]
    steps: int
    fixed_steps: int
    hours: float | None = None
    fixed_hours: float | None = None
    bd_rate: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None


def comparisons(jobs: Sequence[Job]) -> list[Comparison]:
    """Return one comparison for each run with a variable rate that has runs of one rate beside it."""
    groups = [(job, [other for other in jobs if _is_beside(other, job)]) for job in jobs if job.config.rate.lambdas]
    return [_compare(variable, fixed) for variable, fixed in groups if fixed]


def _is_beside(other: Job, variable: Job) -> bool:
    a, b = other.config, variable.config
    same = (a.model, a.distortion, a.seed, a.choice) == (b.model, b.distortion, b.seed, b.choice)
    return same and a.rate.lambdas is None


def _compare(variable: Job, fixed: Sequence[Job]) -> Comparison:
    own, *others = (read_state(job.directory) for job in (variable, *fixed))
    hours = [state.hours for state in (own, *others) if state.finished and state.hours is not None]
    complete = len(hours) == 1 + len(fixed)
    bd_rate, interval, reason = _bd_rate(variable, fixed)
    return Comparison(
        variable=str(variable.directory),
        fixed=[str(job.directory) for job in fixed],
        steps=variable.config.steps,
        fixed_steps=sum(job.config.steps for job in fixed),
        hours=hours[0] if complete else None,
        fixed_hours=sum(hours[1:]) if complete else None,
        bd_rate=bd_rate,
        interval=interval,
        reason=reason,
    )


def _bd_rate(variable: Job, fixed: Sequence[Job]) -> tuple[float | None, tuple[float, float] | None, str | None]:
    """Return BD-rate, its interval, and the reason if one of them does not exist."""
    metric, set_name = METRIC_OF[variable.config.distortion], variable.config.eval.name
    rate = None
    try:
        results = [_result(layout.result(job.directory, set_name)) for job in (variable, *fixed)]
        own = [results[0].at(level).point(lambda_label(level.lmbda)) for level in results[0].levels]
        points = [result.point(lambda_label(job.config.lmbda)) for result, job in zip(results[1:], fixed, strict=True)]
        curve = _curve("variable", own, results[0])
        anchor = _curve("fixed", points, results[1])
        rate = bd.bd_rate_of_curves(anchor, curve, metric)
        return rate, bd.bd_rate_interval(anchor, curve, metric), None
    except Unreadable as error:
        return None, None, f"not all runs are evaluated: {error}"
    except BDError as error:
        return rate, None, " ".join(str(error).split())


def _result(path: Path) -> Result:
    """Return the content of a result file.

    Raises:
        Unreadable: it is missing or damaged.
    """
    try:
        return Result.model_validate(read_json(path))
    except ValidationError as error:
        raise Unreadable(f"{path} is damaged") from error


def _curve(key: str, points: Sequence[Point], result: Result) -> Curve:
    return Curve(key, key, "model", result.set, tuple(points), result.image_list_sha256)


def render(found: Comparison, unit: str) -> Table:
    """Return the table of a comparison; ``unit`` is that of the hours."""
    table = ruled_table("runs", "steps", unit, "BD-rate", "95 %", title="one variable rate against fixed rates")
    table.add_row(f"fixed, {len(found.fixed)} runs", f"{found.fixed_steps:,}", _number(found.fixed_hours), "", "")
    rate = "-" if found.bd_rate is None else f"{found.bd_rate:+.2f} %"
    interval = "-" if found.interval is None else "{:+.2f} to {:+.2f}".format(*found.interval)
    table.add_row("variable, 1 run", f"{found.steps:,}", _number(found.hours), rate, interval)
    hours = found.hours / found.fixed_hours if found.hours is not None and found.fixed_hours else None
    table.add_row("ratio", f"{found.steps / found.fixed_steps:.2f}", _number(hours), "", "")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
