"""Every shipped configuration composes, validates and builds; invalid ones raise one readable error."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from lic_train.config.compose import compose
from lic_train.config.folder import CONF_DIR
from lic_train.config.resolvers import by_quality, quality
from lic_train.config.run import checked
from lic_train.errors import ConfigError
from lic_train.files import shipped
from lic_train.models.base import build
from tests.conftest import ROOT, SMALL


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def test_every_model_has_the_same_name_everywhere():
    files = {path.stem for path in (ROOT / "lic_train" / "models").glob("*.py")} - {"__init__", "base"}
    targets = {str(compose([f"model={name}"]).model._target_).split(".")[2] for name in options("model")}
    assert targets == files
    # Besides one recipe for each model there are the common protocol and that of the zoo.
    assert set(options("model")) <= set(options("recipe"))
    assert set(options("model")) == set(SMALL)


@pytest.mark.parametrize("name", options("model"))
def test_every_model_builds_under_its_own_recipe(name):
    config = checked(compose([f"model={name}"]))
    model = build(config.model)
    assert config.crop % model.downsampling_factor == 0
    assert config.make_recipe().stages[-1].stop == config.steps


@pytest.mark.parametrize("name", options("recipe"))
@pytest.mark.parametrize("distortion", ["mse", "ms_ssim"])
def test_stages_of_every_recipe_cover_the_run(name, distortion):
    overrides = [f"recipe={name}", "model=mbt2018_mean", "data=imagenet", "steps=997", f"distortion={distortion}"]
    config = checked(compose([*overrides, "crop=192"]))  # MS-SSIM needs 161 pixels
    stages = config.make_recipe().stages
    assert stages[0].start == 0
    assert stages[-1].stop == 997
    assert all(a.stop == b.start for a, b in itertools.pairwise(stages))


@pytest.mark.parametrize("group", ["data", "eval", "trainer", "logger"])
def test_every_other_option_is_valid(group):
    for name in options(group):
        folder = ["eval.root=photographs"] if name == "folder" and group == "eval" else []
        assert checked(compose([f"{group}={name}", *folder])).model


def test_shipped_yaml_is_short():
    too_long = [str(path) for path in CONF_DIR.rglob("*.yaml") if len(path.read_text().splitlines()) > 60]
    assert not too_long


def test_widths_follow_lambda_and_can_be_overridden():
    assert dict(compose(["model=mbt2018", "lambda=0.0130"]).model)["M"] == 192
    assert dict(compose(["model=mbt2018", "lambda=0.0250"]).model)["M"] == 320
    assert dict(compose(["model=mbt2018", "lambda=31.73", "distortion=ms_ssim"]).model)["M"] == 320
    assert dict(compose(["model=mbt2018", "lambda=0.0250", "model.M=64"]).model)["M"] == 64
    assert quality(0.0067, "mse") == 3
    assert by_quality(9.0, "mse", {4: 128, 8: 192}) == 192


@pytest.mark.parametrize("data", ["demo", "imagenet", "folder", "flickr"])
def test_recipe_decides_whether_crops_are_flipped(data):
    assert compose(["model=tinylic", f"data={data}", "data.root=x"]).data.flip is False
    assert compose(["model=tinylic", "recipe=common", f"data={data}", "data.root=x"]).data.flip is True
    assert compose(["model=tinylic", f"data={data}", "data.root=x", "data.flip=true"]).data.flip is True


@pytest.mark.parametrize("data", ["demo", "imagenet", "folder", "flickr"])
def test_recipe_decides_whether_photographs_are_scaled(data):
    own = checked(compose(["model=gaacnn", f"data={data}", "data.root=x"]))
    assert own.data["downscale"] == [0.6, 1.0]
    assert (
        checked(compose(["model=gaacnn", f"data={data}", "data.root=x", "data.downscale=null"])).data["downscale"]
        is None
    )
    assert compose(["model=gaacnn", "recipe=common", f"data={data}", "data.root=x"]).data.downscale is None


def test_output_path_contains_model_recipe_and_lambda():
    assert compose(["model=mbt2018", "recipe=common"]).output == "outputs/mbt2018/common/lambda_0.0067"
    assert compose(["model=cwam", "name=try2"]).output == "outputs/cwam/cwam/lambda_0.0067_try2"


def test_steps_rescale_every_stage():
    short = checked(compose(["recipe=common", "data=imagenet", "steps=1000"])).make_recipe()
    assert [stage.stop for stage in short.stages] == [750, 900, 1000]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lambda=0"], ["lambda", "above 0", "got 0"]),
        (["lambda=-1"], ["lambda", "-1"]),
        (["lambda=abc"], ["lambda", "'abc'"]),
        (["distortion=psnr"], ["distortion", "mse", "ms_ssim"]),
        (["crop=100"], ["crop", "64 or 128", "100"]),
        (["crop=10"], ["crop", "use 64"]),
        (["distortion=ms_ssim", "lambda=8.73", "crop=128"], ["MS-SSIM", "192"]),
        (["batch_size=3", "accumulate=2"], ["batch_size", "multiple", "use 2"]),
        (["ema=1.5", "seed=-1", "precision=16"], ["ema", "seed", "precision"]),
        (["+recipe.stags=1"], ["recipe.stags", "no such key"]),
        (["model=cwan"], ["cwan", "cwam"]),
        (["model=cwam,mbt201"], ["mbt201", "mbt2018"]),
        (["recipe=comon"], ["comon", "common"]),
        (["lamda=3"], ["lamda", "lambda"]),
        (["model.n=3"], ["model.n", "model.N"]),
        (["data=folder", "data.source.val_ration=0.1"], ["data.source.val_ratio"]),
        (["data=imgnet"], ["imgnet", "imagenet"]),
    ],
)
def test_invalid_values_raise_with_advice(overrides, words):
    with pytest.raises(ConfigError) as refusal:
        checked(compose(overrides))
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_shares_that_do_not_sum_to_one_raise():
    with pytest.raises(ConfigError, match="sum to 1"):
        checked(compose(["recipe=common", "recipe.stages=[{name: a, share: 1/2, lr: 0.1}]"]))


def test_no_module_outside_models_contains_a_model_name():
    names = set(options("model")) - {shipped.NAME}  # a function of the package, and also the name of a data set
    for path in sorted((ROOT / "lic_train").rglob("*.py")):
        if path.parent.name in ("models", "layers") or path.parent.name == "entropy":
            continue
        text = _code(path)
        assert not [name for name in names if f'"{name}"' in text or f"'{name}'" in text], path


def _code(path: Path) -> str:
    return "\n".join(line.split("#")[0] for line in path.read_text().splitlines())


def test_missing_extra_names_the_extra(monkeypatch):
    Plugins.instance()  # registers the configurations of all plugins
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["sweeper"], "optuna.yaml", raising=False)
    with pytest.raises(ConfigError, match=r"hydra/sweeper/optuna.*\n.*\n.*\nto do: pip install 'lic-train\[optuna\]'"):
        compose(["model=cwam", "sweep=search"])


def test_missing_configuration_names_the_file_and_the_nearest(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "cwamm.yaml").write_text("_target_: lic_train.models.cwam.CWAM\nN: 16\n")
    monkeypatch.setattr("lic_train.system.relaunch.COMMON", [f"hydra.searchpath=['file://{tmp_path}']"])
    with pytest.raises(ConfigError) as refusal:  # its recipe of the same name does not exist
        compose(["model=cwamm"])
    assert "There is no configuration recipe/cwamm." in str(refusal.value)
    assert "conf/recipe/cwamm.yaml" in str(refusal.value)
    assert "did you mean cwam" in str(refusal.value)
    assert "optuna" not in str(refusal.value)
