"""The progress bar of a training run; plain lines without a terminal."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import rich
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text
from torch import Tensor

from lic_train.runs.metric_names import IMAGES_PER_SECOND, TRAIN, VAL, WAITING_SHARE
from lic_train.training.callbacks.position import step_ended
from lic_train.training.callbacks.rows import as_floats, numbers_of_the_step

SMOOTHED = 20  # optimizer steps over which the numbers are averaged
BAR_SECONDS = 0.25
LINE_SECONDS = 10.0
MUCH_WAITING = 0.2
TRAINING_LABELS = {"loss": "loss {:.4g}", "bpp": "bpp {:.3f}", "psnr": "PSNR {:.2f} dB", "ms_ssim": "1-MS-SSIM {:.4f}"}
VALIDATION_LABELS = TRAINING_LABELS | {"bpp_file": "bpp_file {:.3f}"}


class Pace:
    """Time from the end of one batch to the end of the next, and the part of it spent waiting for data.

    Waiting is all the time between two batches: fetching, decoding without workers, transfer to the device. A GPU may
    still be computing meanwhile, so its idle time is shorter.

    Args:
        clock: a function that returns seconds from an arbitrary start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.trained = self.waited = 0.0
        self.steps = 0
        self._recent: deque[float] = deque(maxlen=SMOOTHED)
        self._step = 0.0
        self._mark = clock()

    def restart(self) -> None:
        """Ignore the time since the last batch: a validation is neither training nor waiting."""
        self._mark = self.clock()

    def data_arrived(self) -> None:
        """Record that the next batch is available."""
        self.waited += self.clock() - self._mark

    def batch_done(self, step_ended: bool) -> None:
        """Record the end of a micro-batch, and of its optimizer step if ``step_ended``."""
        now = self.clock()
        self._step += now - self._mark
        self._mark = now
        if step_ended:
            self.trained += self._step
            self._recent.append(self._step)
            self.steps += 1
            self._step = 0.0

    @property
    def steps_per_second(self) -> float:
        """Mean speed of the last `SMOOTHED` steps, 0 before the first one."""
        seconds = sum(self._recent)
        return len(self._recent) / seconds if seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """Share of the training time spent waiting for data, in [0, 1]."""
        return min(self.waited / self.trained, 1.0) if self.trained else 0.0


