"""Ctrl-C, SIGTERM and SIGUSR1: finish the optimizer step, save, and say how to continue."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lic_train.errors import LicError
from lic_train.system.screen import say
from lic_train.training.callbacks.checkpoints import Checkpoints
from lic_train.training.callbacks.position import step_ended, validation_follows

INTERRUPTED = 130  # as a shell reports Ctrl-C
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: a scheduler that sent SIGUSR1 shall start the same command again
EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: INTERRUPTED, signal.SIGUSR1: REQUEUE}


class Interrupted(LicError):
    """Training was asked to stop and did so after a whole step, with a checkpoint behind it.

    Args:
        number: the signal, which gives the exit code.
        step: the last whole step.
        checkpoint: of that step.
    """

    def __init__(self, number: int, step: int, checkpoint: Path) -> None:
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        self.step, self.checkpoint = step, checkpoint
        super().__init__(
            f"Stopped after step {step} by {signal.Signals(number).name}; nothing is lost.\ncheckpoint: {checkpoint}\n"
            "what to do: run the same command again, it continues from there."
        )


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Before and after the training nothing need be saved: SIGTERM and SIGUSR1 end the program, as Ctrl-C does.

    Not by an error, which somebody might take for one of a file that was just being read; and a handler prints nothing,
    as it may interrupt a line half printed.
    """
    got: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        got.append(signal.Signals(number).name)
        sys.exit(EXIT_CODES[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for name in got[:1]:
            say(f"Stopped by {name}; the same command goes on.", style="yellow")
        for number, handler in before.items():
            signal.signal(number, handler)


class GracefulStop(Callback):
    """On the first signal ends the running optimizer step, saves a checkpoint and raises ``Interrupted``.

    A validation that is due at that step is still done, as without it the resumed run would miss it. Ctrl-C after that
    aborts at once; other signals may be repeated, as schedulers do. Saves through the trainer's `Checkpoints`, and must
    stand behind every other callback in its list.
    """

    def __init__(self) -> None:
        self.requested = 0  # the signal
        self._old_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; Lightning's own handler would stop without a checkpoint."""
        self.requested = 0
        for number in EXIT_CODES:
            self._old_handlers[number] = signal.signal(number, self._handle)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop between two optimizer steps, never between the micro-batches of one."""
        if step_ended(trainer) and not validation_follows(trainer):
            self._stop_if_requested(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a validation that belongs to the step just done."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and step_ended(trainer):
            self._stop_if_requested(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back; a signal behind the last step stops the program too."""
        self._restore()
        self._stop_if_requested(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            self._restore()
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = number
            told = "\nStopping after this step and saving; Ctrl-C again aborts at once."
            threading.Thread(target=say, args=(told, "yellow")).start()  # this one may just be printing

    def _stop_if_requested(self, trainer: Trainer) -> None:
        # One process of several may have got the signal: all must stop at the same step, or the others wait for ever.
        own = torch.tensor(self.requested, device=trainer.strategy.root_device)
        if requested := int(trainer.strategy.reduce(own, reduce_op="max")):
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            saved = next(one for one in callbacks if isinstance(one, Checkpoints)).save(trainer)
            raise Interrupted(requested, trainer.global_step, saved)

    def _restore(self) -> None:
        while self._old_handlers:
            signal.signal(*self._old_handlers.popitem())
