"""Suppresses the update of a step whose loss or gradient is not finite, and stops with the batch that caused it."""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from lic_train.errors import TrainingError
from lic_train.runs.layout import CHECKPOINTS, FAILING_BATCH, LAST
from lic_train.training.callbacks.position import count_back, row_is_due, step_ended, validation_follows
from lic_train.training.callbacks.rows import as_floats, numbers_of_the_step
from lic_train.training.optim import parameters_of

NAMED = 20  # maximum number of parameter names in the report
UNREAD = 100  # maximum number of steps between two reads of the flags


@dataclass(frozen=True)
class MicroBatch:
    """What the report needs of a micro-batch; tensors are on the device.

    Attributes:
        step: its optimizer step.
        failed: 1.0 if its loss or a gradient is not finite, otherwise 0.0.
        loss: its loss.
        norms: gradient norm of each parameter, in the order of the optimizer.
        numbers: metrics of its step.
    """

    step: int
    failed: Tensor
    loss: Tensor
    norms: Tensor
    numbers: dict[str, Tensor | float]


class NonFiniteGuard(Callback):
    """Raises TrainingError after a step whose loss or gradient norm is NaN or infinite; weights stay those before it.

    The check runs on the device, after the backward pass of every micro-batch, and the host does not wait for it: a
    flag suppresses the update of the failing step and of all later ones (``found_inf``, which the kernels of fused
    optimizers read). Weights, Adam's state and `WeightAveraging` stay as they are, and a copy of the batch is kept. The
    host reads the flags when a row of metrics is written, before every validation and checkpoint, at the end, and at
    the latest after `UNREAD` steps. It then counts back to the failing step, restores the statistics of batch
    normalisation, and raises. In distributed training all processes have the same flag after a step, and raise after
    the same step.

    The module must provide ``gradient_norms``, set by its ``backward``; see `lic_train.training.module.LitCodec`.

    Writes ``failing_batch/``: ``batch.safetensors`` ("x": uint8 (B, 3, H, W)), one PNG per crop, ``report.json``.

    Args:
        run_dir: the run's directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self.directory = Path(run_dir) / FAILING_BATCH
        self._unread: list[MicroBatch] = []
        self._found = torch.zeros(())
        self._x = torch.zeros(())
        self._loss = torch.zeros(())
        self._statistics: list[Tensor] = []
        self._kept_statistics: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the flag to the optimizer."""
        self._unread = []
        self._found = torch.zeros((), device=pl_module.device)
        trainer.optimizers[0].found_inf = self._found  # type: ignore[attr-defined]
        self._statistics = list(_statistics(pl_module))
        self._kept_statistics = [value.clone() for value in self._statistics]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the batch and, at the start of a step, the statistics, unless the flag is set."""
        x = batch["x"]
        failed = self._found.bool()
        if self._x.shape != x.shape:
            self._x = torch.empty_like(x)
        torch.where(failed, self._x, x, out=self._x)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            for kept, value in zip(self._kept_statistics, self._statistics, strict=True):
                torch.where(failed, kept, value, out=kept)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        self._loss = loss.detach()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the flag if the loss or the gradient norm is not finite."""
        norms: Tensor = pl_module.gradient_norms  # type: ignore[assignment]
        # 0 * x is NaN if x is not finite, and NaN != 0.
        failed = torch.ne(0 * (self._loss + torch.linalg.vector_norm(norms)), 0).float()
        if trainer.world_size > 1 and step_ended(trainer):
            dist.all_reduce(failed, dist.ReduceOp.MAX)
        torch.maximum(self._found, failed, out=self._found)
        numbers = numbers_of_the_step(pl_module)
        self._unread.append(MicroBatch(trainer.global_step, failed, self._loss, norms, numbers))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Read the flags if a row of metrics or a validation follows.

        Raises:
            TrainingError: see `check`.
        """
        is_last = trainer.global_step == trainer.max_steps
        if is_last or row_is_due(trainer, at_most=UNREAD) or validation_follows(trainer):
            self.check(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the flags: a checkpoint contains no step whose update was suppressed.

        Raises:
            TrainingError: see `check`.
        """
        self.check(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Count back to the failing step, if there is one, before `Checkpoints` saves the last completed step."""
        if isinstance(exception, Exception):
            with contextlib.suppress(TrainingError, RuntimeError):
                self.check(trainer, pl_module)

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the flags of all steps since the last call; waits for the device.

        Raises:
            TrainingError: the loss or a gradient of a step was not finite. The state of the trainer is that before it.
        """
        unread, self._unread = self._unread, []
        flags = torch.stack([one.failed for one in unread]).tolist() if unread else []
        if any(flags):
            failing = unread[flags.index(1)]
            count_back(trainer, failing.step)
            for kept, value in zip(self._kept_statistics, self._statistics, strict=True):
                value.copy_(kept)
            self._raise(trainer, pl_module, failing)

    def _raise(self, trainer: Trainer, pl_module: LightningModule, failing: MicroBatch) -> None:
        norm = torch.linalg.vector_norm(failing.norms)
        report = {
            "step": failing.step,
            "seed": getattr(pl_module, "seed", None),
            "rank": trainer.global_rank,
            "terms": as_floats([{"loss": failing.loss, "grad_norm": norm} | failing.numbers])[0],
            "parameters_without_finite_gradient": _broken_parameters(trainer, pl_module, failing.norms)[:NAMED],
        }
        directory = self.directory / f"rank_{trainer.global_rank}" if trainer.world_size > 1 else self.directory
        saved = _save(directory, self._x, report)
        raise _not_finite(report, saved, self.directory.parent)


def _statistics(pl_module: LightningModule) -> Iterator[Tensor]:
    """Return the buffers that a forward pass changes."""
    for module in pl_module.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield from module.buffers(recurse=False)


def _broken_parameters(trainer: Trainer, pl_module: LightningModule, norms: Tensor) -> list[str]:
    """Return the names of the parameters whose norm is not finite, in the order of the network."""
    with_gradient = [p for p in parameters_of(trainer.optimizers[0]) if p.grad is not None]
    pairs = zip(with_gradient, norms.isfinite().tolist(), strict=True)
    broken = {id(parameter) for parameter, is_finite in pairs if not is_finite}
    return [name for name, parameter in pl_module.named_parameters() if id(parameter) in broken]


def _save(directory: Path, x: Tensor, report: dict[str, Any]) -> str:
    """Write batch, crops and report to ``directory``; return a sentence with their place, or why they are missing."""
    crops = _to_uint8(x)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file({"x": crops}, directory / "batch.safetensors")
        for number, crop in enumerate(crops.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(crop).save(directory / f"crop_{number:03d}.png")
        (directory / "report.json").write_text(json.dumps(_printable(report), indent=1) + "\n")
    except OSError as error:
        return f"the batch could not be saved to {directory}: {error}"
    return f"the batch, its {len(crops)} crops as PNG and all terms are saved in {directory}"


def _to_uint8(x: Tensor) -> Tensor:
    """Convert (B, 3, H, W) to uint8 on the CPU; float images are in [0, 1]."""
    if x.is_floating_point():
        x = x.detach().float().nan_to_num(0).mul(255).round().clamp(0, 255).to(torch.uint8)
    return x.cpu().contiguous()


def _printable(report: dict[str, Any]) -> dict[str, Any]:
    """Replace non-finite terms by the strings "nan", "inf" and "-inf", which JSON cannot represent as numbers."""
    terms = {name: value if math.isfinite(value) else str(value) for name, value in report["terms"].items()}
    return {**report, "terms": terms}


def _not_finite(report: dict[str, Any], saved: str, run_dir: Path) -> TrainingError:
    terms = ", ".join(f"{name} {value:.6g}" for name, value in report["terms"].items())
    first = next(iter(report["parameters_without_finite_gradient"]), None)
    # `Checkpoints` saves the steps before this one after the error.
    last = run_dir / CHECKPOINTS / LAST
    retry = f"start another run from the last checkpoint, which is intact (init_from={last} name=retry)"
    again = retry if report["step"] else "start again with fresh=true"
    return TrainingError(
        f"Training stopped at step {report['step']}: the loss or its gradient is not finite.",
        expected="finite numbers",
        got=terms + (f"\nfirst parameter with a non-finite gradient: {first}" if first else "") + f"\n{saved}",
        to_do=f"{again}, with a lower learning rate (lr_scale=0.5), "
        "a stronger clip (smaller recipe.optimizer.clip_norm) or precision=32",
    )
