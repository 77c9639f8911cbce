"""A module with four weights, an endless stream and a Trainer for it, for the tests of callbacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lic_train.training.callbacks import AtomicCheckpointIO
from lic_train.training.lean_loop import NoProfiler, without_repeated_work
from lic_train.training.optim import gradient_norms

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Stream(IterableDataset):
    """Endless stream in which batch k is a pure function of k, as in the real one."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        number = self.start
        while True:
            generator = torch.Generator().manual_seed(number)
            x = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=generator)
            yield {"x": x, "failures": [], "small": 0, "number": number}
            number += 1


class Tiny(LightningModule):
    """Fits a linear map of the mean colour to 1; ``val/loss`` is ``val_losses[step]`` if given."""

    def __init__(self, val_losses: dict[int, float] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.model_config = {"_target_": "tiny", "N": 3}
        self.seed = 7
        self.val_losses = val_losses
        self.seen: list[int] = []
        self.validated: list[tuple[int, float]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        self.seen.append(batch["number"])
        loss = self.loss(batch)
        bpp = torch.tensor(0.5)
        self.step_metrics = {"train/loss": loss.detach(), "train/bpp": bpp, "train/psnr": torch.tensor(30.0)}
        return {"loss": loss}

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return (self.model(batch["x"].float().mean(dim=(2, 3)) / 255) - 1).square().mean()

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        loss.backward()
        self.gradient_norms = gradient_norms(self.trainer.optimizers[0])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        loss = float(self.loss(batch))
        self.validated.append((self.global_step, loss))
        value = self.val_losses[self.global_step] if self.val_losses else loss
        values = {"val/loss": value, "val/bpp": 0.25, "val/psnr": 31.0, "val/bpp_file": 0.26}
        self.log_dict({**values, "step": float(self.global_step)}, batch_size=2)

    def restore_training_state(self) -> None:
        """As in LitCodec; there is nothing to restore."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1, fused=True)

    def train_dataloader(self) -> DataLoader:
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return DataLoader(Stream(start), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Stream(10**6), batch_size=None)


class At(Callback):
    """Calls ``action(trainer, module)`` after the backward pass of one micro-batch, counted over the run from 0."""

    def __init__(self, micro_batch: int, action: Any) -> None:
        self.micro_batch, self.action = micro_batch, action

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.total_batch_idx == self.micro_batch:
            self.action(trainer, pl_module)


def fit(
    module: LightningModule,
    callbacks: list[Callback],
    steps: int,
    resume: Path | None = None,
    data: LightningDataModule | None = None,
    **options: Any,
) -> Trainer:
    """Train for ``steps`` optimizer steps with a Trainer like the real one."""
    settings: dict[str, Any] = {"limit_val_batches": 1, "val_check_interval": 10**9, "logger": False} | options
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[AtomicCheckpointIO()],
        profiler=NoProfiler(),
        callbacks=callbacks,
        **settings,
    )
    without_repeated_work(trainer).fit(module, ckpt_path=resume, weights_only=True, datamodule=data)
    return trainer
