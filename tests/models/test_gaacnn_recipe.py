"""GAACNN's configurations: widths, ladders and schedules of the authors' scripts."""

from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lic_train.config.compose import compose
from lic_train.config.resolvers import register_resolvers
from lic_train.config.run import RecipeSection, checked
from lic_train.data.decode.images import save_png
from lic_train.errors import ConfigError
from lic_train.models import gaacnn
from lic_train.models.base import build
from lic_train.models.gaacnn import Options
from lic_train.recipes.recipe import Recipe
from lic_train.runs.claim import ResumeState
from lic_train.training.setup import make_data, make_model, make_module, make_trainer
from tests.tiny import picture

ROOT = Path(__file__).resolve().parents[2]


def composed(lmbda: float, distortion: str, recipe: str = "gaacnn") -> dict:
    register_resolvers()
    folder = ROOT / "conf"
    parts = [OmegaConf.load(folder / "recipe" / f"{name}.yaml") for name in dict.fromkeys(["gaacnn", recipe])]
    recipe_node = OmegaConf.merge(*parts)
    recipe_node.pop("defaults", None)
    cfg = {
        "lambda": lmbda,
        "distortion": distortion,
        "model": OmegaConf.load(folder / "model" / "gaacnn.yaml"),
        "recipe": recipe_node,
    }
    return OmegaConf.to_container(OmegaConf.create(cfg), resolve=True)


def test_config_lists_every_option() -> None:
    model = composed(0.0067, "mse")["model"]
    assert {option.name for option in fields(Options)} | {"scale_param"} <= set(model)
    build({**model, "M": 8, "N": 8, "widths": [8, 8]})


def test_ladder_and_widths_are_the_authors() -> None:
    theirs = {8: 192, 12: 192, 16: 192, 24: 192, 32: 192, 64: 192, 128: 192, 256: 320, 512: 320, 1024: 320, 2048: 320}
    ladder = RecipeSection.model_validate(composed(0.0067, "mse")["recipe"]).ladder
    assert ladder["mse"] == [round(10 * lmbda / 255**2, 5) for lmbda in theirs]
    assert [composed(lmbda, "mse")["model"]["M"] for lmbda in ladder["mse"]] == list(theirs.values())
    assert ladder["ms_ssim"] == [18, 36, 72, 144, 288]
    assert [composed(lmbda, "ms_ssim")["model"]["M"] for lmbda in ladder["ms_ssim"]] == [192, 192, 320, 320, 320]


@pytest.mark.parametrize("written", ["36", "1e-3", "0.00005"])
def test_first_epoch_has_a_hundred_lambda_in_every_notation(written) -> None:
    options = ["model=gaacnn", "recipe=gaacnn_ms_ssim", "distortion=ms_ssim", "crop=256", f"lambda={written}"]
    config = checked(compose(options))
    assert config.recipe.stages[0].loss == {"bpp": 1, "mse": pytest.approx(100 * float(written))}


@pytest.mark.parametrize(
    ("recipe", "distortion", "boundaries"),
    [
        ("gaacnn", "mse", {0: 1e-4, 250_000: 5e-5, 350_000: 2.5e-5, 450_000: 1e-5, 550_000: 5e-6, 650_000: 1e-6}),
        (
            "gaacnn_ms_ssim",
            "ms_ssim",
            {0: 5e-5, 200_000: 2.5e-5, 300_000: 1.25e-5, 400_000: 5e-6, 500_000: 2.5e-6, 600_000: 1e-6},
        ),
    ],
)
def test_learning_rates(recipe, distortion, boundaries) -> None:
    section = RecipeSection.model_validate(composed(18, distortion, recipe)["recipe"])
    stages = [stage.model_dump() for stage in section.stages]
    laid_out = Recipe(stages, section.steps, 18, distortion, section.optimizer.model_dump())
    for step, lr in boundaries.items():
        assert laid_out.stage(step).lr == lr
        assert step == 0 or laid_out.stage(step - 1).lr > lr
    if distortion == "ms_ssim":
        assert laid_out.stage(0).loss == {"bpp": 1, "mse": 1800.0}
        assert laid_out.stage(section.steps // 15 + 1).loss == {"bpp": 1, "distortion": 1}


def test_quantiser_of_a_stage_overrides_that_of_the_recipe() -> None:
    stages = "recipe.stages=[{name: a, share: 1/2, lr: 1, quantizer: noise}, {name: b, share: 1/2, lr: 1}]"
    recipe = checked(compose(["model=gaacnn", stages, "steps=10"])).make_recipe()
    assert [recipe.stage(step).quantizer for step in (4, 5)] == ["noise", "universal"]
    assert [row[-1].rpartition(", ")[2] for row in recipe.table()] == ["noise quantiser", "universal quantiser"]


def test_each_step_uses_the_quantiser_of_its_stage(tmp_path, monkeypatch) -> None:
    """Of two steps, y of the first has noise and y of the second universal quantisation."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(3):
        save_png(folder / f"{seed}.png", picture(64, 70, seed).float() / 255)
    command = [
        "model=gaacnn", "model.M=8", "model.N=6", "model.widths=[6,8]", "steps=2", "batch_size=1", "crop=64",
        "data=folder", f"data.root={folder}", "data.source.val_ratio=0.4", "data.source.cache=null",
        "data.num_workers=0", "precision=32", "logger=csv", "validate.crops=1", "validate.bitstreams=0",
        "trainer.accelerator=cpu",
        "recipe.stages=[{name: a, share: 1/2, lr: 1e-4, quantizer: noise}, {name: b, share: 1/2, lr: 1e-4}]",
    ]  # fmt: skip
    config, used = checked(compose(command)), []
    for name in ("add_noise", "universal"):
        original = getattr(gaacnn, name)
        monkeypatch.setattr(gaacnn, name, lambda *a, name=name, original=original: (used.append(name), original(*a))[1])
    data, model = make_data(config), make_model(config)
    trainer = make_trainer(config, ResumeState(tmp_path / "run", "new"), [], data)
    trainer.limit_val_batches = 0
    trainer.fit(make_module(config, model), data)
    # z's noise comes from the entropy bottleneck; its universal quantisation comes from gaacnn.
    assert used == ["add_noise", "universal", "universal"]


def test_model_without_quantisers_uses_the_rest_of_the_recipe() -> None:
    recipe = checked(compose(["model=mbt2018_mean", "recipe=gaacnn"])).make_recipe()
    assert {stage.quantizer for stage in recipe.stages} == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model=gaacnn", "recipe.quantizer=round"], "quantizer: expected one of universal, noise, got round"),
        (
            ["model=cwam", "recipe.stages=[{name: a, share: 1, lr: 1, quantizer: noise}]"],
            "quantizer: expected none, because the model has only one, got noise",
        ),
    ],
)
def test_unknown_quantiser_raises(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(compose(options))
