"""IB-LIC's staged loss: weight 1 for enhancement in the first third, then 0, uninterrupted, stopped and resumed."""

import csv
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lic_train import train
from lic_train.config.compose import compose
from lic_train.config.run import RunConfig, checked
from lic_train.data.decode.images import save_png
from lic_train.training.callbacks import GracefulStop, Interrupted, Pictures
from tests.tiny import picture

STEPS, BOUNDARY = 6, 2  # a third
TERMS = ("bpp", "mse", "feature_enhancement", "loss")


@pytest.mark.parametrize("name", ["iblic", "iblic_tiny"])
def test_enhancement_has_weight_one_in_the_first_third(name):
    recipe = checked(compose([f"model={name}", "data=imagenet", "steps=1200"])).make_recipe()
    weights = [recipe.stage(step).loss.get("feature_enhancement") for step in (0, 399, 400, 1199)]
    assert weights == [1, 1, None, None]
    assert [recipe.stage(step).lr for step in (0, 799, 800, 1099, 1100)] == [1e-4, 1e-4, 1e-5, 1e-5, 1e-6]
    assert all({"bpp", "distortion"} <= set(stage.loss) for stage in recipe.stages)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    """Return the smallest run of train.py."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(5):
        save_png(folder / f"{seed}.png", picture(64, 70, seed).float() / 255)
    command = [
        "model=iblic_tiny", "model.N=32", "model.M=80", f"steps={STEPS}", "batch_size=1", "crop=64", "data=folder",
        f"data.root={folder}", "data.source.val_ratio=0.2", "data.num_workers=0", "precision=32", "logger=csv",
        "validate.crops=1", "validate.bitstreams=0", "trainer.accelerator=cpu", "trainer.log_every=1",
    ]  # fmt: skip
    return checked(compose(command))


def run(config: RunConfig, folder: Path, stop_after: int | None = None) -> None:
    """Train without pictures and evaluation; ``stop_after`` interrupts after that step like Ctrl-C."""
    original = GracefulStop.on_train_batch_start

    def request(self: GracefulStop, trainer: Trainer, *arguments: object) -> None:
        if trainer.global_step + 1 == stop_after:
            self.requested = signal.SIGINT
        original(self, trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GracefulStop, "on_train_batch_start", request)
        patch.setattr(Pictures, "on_validation_end", lambda *_: None)
        patch.setattr(train, "evaluate_best", lambda *_: None)
        train.train(config.model_copy(update={"output": str(folder)}))


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").open()))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config, folder)
    return folder


def test_change_of_the_loss_is_visible_in_the_metrics(whole):
    logged = rows(whole)
    assert [int(row["step"]) for row in logged] == list(range(1, STEPS + 1))
    switch = [float(row["train/feature_enhancement_weight"]) for row in logged]
    assert switch == [1] * BOUNDARY + [0] * (STEPS - BOUNDARY)
    # The term is still logged but no longer part of the loss.
    for row, weight in zip(logged, switch, strict=True):
        bpp, mse, enhancement, loss = (float(row[f"train/{name}"]) for name in TERMS)
        assert enhancement > 0
        assert loss == pytest.approx(bpp + 0.0067 * 255**2 * mse + weight * enhancement, rel=1e-5)
    assert len({row["train/feature_enhancement"] for row in logged}) == STEPS


def test_run_stopped_on_either_side_of_the_boundary_ends_bit_equal(config, whole, tmp_path):
    folder = tmp_path / "run"
    for done in (BOUNDARY - 1, BOUNDARY + 1):
        with pytest.raises(Interrupted, match=f"after step {done}"):
            run(config, folder, stop_after=done)
        assert len(rows(folder)) == done
    run(config, folder)
    first, second = weights(whole), weights(folder)
    assert all(torch.equal(first[key], second[key]) for key in first)
    for name in ("train/loss", "train/feature_enhancement_weight", "train/lr"):
        assert [row[name] for row in rows(whole)] == [row[name] for row in rows(folder)]
