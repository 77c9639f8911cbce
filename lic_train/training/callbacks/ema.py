"""Exponential moving average of the weights, used for validation and for the exported model.

Lightning's ``EMAWeightAveraging`` does not fit here: it swaps buffers too, whose shapes differ once coding tables
exist; it puts the raw weights back before the module's ``on_validation_epoch_end``, where the real bitstreams are made;
and it has no warm-up, so that a short run would validate little but its first weights.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lic_train.training.callbacks.checkpoints import Checkpoints

CHECKPOINT_KEY = "weight_averaging"


class WeightAveraging(Callback):
    """Keeps ``average = d * average + (1 - d) * weights`` after every optimizer step, in fp32, parameters only.

    ``d = min(decay, (1 + step) / (10 + step))``, the warm-up of TensorFlow's ``ExponentialMovingAverage``. The averaged
    weights stand in the model from ``on_validation_start`` until this callback's ``on_validation_end``; what exports or
    draws the model there must come before this callback in the trainer's list. Checkpoints hold both sets, whenever
    they are written.

    Args:
        decay: in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"expected ema in (0, 1), got {decay}")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._updated_step = 0
        self._raw: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse an order in which the best model would be exported without the average."""
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        if any(isinstance(later, Checkpoints) for later in callbacks[callbacks.index(self) :]):
            raise ValueError("expected WeightAveraging behind Checkpoints in the list of callbacks")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the current weights, or where the continued run stood."""
        self._updated_step = trainer.global_step
        loaded, self._loaded = self._loaded or {}, None
        self.average = {
            name: loaded.get(name, parameter.detach()).to(parameter.device, torch.float32, copy=True)
            for name, parameter in _parameters(pl_module).items()
        }

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Take in the weights of the step just done."""
        self._update(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average into the model."""
        if self.average:
            self._raw = {name: parameter.detach().clone() for name, parameter in _parameters(pl_module).items()}
            _assign(pl_module, self.average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back."""
        self._put_back(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the trained weights back if a validation was cut short."""
        self._put_back(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average, and see to it that ``state_dict`` holds the trained weights, not the average."""
        self._update(trainer, pl_module)  # a callback before this one may save within the same hook
        checkpoint[CHECKPOINT_KEY] = dict(self.average)
        for key in checkpoint["state_dict"]:
            if _plain(key) in self._raw:
                checkpoint["state_dict"][key] = self._raw[_plain(key)]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the average until the model is on its device."""
        self._loaded = checkpoint.get(CHECKPOINT_KEY)

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if step > self._updated_step and self.average:
            self._updated_step = step
            decay = min(self.decay, (1 + step) / (10 + step))
            weights = [parameter.detach().float() for parameter in _parameters(pl_module).values()]
            get_ema_multi_avg_fn(decay)(list(self.average.values()), weights, None)

    def _put_back(self, pl_module: LightningModule) -> None:
        if self._raw:
            _assign(pl_module, self._raw)
            self._raw = {}


def _plain(name: str) -> str:
    """A parameter's name without the prefix that torch.compile puts in front."""
    return name.replace("_orig_mod.", "")


def _parameters(pl_module: LightningModule) -> dict[str, torch.nn.Parameter]:
    return {_plain(name): parameter for name, parameter in pl_module.named_parameters()}


@torch.no_grad()
def _assign(pl_module: LightningModule, values: dict[str, Tensor]) -> None:
    for name, parameter in _parameters(pl_module).items():
        parameter.copy_(values[name])