class _TwoLines(Progress):
    """A bar with a line of numbers below it."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.numbers, no_wrap=True, overflow="ellipsis", style="cyan")


class ProgressBar(Callback):
    """Shows steps, speed, loss, bpp, PSNR and remaining time; a line per validation; a summary with the wait for data.

    Reads ``train/loss``, ``train/bpp``, ``train/psnr`` (or ``train/ms_ssim``) from the metrics of the step, adds the
    speed of the previous steps to them, and reads the same names under ``val/`` with ``val/bpp_file``. Must follow the
    callbacks that save or draw, whose time would otherwise count as waiting.

    Args:
        batch_size: images of one optimizer step over all devices.
        console: the console to draw on; rich's shared one by default.
        clock: a function that returns seconds from an arbitrary start.
    """

    def __init__(
        self, batch_size: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.batch_size = batch_size
        self.console = console or rich.get_console()
        self.clock = clock
        self.pace = Pace(clock)
        self._values: deque[dict[str, Tensor | float]] = deque(maxlen=SMOOTHED)
        self._bar: _TwoLines | None = None
        self._started = self._shown = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the resumed step."""
        self.pace = Pace(self.clock)
        self._values = deque(maxlen=SMOOTHED)
        self._started, self._shown = self.clock(), float("-inf")
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar = _bar(self.console)
            done, total = trainer.global_step, trainer.max_steps
            self._bar.add_task("", completed=done, total=total, elapsed=_clock_face(0), left="?", wait="?")
            self._bar.start()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """End the wait for the batch."""
        self.pace.data_arrived()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log the speed so far; the speed of this step is known only after its row has been written."""
        if self.pace.steps:
            speed = self.pace.steps_per_second * self.batch_size
            numbers_of_the_step(pl_module).update({IMAGES_PER_SECOND: speed, WAITING_SHARE: self.pace.waiting_share})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show the new numbers if the last ones have been shown long enough."""
        ended = step_ended(trainer)
        self.pace.batch_done(ended)
        if not ended or not trainer.is_global_zero:
            return
        self._values.append(_pick(numbers_of_the_step(pl_module), TRAIN, TRAINING_LABELS))
        pause = BAR_SECONDS if self._bar else LINE_SECONDS
        if trainer.global_step == trainer.max_steps or self.clock() - self._shown >= pause:
            self._shown = self.clock()
            self._show(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that a validation is running."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step)
            self._bar.numbers = f"validating at step {trainer.global_step} ..."

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a line of results above the bar."""
        self.pace.restart()
        if trainer.is_global_zero and not trainer.sanity_checking:
            values = as_floats([_pick(trainer.callback_metrics, VAL, VALIDATION_LABELS)])[0]
            self._print(f"validation at step {trainer.global_step}: {_formatted(values, VALIDATION_LABELS)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar and print a summary."""
        self._stop()
        if not trainer.is_global_zero or not self.pace.steps:
            return
        speed = self.pace.steps / self.pace.trained if self.pace.trained else 0.0
        share = self.pace.waiting_share
        hint = "; more data.num_workers may help" if share > MUCH_WAITING else ""
        self._print(
            f"{self.pace.steps} steps in {_clock_face(self.clock() - self._started)}: {_short(speed)} steps/s, "
            f"{_short(speed * self.batch_size)} images/s; {share:.1%} of the time waited for data{hint}"
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, which restores the terminal."""
        self._stop()

    def _show(self, trainer: Trainer) -> None:
        speed = self.pace.steps_per_second
        numbers = [f"{_short(speed)} steps/s", f"{_short(speed * self.batch_size)} images/s"]
        numbers.append(_formatted(_mean(self._values), TRAINING_LABELS))
        step, total = trainer.global_step, trainer.max_steps
        left = _clock_face((total - step) / speed) if speed else "?"
        wait = f"{self.pace.waiting_share:.1%}"
        if self._bar is None:
            self._print(
                f"step {step}/{total} ({step / total:.1%})  {'  '.join(numbers)}  data wait {wait}  left {left}"
            )
            return
        elapsed = _clock_face(self.clock() - self._started)
        self._bar.numbers = "  ".join(numbers)
        self._bar.update(self._bar.task_ids[0], completed=step, elapsed=elapsed, left=left, wait=wait)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=not self.console.is_terminal)

    def _stop(self) -> None:
        if self._bar:
            self._bar.refresh()
            self._bar.stop()
            self._bar = None


def _bar(console: Console) -> _TwoLines:
    return _TwoLines(
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("elapsed {task.fields[elapsed]}  left {task.fields[left]}  wait {task.fields[wait]}"),
        console=console,
        expand=True,
        refresh_per_second=4,
    )


def _pick(metrics: Mapping[str, Tensor | float], prefix: str, labels: dict[str, str]) -> dict[str, Tensor | float]:
    return {name: metrics[prefix + name] for name in labels if prefix + name in metrics}


def _mean(values: Iterable[dict[str, Tensor | float]]) -> dict[str, float]:
    """Return the mean of each metric over the steps that have it; one transfer from the device."""
    columns: dict[str, list[float]] = {}
    for row in as_floats(values):
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: statistics.fmean(column) for name, column in columns.items()}


def _formatted(values: dict[str, float], labels: dict[str, str]) -> str:
    return "  ".join(label.format(values[name]) for name, label in labels.items() if name in values)


def _short(number: float) -> str:
    """Format with three significant digits, without an exponent."""
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def _clock_face(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
