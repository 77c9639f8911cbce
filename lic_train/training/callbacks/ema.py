"""Exponential moving average of the weights, used for validation and for the exported model.

Lightning's ``EMAWeightAveraging`` is not used for three reasons. It also swaps buffers, whose shapes differ once coding
tables exist. It restores the raw weights before the module's ``on_validation_epoch_end``, which writes the bitstreams.
And it has no warm-up, so the average of a short run would consist mostly of the initial weights.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lic_train.training.callbacks.checkpoints import Checkpoints
from lic_train.training.optim import applied

CHECKPOINT_KEY = "weight_averaging"


class WeightAveraging(Callback):
    """Keeps ``average = d * average + (1 - d) * weights`` after every optimizer step, in fp32, parameters only.

    ``d = min(decay, (1 + step) / (10 + step))``, the warm-up of TensorFlow's ``ExponentialMovingAverage``. The model
    contains the averaged weights from ``on_validation_start`` until this callback's ``on_validation_end``; callbacks
    that export or draw the model there must precede this one in the trainer's list. Every checkpoint contains both sets
    of weights, also if it is written during a validation.

    Args:
        decay: in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema: expected a number in (0, 1), got {decay}")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._updated_step = 0
        self._raw: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []
        self._loaded: dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the order of the callbacks.

        Raises:
            ValueError: Checkpoints follows, which would export the best model without the average.
        """
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        if any(isinstance(later, Checkpoints) for later in callbacks[callbacks.index(self) :]):
            raise ValueError("callbacks: expected WeightAveraging after Checkpoints, got the opposite order")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the average in the checkpoint, or from the current weights."""
        self._updated_step = trainer.global_step
        self._weights = [parameter.detach() for parameter in _parameters(pl_module).values()]
        loaded, self._loaded = self._loaded or {}, None
        self.average = {
            name: loaded.get(name, parameter.detach()).to(parameter.device, torch.float32, copy=True)
            for name, parameter in _parameters(pl_module).items()
        }

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Update the average after an optimizer step."""
        self._update(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the average into the model."""
        if self.average:
            self._raw = {name: parameter.detach().clone() for name, parameter in _parameters(pl_module).items()}
            _assign(pl_module, self.average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the trained weights."""
        self._restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the trained weights if a validation was interrupted."""
        self._restore(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the average, and make sure that ``state_dict`` contains the trained weights, not the average."""
        self._update(trainer, pl_module)  # an earlier callback may save within the same hook
        checkpoint[CHECKPOINT_KEY] = dict(self.average)
        for key in checkpoint["state_dict"]:
            if _plain(key) in self._raw:
                checkpoint["state_dict"][key] = self._raw[_plain(key)]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the loaded average until the model is on its device."""
        self._loaded = checkpoint.get(CHECKPOINT_KEY)

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if step > self._updated_step and self.average:
            self._updated_step = step
            share = 1 - min(self.decay, (1 + step) / (10 + step))
            average, weights = list(self.average.values()), [weight.float() for weight in self._weights]
            change = torch._foreach_sub(weights, average)
            torch._foreach_mul_(change, share * applied(trainer.optimizers[0]))
            torch._foreach_add_(average, change)

    def _restore(self, pl_module: LightningModule) -> None:
        if self._raw:
            _assign(pl_module, self._raw)
            self._raw = {}


def _plain(name: str) -> str:
    """Return a parameter's name without the prefix of torch.compile."""
    return name.replace("_orig_mod.", "")


def _parameters(pl_module: LightningModule) -> dict[str, torch.nn.Parameter]:
    return {_plain(name): parameter for name, parameter in pl_module.named_parameters()}


@torch.no_grad()
def _assign(pl_module: LightningModule, values: dict[str, Tensor]) -> None:
    for name, parameter in _parameters(pl_module).items():
        parameter.copy_(values[name])
