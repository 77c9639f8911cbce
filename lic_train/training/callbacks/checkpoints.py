"""Atomic checkpoints, and the export of the best model."""

import io
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.progress import _ProcessedTracker as ProcessedTracker

from lic_train.errors import CheckpointError, TrainingError
from lic_train.files.checkpoint import save_model
from lic_train.runs.checkpoints import read_checkpoint, step_file, step_files, step_number
from lic_train.runs.layout import BEST, LAST
from lic_train.runs.metric_names import VAL_LOSS
from lic_train.system import atomic
from lic_train.system.screen import reason, say, say_warning
from lic_train.training.callbacks.position import step_ended, validation_follows


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning checkpoint files, written atomically and read without executing code from them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; on failure an existing file stays unchanged.

        Raises:
            TrainingError: the disk is full or the directory is not writable.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            atomic.replace(Path(path), lambda temporary: temporary.write_bytes(buffer.getbuffer()))
        except OSError as error:
            raise _not_written(Path(path), error) from error

    def load_checkpoint(
        self, path: Any, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, always with ``weights_only=True``.

        Raises:
            CheckpointError: see `read_checkpoint`.
        """
        return read_checkpoint(Path(path))


def _not_written(path: Path, error: BaseException) -> TrainingError:
    return TrainingError(
        f"{path} could not be written.",
        expected="a writable directory with enough free space",
        got=reason(error),
        to_do="free disk space (checkpoint.keep=1 keeps the fewest files) or fix the permissions, then run the same "
        "command again, which continues from the last intact checkpoint",
    )


def _validation_is_pending(trainer: Trainer) -> bool:
    """Return whether the validation of the last optimizer step is due and has not finished."""
    in_hook = _batches(trainer).completed < _micro_batches(trainer)
    return trainer.validating or (in_hook and validation_follows(trainer))


def _batches(trainer: Trainer) -> ProcessedTracker:
    """Return Lightning's counters of the batches of the whole run."""
    return trainer.fit_loop.epoch_loop.batch_progress.total  # type: ignore[return-value]


def _micro_batches(trainer: Trainer) -> int:
    return trainer.global_step * trainer.accumulate_grad_batches


def _rewind_to_the_step(trainer: Trainer, validate: bool) -> None:
    """Set Lightning's counters to the end of the last step: the micro-batches after it are repeated.

    Args:
        trainer: of a training that has ended.
        validate: mark the validation as begun, so that a resumed training begins with it.
    """
    loop = trainer.fit_loop.epoch_loop
    for part in (loop.batch_progress.total, loop.batch_progress.current):
        for counter in ("ready", "started", "processed", "completed"):
            setattr(part, counter, _micro_batches(trainer))
    if validate:
        loop.val_loop.batch_progress.reset()
        loop.val_loop.batch_progress.increment_ready()
        loop.val_loop.batch_progress.increment_started()


def _link_or_copy(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)


class Checkpoints(Callback):
    """Saves ``step_%08d.ckpt`` every ``every`` optimizer steps and at the end, ``last.ckpt``, and the best model.

    If an error ends the training, the last completed step is saved as well.

    If a validation follows the step, the checkpoint is written after it, so that a resumed run neither repeats nor
    misses a validation. The best model has the lowest ``val/loss``; every checkpoint contains its value and step.

    Args:
        directory: folder of the files.
        every: optimizer steps between two checkpoints.
        keep: number of numbered checkpoints to keep; None keeps all.
        run_config: the resolved configuration as a plain dictionary; every checkpoint contains it and the network's
            configuration (``pl_module.model_config``).
    """

    def __init__(
        self, directory: Path, every: int, keep: int | None = 2, run_config: dict[str, Any] | None = None
    ) -> None:
        if every < 1 or (keep is not None and keep < 1):
            raise ValueError(f"checkpoint: expected every >= 1 and keep >= 1 or None, got every={every}, keep={keep}")
        self.directory = Path(directory)
        self.every = every
        self.keep = keep
        self.run_config = run_config or {}
        self.best_value = math.inf
        self.best_step: int | None = None
        self._saved_step = 0
        self._changing_batch = 0  # number of the batch during which the optimizer changes the weights, from 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the resumed step."""
        self._saved_step = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        """Note that the weights are not those of a whole step until the batch is counted."""
        self._changing_batch = _batches(trainer).started

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save if a checkpoint is due, unless a validation of the same step follows."""
        if step_ended(trainer) and self._is_due(trainer) and not validation_follows(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the model if it is the best so far, then save if a checkpoint is due."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._export_if_best(trainer, pl_module)
        if self._is_due(trainer):
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Save the current step unless it is already saved; return the checkpoint's path. All ranks must call it.

        Raises:
            TrainingError: the disk is full; older checkpoints stay intact.
        """
        step = trainer.global_step
        path = step_file(self.directory, step)
        if step != self._saved_step:
            for logger in trainer.loggers:
                logger.save()  # after a power cut the rows up to the checkpoint must exist
            trainer.save_checkpoint(path, weights_only=False)
            self._saved_step = step
            if trainer.is_global_zero:
                self._point_last_to(path)
                self._remove_old(step)
        return path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last completed step after an error; a second Ctrl-C and other exits save nothing.

        Every process may do it: the others may wait for this one, and all have the same state. A validation that did
        not finish is repeated when the run is resumed. After the last step Lightning would not repeat it, so that step
        is not saved.
        """
        step, path = trainer.global_step, step_file(self.directory, trainer.global_step)
        is_saved = step == self._saved_step or path.exists()
        is_changing = _batches(trainer).processed < self._changing_batch
        if not isinstance(exception, Exception) or is_saved or is_changing:
            return
        pending = _validation_is_pending(trainer)
        if pending and step == trainer.max_steps:
            return
        try:
            pl_module.restore_training_state()  # type: ignore[operator]
            _rewind_to_the_step(trainer, pending)
            # Not Trainer.save_checkpoint, which waits for the other processes.
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, path)
            self._point_last_to(path)
        except Exception as error:  # the cause is the first error, which is reported
            say_warning(f"step {step} could not be saved: {reason(error)}")
            return
        say(f"Saved step {step}: {path}", style="yellow")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far and its step."""
        return {"best_value": self.best_value, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value and its step."""
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the configurations of the network and of the run to the checkpoint, as plain containers."""
        checkpoint["model_config"] = getattr(pl_module, "model_config", {})
        checkpoint["run_config"] = self.run_config

    def _is_due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        return step != self._saved_step and (step % self.every == 0 or step == trainer.max_steps)

    def _export_if_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics.get(VAL_LOSS, math.nan))
        if not value < self.best_value:  # also for nan
            return
        self.best_value, self.best_step = value, trainer.global_step
        if trainer.is_global_zero:
            extra = {"step": trainer.global_step, "val_loss": value, "run_config": self.run_config}
            try:
                save_model(self.directory / BEST, pl_module.model, pl_module.model_config, extra)  # type: ignore[arg-type]
            except CheckpointError as error:
                raise _not_written(self.directory / BEST, error.__cause__ or error) from error

    def _point_last_to(self, path: Path) -> None:
        """Make ``last.ckpt`` the same file as ``path``; ``last.ckpt`` exists at every moment."""
        try:
            atomic.replace(self.directory / LAST, lambda temporary: _link_or_copy(path, temporary))
        except OSError as error:
            raise _not_written(self.directory / LAST, error) from error

    def _remove_old(self, step: int) -> None:
        """Delete the oldest numbered checkpoints; files of later steps, from an earlier run, do not count."""
        if self.keep is not None:
            done = [path for path in step_files(self.directory) if step_number(path) <= step]
            for path in done[: -self.keep]:
                path.unlink(missing_ok=True)
