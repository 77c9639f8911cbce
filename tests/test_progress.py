"""The progress bar: correct numbers with a simulated clock, within eighty columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch import Tensor

from lic_train.recipes import losses
from lic_train.runs.checkpoints import newest_intact
from lic_train.training.callbacks import Checkpoints, ProgressBar, checkpoints
from tests.tiny_training import Tiny, fit


class Clock(Callback):
    """Simulated clock: ``wait`` seconds before a batch, ``work`` in it, 100 in a validation."""

    def __init__(self, wait: float, work: float) -> None:
        self.now, self.wait, self.work = 0.0, wait, work

    def __call__(self) -> float:
        return self.now

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += self.wait

    def on_before_backward(self, *_: Any) -> None:
        self.now += self.work

    def on_validation_batch_start(self, *_: Any) -> None:
        self.now += 100


def shown(steps: int, wait: float, work: float, **options: Any) -> list[str]:
    """Return the lines that a run prints without a terminal."""
    clock, out = Clock(wait, work), io.StringIO()
    bar = ProgressBar(batch_size=8, console=Console(file=out, width=80), clock=clock)
    fit(Tiny(), [clock, bar], steps=steps, **options)
    return out.getvalue().splitlines()


def test_plain_lines_at_first_and_last_step_and_every_ten_seconds() -> None:
    lines = shown(steps=10, wait=1, work=3)
    assert [line.split()[1] for line in lines[:-1]] == ["1/10", "4/10", "7/10", "10/10"]
    assert "0.25 steps/s  2 images/s" in lines[0]
    assert "bpp 0.500  PSNR 30.00 dB" in lines[0]
    assert lines[0].endswith("data wait 25.0%  left 0:00:36")
    assert lines[-1].startswith("10 steps in 0:00:40: 0.25 steps/s, 2 images/s; 25.0% of the time waited for data")


def test_distortion_of_ms_ssim_is_named_as_what_it_is() -> None:
    class Similar(Tiny):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
            out = super().training_step(batch, batch_idx)
            self.step_metrics["train/ms_ssim"] = losses.ms_ssim({"x_hat": x}, x)  # of equal pictures
            return out

    x, out = torch.rand(1, 3, 176, 176), io.StringIO()
    fit(Similar(), [ProgressBar(batch_size=8, console=Console(file=out, width=120), clock=Clock(0, 1))], steps=1)
    assert "1-MS-SSIM 0.0000" in out.getvalue()


def test_speed_counts_optimizer_steps_and_excludes_validation() -> None:
    lines = shown(steps=4, wait=0, work=1, accumulate_grad_batches=2, val_check_interval=4)
    assert "validation at step 2: loss" in lines[1]
    assert "bpp 0.250  PSNR 31.00 dB  bpp_file 0.260" in lines[1]
    assert "4/4" in lines[3]
    assert "0.5 steps/s" in lines[3]
    assert "4 steps in 0:03:28: 0.5 steps/s, 4 images/s; 0.0% of the time waited for data" in lines[-1]


def test_resumed_run_starts_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "save_model", lambda *_: None)
    fit(Tiny(), [Checkpoints(tmp_path, every=6)], steps=6)
    lines = shown(steps=8, wait=1, work=0, resume=newest_intact(tmp_path))
    assert [line.split()[1] for line in lines[:-1]] == ["7/8", "8/8"]
    assert lines[-1].startswith("2 steps in 0:00:02")


def test_bar_shows_all_numbers_within_eighty_columns() -> None:
    class Slow(Tiny):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
            out = super().training_step(batch, batch_idx)
            self.step_metrics["train/loss"] = torch.tensor(12345.678)
            return out

    clock, screen = Clock(wait=0, work=3600), io.StringIO()
    bar = ProgressBar(1024, console=Console(file=io.StringIO(), width=80, force_terminal=True), clock=clock)

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            assert bar._bar is not None
            Console(file=screen, width=80).print(bar._bar.get_renderable())
            trainer.should_stop = True

    fit(Slow(), [clock, bar, Look()], steps=2_000_000)
    first, second = screen.getvalue().splitlines()
    assert max(len(first), len(second)) <= 80
    for part in ("1/2000000", "elapsed 1:00:00", "left 1999999:00:00", "wait 0.0%"):
        assert part in first
    for part in ("0.000278 steps/s", "0.284 images/s", "loss 1.235e+04", "bpp 0.500", "PSNR 30.00 dB"):
        assert part in second
