"""Figures of the general report: quality over rate, and logged quantities over the training steps."""

from __future__ import annotations

from lic_train.rd.curves import METRICS, Curve
from lic_train.rd.style import METRIC_LABELS, METRIC_NAMES, RATE_LABEL
from lic_train.report.elements import Figure, Line, usual_rates
from lic_train.report.gather import Gathered
from lic_train.report.runs import Run, trainings
from lic_train.runs.layout import METRICS as LOG
from lic_train.runs.metric_names import TRAIN_BPP, TRAIN_LOSS, TRAIN_PSNR
from lic_train.runs.training_log import read_log

DEFINITIONS = {
    "psnr": "PSNR of 8-bit RGB, computed for each picture and then averaged.",
    "ms_ssim_db": "MS-SSIM in dB: −10 log10(1 − mean MS-SSIM).",
}
KINDS = (
    "Solid: models trained here. Dashed: classical codecs, measured here on the same pictures. "
    "Dotted: cited results, with the rate and the pictures of their source."
)
LOGGED = {TRAIN_LOSS: "loss", TRAIN_BPP: RATE_LABEL, TRAIN_PSNR: METRIC_LABELS["psnr"]}
_POINTS = 200  # of a training curve


def rate_distortion(gathered: Gathered) -> list[Figure]:
    """Return one figure of quality over rate for each metric that has curves."""
    figures = [_rate_distortion(gathered, metric) for metric in METRICS]
    return [figure for figure in figures if figure.lines]


def models(gathered: Gathered) -> list[Curve]:
    """Return the curves of models without single named runs, which belong in the ablation tables."""
    return [curve for curve in gathered.curves if len(curve.points) > 1 or not curve.about["name"]]


def drawn(gathered: Gathered, metric: str) -> list[Curve]:
    """Return the curves of a figure. Models trained for MS-SSIM are compared in MS-SSIM only."""
    mine = [curve for curve in models(gathered) if metric == "ms_ssim_db" or curve.about["distortion"] == "mse"]
    trained = {(curve.about["model"], curve.about["distortion"]) for curve in mine}
    cited = [
        curve
        for curve in gathered.cited
        if curve.key in gathered.added or (curve.about.get("model"), curve.about.get("distortion")) in trained
    ]
    return [curve for curve in (*mine, *gathered.anchors, *cited) if curve.with_quality(metric)]


def line(curve: Curve, metric: str) -> Line:
    """Return the points of ``curve`` that have a value of ``metric``."""
    pairs = curve.with_quality(metric)
    labels = [point.parameter for point in curve.points if point.quality(metric) is not None]
    return Line(curve.name, [bpp for bpp, _ in pairs], [quality for _, quality in pairs], curve.kind, labels)


def training(gathered: Gathered) -> list[Figure]:
    """Return one figure for each model and logged quantity, with one line for each lambda."""
    figures = []
    for curve in gathered.curves:
        runs = trainings(gathered.members[curve.key])
        logs = [read_log(run.path / LOG, list(LOGGED), _POINTS) for run in runs]
        for column, label in LOGGED.items():
            pairs = [(run, log[column]) for run, log in zip(runs, logs, strict=True) if column in log]
            lines = [Line(_label(run), *values, "training") for run, values in pairs]
            if lines:
                figures.append(Figure(f"{curve.key}_{column}", f"{curve.name}: {label}", "step", label, lines))
    return figures


def _label(run: Run) -> str:
    return run.parameter if run.level is None else f"λ {run.trained_for}"


def _rate_distortion(gathered: Gathered, metric: str) -> Figure:
    lines = [line(curve, metric) for curve in drawn(gathered, metric)]
    note = f"Bits of whole files, headers included. {DEFINITIONS[metric]} {KINDS}"
    title = f"{METRIC_NAMES[metric]} over rate, {gathered.set}"
    return Figure(f"rd_{metric}", title, RATE_LABEL, METRIC_LABELS[metric], lines, note, usual_rates(lines))
