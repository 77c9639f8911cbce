"""The cost of a run: device hours over all of its starts."""

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lic_train.runs.metric_names import HOURS
from lic_train.training.callbacks.rows import numbers_of_the_step


class DeviceHours(Callback):
    """Counts the time since the run began, validations included, times the number of devices.

    Work of a killed process after its last checkpoint is repeated and counts once.

    Args:
        clock: a function that returns seconds from an arbitrary start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._before = 0.0
        self._started: float | None = None
        self._devices = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started, self._devices = self.clock(), trainer.world_size

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add the hours to the step's row."""
        name = HOURS["gpu" if pl_module.device.type == "cuda" else "cpu"]
        numbers_of_the_step(pl_module)[name] = self._hours()

    def state_dict(self) -> dict[str, float]:
        """Return the hours so far."""
        return {"hours": self._hours()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the hours of the resumed run."""
        self._before = state_dict["hours"]

    def _hours(self) -> float:
        now = 0.0 if self._started is None else self.clock() - self._started
        return self._before + now * self._devices / 3600
