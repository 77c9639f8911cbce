"""Ctrl-C and SIGTERM: finish the optimizer step, save, and say how to continue."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lic_train.errors import LicError
from lic_train.training.callbacks.checkpoints import Checkpoints
from lic_train.training.callbacks.position import step_ended, validation_follows
from lic_train.training.console import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(LicError):
    """Training was asked to stop and did so after a whole step, with a checkpoint behind it."""

    exit_code = 130  # as a shell reports Ctrl-C

    def __init__(self, step: int, checkpoint: Path) -> None:
        self.step = step
        self.checkpoint = checkpoint
        super().__init__(
            f"Stopped after step {step}; nothing is lost.\n"
            f"checkpoint: {checkpoint}\n"
            "what to do: run the same command again, it continues from there."
        )


class GracefulStop(Callback):
    """On the first SIGINT or SIGTERM ends the running optimizer step, saves a checkpoint and raises ``Interrupted``.

    A validation that is due at that step is still done, as without it the resumed run would miss it. A second signal
    aborts at once. Saves through the trainer's `Checkpoints`, and must stand behind every other callback in its list.
    """

    def __init__(self) -> None:
        self.requested = False
        self._saved: Path | None = None
        self._old_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; Lightning's own handler would stop without a checkpoint."""
        self.requested, self._saved = False, None
        for number in SIGNALS:
            self._old_handlers[number] = signal.signal(number, self._handle)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save between two optimizer steps, never between the micro-batches of one."""
        if step_ended(trainer) and not validation_follows(trainer):
            self._save_if_requested(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation that belongs to the step just done."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and step_ended(trainer):
            self._save_if_requested(trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Stop, now that the loggers have got the row of the step that was saved."""
        if self._saved is not None:
            raise Interrupted(trainer.global_step, self._saved)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back; a signal in the last step stops the program too."""
        self._save_if_requested(trainer)
        self._restore()
        if self._saved is not None:
            raise Interrupted(trainer.global_step, self._saved)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._restore()
            raise KeyboardInterrupt
        self.requested = True
        say("\nStopping after this step and saving; Ctrl-C again aborts at once.", style="yellow")

    def _save_if_requested(self, trainer: Trainer) -> None:
        # One process of several may have got the signal: all must stop at the same step, or the others wait for ever.
        if trainer.strategy.reduce_boolean_decision(self.requested, all=False):
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            self._saved = next(one for one in callbacks if isinstance(one, Checkpoints)).save(trainer)

    def _restore(self) -> None:
        while self._old_handlers:
            signal.signal(*self._old_handlers.popitem())
