"""One row of metrics per optimizer step, in every logger."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lic_train.training.callbacks.position import step_ended


def numbers_of_the_step(pl_module: LightningModule) -> dict[str, Tensor | float]:
    """Return the metrics of the current step, from the module and the callbacks; callbacks may add to it."""
    return pl_module.step_metrics  # type: ignore[return-value]


def as_floats(values: dict[str, Tensor | float]) -> dict[str, float]:
    """Convert numbers and scalar tensors to floats with a single synchronisation with the device."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    floats = torch.stack([value.detach().float() for value in tensors.values()]).tolist() if tensors else []
    return {**values, **dict(zip(tensors, floats, strict=True))}


class Rows(Callback):
    """Writes the metrics of a step to the loggers every ``log_every_n_steps`` steps.

    Lightning's own ``log`` costs a third of a millisecond per metric on every step, and writes after all callbacks: a
    kill between a checkpoint and its row would lose the row, because the resumed run starts after it. Must follow the
    callbacks that add metrics to the row, and precede `Checkpoints`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the row of the step that ended, in the first process."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.loggers and step_ended(trainer) and trainer.global_step % every == 0:
            row = as_floats(numbers_of_the_step(pl_module))
            for logger in trainer.loggers:
                logger.log_metrics(row, trainer.global_step)
