"""Position of the trainer in the endless training stream, valid in ``on_train_batch_end``."""

from lightning.pytorch import Trainer


def step_ended(trainer: Trainer) -> bool:
    """Return whether the batch that just ended was the last micro-batch of an optimizer step."""
    return (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0


def validation_follows(trainer: Trainer) -> bool:
    """Return whether Lightning validates after this batch (``val_check_interval`` counts batches of the whole run)."""
    interval = trainer.val_check_batch
    if not interval or (trainer.fit_loop.total_batch_idx + 1) % interval:
        return False
    return trainer.enable_validation  # inspects the module


def row_is_due(trainer: Trainer, at_most: int | None = None) -> bool:
    """Return whether a step ended whose metrics are written, or after ``at_most`` steps without any."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if at_most is not None:
        every = min(every, at_most)
    return step_ended(trainer) and trainer.global_step % every == 0


def count_back(trainer: Trainer, step: int) -> None:
    """Set the number of optimizer steps to ``step``, after steps whose updates were suppressed."""
    loop = trainer.fit_loop.epoch_loop
    progress = loop.automatic_optimization.optim_progress.optimizer.step
    undone = trainer.global_step - step
    for counter in (progress.total, progress.current):
        counter.ready -= undone
        counter.completed -= undone
    loop._batches_that_stepped -= undone
