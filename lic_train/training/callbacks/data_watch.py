"""Reports damaged photographs during the training."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lic_train.data.damage import DataReport


class DataWatch(Callback):
    """Adds every batch to the run's `DataReport`, which names each damaged file once and stops if there are too many.

    Args:
        run_dir: folder of ``data_report.json``.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self.report: DataReport | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the report, using the root, size and rank of the data module."""
        self.report = trainer.datamodule.report(self.run_dir)  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Add a training batch.

        Raises:
            DataError: see `DataReport.add`.
        """
        assert self.report is not None
        self.report.add(batch)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        """Add a validation batch.

        Raises:
            DataError: see `DataReport.add`.
        """
        assert self.report is not None
        self.report.add(batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the counts to disk."""
        assert self.report is not None
        self.report.write()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the counts to disk."""
        if self.report is not None:
            self.report.write()
