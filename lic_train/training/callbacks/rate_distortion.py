"""After every validation: the run's rate-distortion points, with the stored curves of classical codecs."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lic_train.anchors.stored import stored_anchors
from lic_train.rd.curves import Curve
from lic_train.rd.style import METRIC_LABELS
from lic_train.runs.metric_names import BPP_FILE, MS_SSIM_DB_FILE, PSNR_FILE, of_level
from lic_train.system.screen import reason, say
from lic_train.training.callbacks.pictures import log_picture

KEY = "val/rate_distortion"
NAME = "rate_distortion.png"


class RatePoint(NamedTuple):
    """Means over the whole images that one validation coded, at one level of a variable rate."""

    step: int
    bpp: float
    psnr: float
    ms_ssim_db: float | None


class RateDistortion(Callback):
    """Draws ``rate_distortion.png``: all validations of this run, and the anchors of an image set.

    The anchors are measured on the set of the final evaluation, the points on the run's validation images; the legend
    names both. Must precede `Checkpoints`, because the checkpoints contain the points.

    Args:
        directory: folder of the PNG.
        name: name of the run in the legend.
        set_name: image set of the anchors.
    """

    def __init__(self, directory: Path, name: str, set_name: str) -> None:
        self.directory = Path(directory)
        self.name, self.set_name = name, set_name
        self.points: list[RatePoint] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point, and draw in the first process; if the PNG cannot be written, print a message and continue."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.sanity_checking or BPP_FILE not in values:
            return
        self.points += _points(trainer.global_step, values)
        if trainer.is_global_zero:
            path = self.directory / NAME
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                draw(path, self.name, self.points, stored_anchors(self.set_name))
            except OSError as error:
                say(f"The picture {path} could not be written: {reason(error)}", style="yellow")
                return
            log_picture(trainer, KEY, path)

    def state_dict(self) -> dict[str, Any]:
        """Return the points so far."""
        return {"points": [tuple(point) for point in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the points of the resumed run."""
        self.points = [RatePoint(*point) for point in state_dict["points"]]


def _points(step: int, values: Mapping[str, float]) -> list[RatePoint]:
    """Return the point of a validation, or the points of all levels of a variable rate, from the lowest."""
    names = (BPP_FILE, PSNR_FILE, MS_SSIM_DB_FILE)
    levels = itertools.takewhile(lambda level: of_level(BPP_FILE, level) in values, itertools.count())
    keys = [[of_level(name, level) for name in names] for level in levels] or [list(names)]
    return [RatePoint(step, values[bpp], values[psnr], values.get(ms_ssim)) for bpp, psnr, ms_ssim in keys]


def draw(path: Path, name: str, points: Sequence[RatePoint], anchors: Sequence[Curve]) -> None:
    """Write the PSNR chart, and an MS-SSIM chart next to it if the points have MS-SSIM.

    Args:
        path: a ``.png`` in an existing directory.
        name: name of the run.
        points: at least one, in the order of steps.
        anchors: curves drawn as dashed lines.
    """
    metrics = [metric for metric in METRIC_LABELS if getattr(points[-1], metric) is not None]
    figure = Figure(figsize=(5.5 * len(metrics), 4.6), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, metric in enumerate(metrics, start=1):
        _draw_metric(figure.add_subplot(1, len(metrics), number), metric, name, points, anchors)
    if anchors:
        figure.suptitle(
            f"The run is measured on its own validation images, the anchors on {anchors[0].set}: for orientation, not "
            "for comparison",
            fontsize=8,
            wrap=True,
        )
    canvas.print_png(path)


def _draw_metric(axes: Axes, metric: str, name: str, points: Sequence[RatePoint], anchors: Sequence[Curve]) -> None:
    for curve in anchors:
        if pairs := curve.with_quality(metric):
            axes.plot(*zip(*pairs, strict=True), "--", linewidth=1, label=f"{curve.name} ({curve.set})")
    pairs = [(point.bpp, getattr(point, metric)) for point in points]
    last = [pair for point, pair in zip(points, pairs, strict=True) if point.step == points[-1].step]
    # Points of one rate are connected from validation to validation, those of a variable rate from level to level.
    earlier, latest = (".-", "o") if len(last) == 1 else (".", "o-")
    axes.plot(*zip(*pairs, strict=True), earlier, color="0.4", linewidth=0.8, markersize=4)
    label = f"{name}, step {points[-1].step} (validation images)"
    axes.plot(*zip(*last, strict=True), latest, color="black", label=label)
    axes.set_xlabel("bits per pixel of the files")
    axes.set_ylabel(METRIC_LABELS[metric])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
