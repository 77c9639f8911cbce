"""A paper's figures with the user's results: quality over rate, training curves, crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from lic_train.rd.curves import Curve
from lic_train.rd.style import METRIC_LABELS, RATE_LABEL
from lic_train.report.elements import Comparison, Crop, Figure, Line, usual_rates
from lic_train.report.figures import line
from lic_train.report.papers.facts import CropsFacts, CurvesFacts, TrainingFacts
from lic_train.report.papers.selection import Evidence, Selection
from lic_train.runs.layout import METRICS
from lic_train.runs.training_log import read_log

# (set, name of the photograph, curves, crop) -> the original and the reconstructions of the curves' models side by
# side, whose runs ``about["runs"]`` lists by Run.where; None if there are no reconstructions.
Compare = Callable[[str, str, Sequence[Curve], Crop], Comparison | None]


def curves(facts: CurvesFacts, evidence: Evidence) -> Figure | None:
    """Return the measured and the cited curve of each codec; None if there are none."""
    selection = evidence.on(facts.set)
    lines = [line(curve, facts.metric) for key in facts.codecs for curve in _curves(selection, key)]
    drawn = [line for line in lines if line.x]
    if not drawn:
        return None
    label, high = METRIC_LABELS[facts.metric], usual_rates(drawn)
    return Figure(facts.key, facts.title, RATE_LABEL, label, drawn, x_high=high)


def _curves(selection: Selection, key: str) -> Iterator[Curve]:
    yield from filter(None, (selection.measured(key), selection.cited(key)))


def training(facts: TrainingFacts, evidence: Evidence) -> Figure | None:
    """Return a logged quantity over the steps, one line for each codec with a run at the figure's lambda."""
    selection = evidence.on(facts.set)
    lines = [line for key in facts.codecs if (line := _log_line(facts, selection, key))]
    if not lines:
        return None
    return Figure(facts.key, facts.title, "step", facts.log, lines)


def _log_line(facts: TrainingFacts, selection: Selection, key: str) -> Line | None:
    run = selection.trained(key, facts.lmbda)
    steps, values = read_log(run.path / METRICS, [facts.log]).get(facts.log, ([], [])) if run else ([], [])
    return Line(selection.codec(key).name, steps, values, "training") if values else None


def crops(facts: CropsFacts, evidence: Evidence, compare: Compare) -> Comparison | None:
    """Return crops of the original and of the codecs trained here; None if there are no reconstructions."""
    selection = evidence.on(facts.set)
    trained = [curve for key in facts.codecs if (curve := selection.trained_curve(key))]
    known = {curve.key for curve in trained}
    if absent := [selection.codec(key).name for key in facts.codecs if key not in known]:
        evidence.remark(f"No reconstructions here of: {', '.join(absent)}.")
    made = compare(facts.set, facts.image, trained, facts.crop) if trained else None
    return made and replace(made, key=facts.key, title=facts.title)
