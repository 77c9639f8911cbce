"""Ctrl-C, SIGTERM and SIGUSR1: finish the optimizer step, save a checkpoint and report how to continue."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lic_train.errors import LicError
from lic_train.system.interrupts import EXIT_CODES, Stopped
from lic_train.system.screen import say
from lic_train.training.callbacks.checkpoints import Checkpoints
from lic_train.training.callbacks.position import row_is_due, step_ended, validation_follows


class Interrupted(LicError):
    """Training stopped after a signal, at the end of a step, with a checkpoint of that step.

    Args:
        number: the signal, which determines the exit code.
        step: the last completed step.
        checkpoint: the checkpoint of that step.
    """

    def __init__(self, number: int, step: int, checkpoint: Path) -> None:
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        self.step, self.checkpoint = step, checkpoint
        super().__init__(
            f"Stopped after step {step} by {signal.Signals(number).name}; the checkpoint {checkpoint} is complete.",
            to_do="run the same command again, which continues from this step",
        )


class GracefulStop(Callback):
    """On the first signal finishes the current optimizer step, saves a checkpoint and raises ``Interrupted``.

    Several processes stop at the next step whose metrics are written: only then do they compare their signals, because
    a comparison waits for the device. A validation that is due at that step still runs, because the resumed run would
    not repeat it. A second Ctrl-C aborts at once; other signals may be repeated, as schedulers do. Saves with the
    trainer's `Checkpoints`, and must be the last callback in the trainer's list.
    """

    def __init__(self) -> None:
        self.requested = 0  # number of the signal
        self._old_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers; Lightning's own handler stops without a checkpoint."""
        self.requested = 0
        for number in EXIT_CODES:
            self._old_handlers[number] = signal.signal(number, self._handle)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop between two optimizer steps, never between the micro-batches of a step."""
        due = step_ended(trainer) if trainer.world_size == 1 else row_is_due(trainer)
        if due and not validation_follows(trainer):
            self._stop_if_requested(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a validation of the step that just ended."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and step_ended(trainer):
            self._stop_if_requested(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the signal handlers; a signal during the last step also stops the program."""
        self._restore()
        self._stop_if_requested(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            self._restore()
            raise Stopped(number)
        if not self.requested:
            self.requested = number
            message = "\nStopping after this step and saving a checkpoint; Ctrl-C again aborts at once."
            threading.Thread(target=say, args=(message, "yellow")).start()  # the main thread may be printing

    def _stop_if_requested(self, trainer: Trainer) -> None:
        # Only one of several processes may have received the signal. All must stop at the same step: the others would
        # wait for it in a collective operation.
        requested = self.requested
        if trainer.world_size > 1:
            own = torch.tensor(requested, device=trainer.strategy.root_device)
            requested = int(trainer.strategy.reduce(own, reduce_op="max"))
        if requested:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            saved = next(one for one in callbacks if isinstance(one, Checkpoints)).save(trainer)
            raise Interrupted(requested, trainer.global_step, saved)

    def _restore(self) -> None:
        while self._old_handlers:
            signal.signal(*self._old_handlers.popitem())
