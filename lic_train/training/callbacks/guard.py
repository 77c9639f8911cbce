"""Stops before a non-finite loss or gradient changes the weights, and saves the batch that caused it."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lic_train.errors import TrainingError
from lic_train.runs.layout import CHECKPOINTS, FAILING_BATCH, LAST
from lic_train.training.callbacks.rows import as_floats, numbers_of_the_step

NAMED = 20  # maximum number of parameter names in the report


class NonFiniteGuard(Callback):
    """Raises TrainingError if the loss or the gradient norm is NaN or infinite, before the optimizer steps.

    The check runs after the backward pass of every micro-batch, so the current batch is the cause. It costs one pass
    over the gradients and one synchronisation with the device.

    Writes ``failing_batch/``: ``batch.safetensors`` ("x": uint8 (B, 3, H, W)), one PNG per crop, ``report.json``.

    Args:
        run_dir: the run's directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self.directory = Path(run_dir) / FAILING_BATCH
        self._batch: Any = None
        self._loss: Tensor | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep a reference to the batch."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        self._loss = loss.detach()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check loss and gradient norm.

        Raises:
            TrainingError: one of them is not finite; the weights are those of the step before.
        """
        assert self._loss is not None
        norm = _gradient_norm(pl_module)
        if bool(torch.isfinite(self._loss) & torch.isfinite(norm)):
            return
        report = {
            "step": trainer.global_step,
            "seed": getattr(pl_module, "seed", None),
            "rank": trainer.global_rank,
            "terms": {"loss": float(self._loss), "grad_norm": float(norm)} | as_floats(numbers_of_the_step(pl_module)),
            "parameters_without_finite_gradient": _broken_parameters(pl_module)[:NAMED],
        }
        directory = self.directory / f"rank_{trainer.global_rank}" if trainer.world_size > 1 else self.directory
        saved = _save(directory, self._batch, report)
        raise _not_finite(report, saved, self.directory.parent)


def _gradient_norm(pl_module: LightningModule) -> Tensor:
    """Return the L2 norm over all gradients, a scalar on their device."""
    gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _broken_parameters(pl_module: LightningModule) -> list[str]:
    return [
        name
        for name, parameter in pl_module.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]


def _save(directory: Path, batch: Any, report: dict[str, Any]) -> str:
    """Write batch, crops and report to ``directory``; return a sentence with their place, or why they are missing."""
    crops = _to_uint8(batch["x"])
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
