"""Callbacks: guard, averaging, data report and pictures."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from lic_train.data.damage import DataReport
from lic_train.errors import DataError, TrainingError
from lic_train.files.checkpoint import load_model
from lic_train.training.callbacks import (
    Checkpoints,
    DataWatch,
    NonFiniteGuard,
    Pictures,
    WeightAveraging,
    checkpoints,
)
from tests.tiny import FACTORIZED, make_codec, picture
from tests.tiny_training import Stream, Tiny, fit


@pytest.fixture
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "save_model", lambda *_: None)


class Weights(Callback):
    """Records the weights after every micro-batch, and those during validation."""

    def __init__(self) -> None:
        self.trained: list[list[float]] = []
        self.validated: list[list[float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.trained.append(pl_module.model.weight.flatten().tolist())

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.validated.append(pl_module.model.weight.flatten().tolist())


# --- hooks -----------------------------------------------------------------------------------------------------------


class Hooks(Callback):
    """Records its hooks of a step."""

    def __init__(self) -> None:
        self.called: list[str] = []


def _recorded(hook: str) -> Callable[..., None]:
    return lambda self, *_: self.called.append(hook)


def test_hooks_that_a_class_or_its_base_defines_are_called_in_every_step() -> None:
    names = ["on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"]
    names += ["on_before_optimizer_step", "on_train_batch_end"]
    every, one = type("Every", (Hooks,), {name: _recorded(name) for name in names}), names[3]
    derived = type("Derived", (type("Base", (Hooks,), {one: _recorded(one)}),), {})
    callbacks = [every(), derived()]
    fit(Tiny(), callbacks, 2)
    assert [callback.called for callback in callbacks] == [names * 2, [one] * 2]


# --- guard -----------------------------------------------------------------------------------------------------------


class Breaking(Tiny):
    """A non-finite loss in one micro-batch, or a finite loss with a non-finite gradient."""

    def __init__(self, micro_batch: int, kind: str) -> None:
        super().__init__()
        self.micro_batch, self.kind = micro_batch, kind

    def loss(self, batch: dict[str, Any]) -> Tensor:
        loss = super().loss(batch)
        if batch["number"] != self.micro_batch:
            return loss
        # The slope of the root at 0 is infinite and is multiplied by 0: the value is 0, the gradient NaN.
        return {"nan": loss * math.nan, "inf": loss + math.inf, "gradient": (loss * 0).sqrt()}[self.kind]


@pytest.mark.usefixtures("_no_export")
@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
@pytest.mark.parametrize(("every", "steps"), [(1, 3), (5, 4), (50, 6)])  # read with a row, or before a checkpoint
def test_guard_stops_before_the_weights_change(tmp_path: Path, kind: str, every: int, steps: int) -> None:
    weights = Weights()
    module = Breaking(3, kind)
    callbacks = [NonFiniteGuard(tmp_path), weights, Checkpoints(tmp_path / "c", every=3)]
    with pytest.raises(TrainingError, match=r"step 3.*not finite") as caught:
        fit(module, callbacks, steps=9, log_every_n_steps=every)
    assert weights.trained[2:] == [weights.trained[2]] * (steps - 2)
    assert module.model.weight.flatten().tolist() == weights.trained[-1]
    assert torch.isfinite(module.model.weight).all()
    kept = torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)
    assert kept["state_dict"]["model.weight"].flatten().tolist() == weights.trained[-1]
    for hint in (str(tmp_path / "failing_batch"), "learning rate", "clip", "precision=32"):
        assert hint in str(caught.value)


@pytest.mark.parametrize(("accumulate", "bad"), [(1, 2), (3, 4)])
def test_guard_saves_the_failing_batch(tmp_path: Path, accumulate: int, bad: int) -> None:
    with pytest.raises(TrainingError):
        fit(Breaking(bad, "nan"), [NonFiniteGuard(tmp_path)], steps=9, accumulate_grad_batches=accumulate)
    batch = next(iter(Stream(bad)))["x"]
    folder = tmp_path / "failing_batch"
    assert torch.equal(load_file(folder / "batch.safetensors")["x"], batch)
    for number, crop in enumerate(batch):
        drawn = np.asarray(Image.open(folder / f"crop_{number:03d}.png"))
        assert np.array_equal(drawn, crop.permute(1, 2, 0).numpy())
    report = json.loads((folder / "report.json").read_text())
    assert (report["step"], report["seed"]) == (bad // accumulate, 7)
    assert report["terms"]["loss"] == "nan"
    assert report["terms"]["train/psnr"] == 30.0
    assert report["parameters_without_finite_gradient"] == ["model.weight", "model.bias"]


def test_guard_reports_the_first_failing_micro_batch_if_it_is_read_later(tmp_path: Path) -> None:
    class Twice(Breaking):
        def loss(self, batch: dict[str, Any]) -> Tensor:
            loss = super().loss(batch)
            return loss * math.inf if batch["number"] == 8 else loss

    with pytest.raises(TrainingError, match="step 1:"):
        fit(Twice(4, "gradient"), [NonFiniteGuard(tmp_path)], steps=9, accumulate_grad_batches=3)
    saved = load_file(tmp_path / "failing_batch" / "batch.safetensors")["x"]
    assert torch.equal(saved, next(iter(Stream(4)))["x"])
    report = json.loads((tmp_path / "failing_batch" / "report.json").read_text())
    assert math.isfinite(report["terms"]["loss"])
    assert report["terms"]["grad_norm"] == "nan"


@pytest.mark.usefixtures("_no_export")
def test_guard_leaves_the_state_before_the_failing_step(tmp_path: Path) -> None:
    """Weights, statistics of batch normalisation, Adam's state, average and counters, three steps after the failure."""

    class Normalised(Breaking):
        def __init__(self, micro_batch: int) -> None:
            super().__init__(micro_batch, "nan")
            self.model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))  # type: ignore[assignment]

    def callbacks(folder: Path) -> list[Callback]:
        return [NonFiniteGuard(folder), Checkpoints(folder / "c", every=100), WeightAveraging(0.5)]

    fit(Normalised(-1), callbacks(tmp_path / "good"), steps=4)
    with pytest.raises(TrainingError, match="step 4:"):
        fit(Normalised(4), callbacks(tmp_path / "bad"), steps=8)
    good, bad = (torch.load(tmp_path / name / "c" / "last.ckpt", weights_only=True) for name in ("good", "bad"))
    assert bad["global_step"] == 4
    assert (
        good["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        == (bad["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"])
    )
    for name, value in good["state_dict"].items():
        assert torch.equal(value, bad["state_dict"][name]), name
    for name, value in good["weight_averaging"].items():
        assert torch.equal(value, bad["weight_averaging"][name]), name
    for index, state in good["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, bad["optimizer_states"][0]["state"][index][name]), name


def test_guard_counts_back_before_the_checkpoint_of_another_error(tmp_path: Path) -> None:
    class Later(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 6:
                raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fit(Breaking(3, "nan"), [NonFiniteGuard(tmp_path), Later(), Checkpoints(tmp_path / "c", every=100)], steps=9)
    kept = torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 3
    assert (tmp_path / "failing_batch" / "report.json").exists()


def test_guard_saves_float_images_as_uint8(tmp_path: Path) -> None:
    class Float(Breaking):
        def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
            return {**batch, "x": batch["x"].float() / 255}

    with pytest.raises(TrainingError):
        fit(Float(0, "nan"), [NonFiniteGuard(tmp_path)], steps=1)
    saved = load_file(tmp_path / "failing_batch" / "batch.safetensors")["x"]
    assert torch.equal(saved, next(iter(Stream(0)))["x"])


# --- averaging -------------------------------------------------------------------------------------------------------


def slow_average(weights: list[list[float]], first: list[float], decay: float) -> list[float]:
    """Compute the average from its definition, in float64."""
    average = list(first)
    for step, row in enumerate(weights, start=1):
        d = min(decay, (1 + step) / (10 + step))
        average = [d * a + (1 - d) * w for a, w in zip(average, row, strict=True)]
    return average


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_uses_the_average_and_training_does_not(accumulate: int) -> None:
    first = Tiny().model.weight.flatten().tolist()
    plain, watched = Weights(), Weights()
    options = {"val_check_interval": 2 * accumulate, "accumulate_grad_batches": accumulate}
    fit(Tiny(), [plain], steps=6, **options)
    fit(Tiny(), [watched, WeightAveraging(0.3)], steps=6, **options)
    assert watched.trained == plain.trained
    for number, seen in enumerate(watched.validated, start=1):
        steps = plain.trained[accumulate - 1 : 2 * number * accumulate : accumulate]
        assert seen == pytest.approx(slow_average(steps, first, 0.3), rel=1e-5)


@pytest.mark.usefixtures("_no_export")
@pytest.mark.parametrize("interval", [1, 10**9])  # saved while the model contains the average, or not
def test_checkpoints_contain_the_trained_weights_and_the_average(tmp_path: Path, interval: int) -> None:
    weights = Weights()
    callbacks = [Checkpoints(tmp_path, every=1, keep=None), WeightAveraging(0.3), weights]
    fit(Tiny(), callbacks, steps=3, val_check_interval=interval)
    first = Tiny().model.weight.flatten().tolist()
    for step in (1, 2, 3):
        found = torch.load(tmp_path / f"step_{step:08d}.ckpt", weights_only=True)
        average = found["weight_averaging"]["model.weight"]
        assert found["state_dict"]["model.weight"].flatten().tolist() == weights.trained[step - 1]
        assert average.flatten().tolist() == pytest.approx(slow_average(weights.trained[:step], first, 0.3), rel=1e-5)


def test_averaging_before_the_export_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="WeightAveraging after Checkpoints"):
        fit(Tiny(), [WeightAveraging(0.9), Checkpoints(tmp_path, every=1)], steps=1)


@pytest.mark.parametrize("decay", [0, 1, -0.5, float("nan")])
def test_invalid_decay_raises(decay: float) -> None:
    with pytest.raises(ValueError, match=r"ema: expected a number in \(0, 1\)"):
        WeightAveraging(decay)


# --- data report -----------------------------------------------------------------------------------------------------


class Photographs(LightningDataModule):
    """A stream in which batch 2 contains a damaged file."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        return batch | ({"failures": [("a.png", "cut short")], "small": 1} if batch["number"] == 2 else {})

    def report(self, output: Path) -> DataReport:
        return DataReport(output / "data_report.json", "somewhere", self.size, Console(file=io.StringIO()))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(0), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Stream(2), batch_size=None)


@pytest.mark.parametrize("interval", [10**9, 1])  # found in training, or first in validation
def test_damaged_files_are_reported(tmp_path: Path, interval: int) -> None:
    fit(Tiny(), [DataWatch(tmp_path)], steps=4, data=Photographs(1000), val_check_interval=interval)
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert report["damaged"] == [{"file": "a.png", "reason": "cut short"}]
    assert report["samples"] == (8 if interval > 1 else 16)


def test_too_many_damaged_files_raise(tmp_path: Path) -> None:
    module = Tiny()
    with pytest.raises(DataError):
        fit(module, [DataWatch(tmp_path)], steps=9, data=Photographs(10))
    assert module.seen == [0, 1]


# --- pictures and the best model, on a real codec --------------------------------------------------------------------


class Photo(Tiny):
    """A real codec whose loss depends on the weights only."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_codec(FACTORIZED).train()  # type: ignore[assignment]
        self.model_config = dict(FACTORIZED)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self.model.g_a[0].weight.square().mean()


def test_panel_is_drawn_and_averaged_model_exported(tmp_path: Path) -> None:
    calls: list[int] = []

    def images() -> list[tuple[str, Tensor]]:
        calls.append(1)
        return [("flower", picture(37, 50))]

    module = Photo()
    order = [Pictures(tmp_path / "pictures", images), Checkpoints(tmp_path, every=2), WeightAveraging(0.5)]
    fit(module, order, steps=4, val_check_interval=2)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["step_00000002.png", "step_00000004.png"]
    with Image.open(tmp_path / "pictures" / "step_00000004.png") as drawn:
        assert min(drawn.size) > 300
        assert np.asarray(drawn.convert("RGB")).std() > 10
    assert calls == [1]

    exported, metadata = load_model(tmp_path / "best.safetensors")
    kept = torch.load(tmp_path / f"step_{metadata.extra['step']:08d}.ckpt", weights_only=True)
    weight = exported.g_a[0].weight
    assert torch.equal(weight, kept["weight_averaging"]["model.g_a.0.weight"])
    assert not torch.equal(weight, kept["state_dict"]["model.g_a.0.weight"])
    assert metadata.config == FACTORIZED


def test_unwritable_picture_does_not_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures").write_text("in the way")
    fit(Photo(), [Pictures(tmp_path / "pictures", lambda: [("a", picture(20, 20))])], steps=1, val_check_interval=1)
    assert "step_00000001.png could not be written" in capsys.readouterr().out
