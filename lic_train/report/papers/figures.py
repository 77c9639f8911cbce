"""A paper's figures with our lines: quality over rate, training curves, crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lic_train.rd.curves import Curve
from lic_train.report.elements import Comparison, Figure, Line, usual_rates
from lic_train.report.papers.facts import CropsFacts, CurvesFacts, TrainingFacts
from lic_train.report.papers.inputs import Compare
from lic_train.report.papers.selection import Evidence, Selection
from lic_train.report.papers.tables import METRIC_NAMES
from lic_train.runs.training_log import read_log


def curves(facts: CurvesFacts, evidence: Evidence) -> Figure | None:
    """Of each codec the curve measured here, and the cited one; None if there is neither of any."""
    selection = evidence.on(facts.set)
    lines = [_line(curve, facts.metric) for key in facts.codecs for curve in _curves(selection, key)]
    drawn = [line for line in lines if line.x]
    if not drawn:
        return None
    label, high = METRIC_NAMES[facts.metric], usual_rates(drawn)
    return Figure(facts.key, facts.title, "bits per pixel", label, drawn, x_high=high)


def _curves(selection: Selection, key: str) -> Iterator[Curve]:
    yield from filter(None, (selection.measured(key), selection.cited(key)))


def _line(curve: Curve, metric: str) -> Line:
    points = [point for point in curve.points if point.quality(metric) is not None]
    rates, qualities = [point.bpp for point in points], [quality for _, quality in curve.with_quality(metric)]
    return Line(curve.name, rates, qualities, curve.kind, [point.parameter for point in points])


def training(facts: TrainingFacts, evidence: Evidence) -> Figure | None:
    """A logged quantity over steps, one line for each codec that was trained at the figure's lambda."""
    selection = evidence.on(facts.set)
    lines = [line for key in facts.codecs if (line := _log_line(facts, selection, key))]
    if not lines:
        return None
    return Figure(facts.key, facts.title, "step", facts.log, lines)


def _log_line(facts: TrainingFacts, selection: Selection, key: str) -> Line | None:
    run = selection.trained(key, facts.lmbda)
    steps, values = read_log(run.path / "metrics.csv", [facts.log]).get(facts.log, ([], [])) if run else ([], [])
    return Line(selection.codec(key).name, steps, values, "training") if values else None


def crops(facts: CropsFacts, evidence: Evidence, compare: Compare) -> Comparison | None:
    """Crops of one photograph: the original, then the codecs that are trained here; None if there is none."""
    selection = evidence.on(facts.set)
    trained = [curve for key in facts.codecs if (curve := selection.trained_curve(key))]
    known = {curve.key for curve in trained}
    if absent := [selection.codec(key).name for key in facts.codecs if key not in known]:
        evidence.say(f"No picture here of: {', '.join(absent)}.")
    made = compare(facts.set, facts.image, trained, facts.crop) if trained else None
    return made and replace(made, key=facts.key, title=facts.title)
