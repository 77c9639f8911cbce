"""Figures of the general report: quality over rate, and what was logged over the steps of a training."""

from __future__ import annotations

from lic_train.rd.curves import METRICS, Curve
from lic_train.report.elements import Figure, Line, usual_rates
from lic_train.report.gather import Gathered, parameter
from lic_train.runs.layout import METRICS as LOG
from lic_train.runs.training_log import read_log

METRIC_NAMES = {"psnr": "PSNR (dB)", "ms_ssim_db": "MS-SSIM (dB)"}
RATE = "bits per pixel"
DEFINITIONS = {
    "psnr": "PSNR of 8-bit RGB, for each picture, then the mean.",
    "ms_ssim_db": "MS-SSIM in dB: −10 log10(1 − mean MS-SSIM).",
}
KINDS = (
    "Solid: trained here. Dashed: classical codecs, measured here on the same pictures. "
    "Dotted: cited, rate and pictures as the source has them."
)
LOGGED = {"train/loss": "loss", "train/bpp": RATE, "train/psnr": METRIC_NAMES["psnr"]}
_POINTS = 200  # of a training line


def rate_distortion(gathered: Gathered) -> list[Figure]:
    """Quality over rate, one figure for each metric that something was measured in."""
    figures = [_rate_distortion(gathered, metric) for metric in METRICS]
    return [figure for figure in figures if figure.lines]


def models(gathered: Gathered) -> list[Curve]:
    """Of the models trained here all but named runs that stand alone, which belong to the ablation tables."""
    return [curve for curve in gathered.curves if len(curve.points) > 1 or not curve.about["name"]]


def drawn(gathered: Gathered, metric: str) -> list[Curve]:
    """The curves of a figure; models that were trained for MS-SSIM are compared in MS-SSIM alone."""
    mine = [curve for curve in models(gathered) if metric == "ms_ssim_db" or curve.about["distortion"] == "mse"]
    trained = {(curve.about["model"], curve.about["distortion"]) for curve in mine}
    cited = [curve for curve in gathered.cited if (curve.about.get("model"), curve.about.get("distortion")) in trained]
    return [curve for curve in (*mine, *gathered.anchors, *cited) if curve.with_quality(metric)]


def line(curve: Curve, metric: str) -> Line:
    """The points of ``curve`` that have ``metric``."""
    pairs = curve.with_quality(metric)
    labels = [point.parameter for point in curve.points if point.quality(metric) is not None]
    return Line(curve.name, [bpp for bpp, _ in pairs], [quality for _, quality in pairs], curve.kind, labels)


def training(gathered: Gathered) -> list[Figure]:
    """What each model logged, one figure for each quantity, one line for each lambda."""
    figures = []
    for curve in gathered.curves:
        runs = gathered.members[curve.key]
        logs = [read_log(run.path / LOG, list(LOGGED), _POINTS) for run in runs]
        for column, label in LOGGED.items():
            pairs = [(run, log[column]) for run, log in zip(runs, logs, strict=True) if column in log]
            lines = [Line(parameter(run), *values, "training") for run, values in pairs]
            if lines:
                figures.append(Figure(f"{curve.key}_{column}", f"{curve.name}: {label}", "step", label, lines))
    return figures


def _rate_distortion(gathered: Gathered, metric: str) -> Figure:
    name = METRIC_NAMES[metric]
    lines = [line(curve, metric) for curve in drawn(gathered, metric)]
    about = f"Bits of whole files, headers included. {DEFINITIONS[metric]} {KINDS}"
    title = f"{name.partition(' ')[0]} over rate, {gathered.set}"
    return Figure(f"rd_{metric}", title, RATE, name, lines, about, usual_rates(lines))
