"""After every validation: the run's rate-distortion points, beside the stored curves of classical codecs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lic_train.anchors.stored import stored_anchors
from lic_train.rd.curves import Curve
from lic_train.rd.style import METRIC_LABELS
from lic_train.system.screen import reason, say
from lic_train.training.callbacks.pictures import log_picture

KEY = "val/rate_distortion"
NAME = "rate_distortion.png"


class RatePoint(NamedTuple):
    """One validation: means over the whole pictures that it coded."""

    step: int
    bpp: float
    psnr: float
    ms_ssim_db: float | None


class RateDistortion(Callback):
    """Draws ``rate_distortion.png`` into a directory: all validations of this run, and the anchors of a picture set.

    The anchors are of the set that will be evaluated at the end, the points of the run's validation pictures; both are
    named so. Must stand before `Checkpoints`, as the points travel in the checkpoints.

    Args:
        directory: where the PNG goes.
        name: of the run, for its line.
        set_name: of the pictures whose anchors are drawn.
    """

    def __init__(self, directory: Path, name: str, set_name: str) -> None:
        self.directory = Path(directory)
        self.name, self.set_name = name, set_name
        self.points: list[RatePoint] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point and draw, in the first process; a picture that cannot be written does not stop the training."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.sanity_checking or "val/bpp_file" not in values:
            return
        quality = values["val/psnr_file"], values.get("val/ms_ssim_db_file")
        self.points.append(RatePoint(trainer.global_step, values["val/bpp_file"], *quality))
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
        """The points so far."""
        return {"points": [tuple(point) for point in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the points of the run that is continued."""
        self.points = [RatePoint(*point) for point in state_dict["points"]]


def draw(path: Path, name: str, points: Sequence[RatePoint], anchors: Sequence[Curve]) -> None:
    """Write the chart, with a second one for MS-SSIM where the points have it.

    Args:
        path: a ``.png``; its directory must exist.
        name: of the run.
        points: at least one, in the order of steps.
        anchors: dashed lines.
    """
    metrics = [metric for metric in METRIC_LABELS if getattr(points[-1], metric) is not None]
    figure = Figure(figsize=(5.5 * len(metrics), 4.6), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, metric in enumerate(metrics, start=1):
        _draw_metric(figure.add_subplot(1, len(metrics), number), metric, name, points, anchors)
    if anchors:
        figure.suptitle(
            f"The run is measured on its own validation pictures, the anchors on {anchors[0].set}: to see where it "
            "stands, not to compare",
            fontsize=8,
            wrap=True,
        )
    canvas.print_png(path)


def _draw_metric(axes: Axes, metric: str, name: str, points: Sequence[RatePoint], anchors: Sequence[Curve]) -> None:
    for curve in anchors:
        if pairs := curve.with_quality(metric):
            axes.plot(*zip(*pairs, strict=True), "--", linewidth=1, label=f"{curve.name} ({curve.set})")
    pairs = [(point.bpp, getattr(point, metric)) for point in points]
    axes.plot(*zip(*pairs, strict=True), ".-", color="0.4", linewidth=0.8, markersize=4)
    axes.plot(*pairs[-1], "o", color="black", label=f"{name}, step {points[-1].step} (validation pictures)")
    axes.set_xlabel("bits per pixel of the files")
    axes.set_ylabel(METRIC_LABELS[metric])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
