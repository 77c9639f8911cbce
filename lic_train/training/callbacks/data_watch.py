"""Tells of damaged photographs while training goes on."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lic_train.data.damage import DataReport


class DataWatch(Callback):
    """Hands every batch to the run's `DataReport`, which names damaged files once and stops when there are too many.

    Args:
        run_dir: where ``data_report.json`` goes.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self.report: DataReport | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the report of the data module, which knows its root, its size and the rank."""
        self.report = trainer.datamodule.report(self.run_dir)  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note what the training batch met. Raises DataError, see `DataReport.add`."""
        assert self.report is not None
        self.report.add(batch)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        """Note what the validation batch met. Raises DataError, see `DataReport.add`."""
        assert self.report is not None
        self.report.add(batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the counts to the disk."""
        assert self.report is not None
        self.report.write()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Bring the counts to the disk."""
        if self.report is not None:
            self.report.write()
