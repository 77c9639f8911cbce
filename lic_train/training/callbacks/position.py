"""Position of the trainer in the endless training stream, valid in ``on_train_batch_end``."""

from lightning.pytorch import Trainer


def step_ended(trainer: Trainer) -> bool:
    """Return whether the batch that just ended was the last micro-batch of an optimizer step."""
    return (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0


def validation_follows(trainer: Trainer) -> bool:
    """Return whether Lightning validates after this batch (``val_check_interval`` counts batches of the whole run)."""
    interval = trainer.val_check_batch
    if not interval or not trainer.enable_validation:
        return False
    return (trainer.fit_loop.total_batch_idx + 1) % interval == 0
