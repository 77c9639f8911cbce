"""Validation means: weighted by images, in float64, without synchronisation, and not part of checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lic_train.data.module import Photographs
from lic_train.recipes.recipe import Recipe
from lic_train.training.module import LitCodec, mean_metrics, reset_to_float64
from tests.small_runs import column, last_checkpoint, make_photographs, overrides, run_here
from tests.tiny import FACTORIZED, make_codec


class NoSynchronisation(TorchDispatchMode):
    """Raises on operations that read a value of the device or copy to it from pageable memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "nonzero", "lift_fresh"), name
        return func(*args, **(kwargs or {}))


@pytest.fixture
def module() -> LitCodec:
    """A small codec whose recipe has a term in its first stage only."""
    loss = {"bpp": 1, "distortion": 1, "ms_ssim": 1}
    stages = [{"name": "first", "share": 0.5, "lr": 1e-4, "loss": loss}, {"name": "last", "share": 0.5, "lr": 1e-4}]
    recipe = Recipe(stages, 10, 0.01, "mse", {"aux_lr": 1e-3, "clip_norm": 1.0})
    return LitCodec(make_codec(FACTORIZED), recipe, model_config=FACTORIZED)


def test_mean_is_weighted_by_images_in_float64() -> None:
    means = mean_metrics(["val/a"])
    reset_to_float64(means.to("cpu"))
    for value, images in ((0.1, 3), (0.7, 1), (0.5, 0)):
        means["val/a"].update(torch.tensor(value).expand(images))
    expected = sum(images * float(torch.tensor(value)) for value, images in ((0.1, 3), (0.7, 1))) / 4
    assert means.compute() == {"val/a": torch.tensor(expected, dtype=torch.float64)}
    reset_to_float64(means)
    means["val/a"].update(1 / 3)
    assert float(means.compute()["val/a"]) == 1 / 3


def test_nan_of_one_image_makes_the_mean_nan() -> None:
    means = mean_metrics(["val/a", "val/b"])
    for value in (1.0, math.nan):
        means["val/a"].update(value)
        means["val/b"].update(1.0)
    found = means.compute()
    assert math.isnan(found["val/a"])
    assert found["val/b"] == 1


def test_update_does_not_synchronise_with_the_device() -> None:
    means, value = mean_metrics(["val/a"]), torch.tensor(0.1)
    with NoSynchronisation():
        means["val/a"].update(value.expand(3))
    with NoSynchronisation(), pytest.raises(AssertionError):
        float(value)


def test_every_term_of_every_stage_has_a_mean(module: LitCodec) -> None:
    x = torch.rand(2, 3, 192, 192)
    terms = module.recipe(module.model(x), x, 0)
    assert set(module.crop_means) == {f"val/{name}" for name in [*terms, "psnr"]}


def test_means_are_not_part_of_the_module_state(module: LitCodec) -> None:
    module.crop_means["val/loss"].update(torch.ones(2))
    assert set(module.state_dict()) == {f"model.{name}" for name in module.model.state_dict()}
    assert {name.partition(".")[0] for name, _ in module.named_parameters()} == {"model"}
    assert not [name for name, _ in module.named_buffers() if not name.startswith("model.")]


@pytest.mark.parametrize(("sides", "has_ms_ssim"), [([176, 176, 176], True), ([176, 70, 176], False)])
def test_ms_ssim_only_if_every_image_has_it(tmp_path: Path, sides: list[int], has_ms_ssim: bool) -> None:
    photographs = make_photographs(tmp_path / "photographs")
    more = ("steps=2", "validate.every=2", "validate.crops=1", "validate.bitstreams=3", "data.source.val_ratio=0.4")
    images = [(str(side), torch.randint(0, 256, (3, side, 180), dtype=torch.uint8)) for side in sides]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Photographs, "whole_images", lambda self, count: images[:count])
        assert run_here(overrides(photographs, tmp_path / "run", *more)) == 0
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert ("val/ms_ssim_file" in header, "val/ms_ssim_db_file" in header) == (has_ms_ssim, has_ms_ssim)
    assert len(column(tmp_path / "run", "val/bpp_file")) == 1
    assert all(name.startswith("model.") for name in last_checkpoint(tmp_path / "run")["state_dict"])
