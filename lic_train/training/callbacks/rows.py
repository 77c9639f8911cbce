"""One row of metrics per optimizer step, in every logger."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lic_train.training.callbacks.position import row_is_due


def numbers_of_the_step(pl_module: LightningModule) -> dict[str, Tensor | float]:
    """Return the metrics of the current step, from the module and the callbacks; callbacks may add to it."""
    return pl_module.step_metrics  # type: ignore[return-value]


def as_floats(rows: Iterable[Mapping[str, Tensor | float]]) -> list[dict[str, float]]:
    """Convert the numbers and scalar tensors of all rows to floats with a single transfer from the device."""
    rows = list(rows)
    tensors = [value.detach().float() for row in rows for value in row.values() if isinstance(value, Tensor)]
    floats = iter(torch.stack(tensors).tolist() if tensors else [])
    return [{name: next(floats) if isinstance(value, Tensor) else value for name, value in row.items()} for row in rows]


class Rows(Callback):
    """Writes the metrics of a step to the loggers every ``log_every_n_steps`` steps.

    Lightning's own ``log`` costs a third of a millisecond per metric on every step, and writes after all callbacks: a
    kill between a checkpoint and its row would lose the row, because the resumed run starts after it. Must follow the
    callbacks that add metrics to the row, and precede `Checkpoints`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the row of the step that ended, in the first process."""
        if trainer.loggers and row_is_due(trainer):
            row = as_floats([numbers_of_the_step(pl_module)])[0]
            for logger in trainer.loggers:
                logger.log_metrics(row, trainer.global_step)
