"""Import of weights of CompressAI's models: same picture, same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compressai.models
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from lic_train.errors import CheckpointError, ConfigError
from lic_train.files import bitstream, zoo
from lic_train.files.checkpoint import load_model
from lic_train.files.zoo import take_over
from tests.tiny import picture

GROUPS = (2, 2, 4, 4, 8)
MODELS: dict[str, tuple[str, type[nn.Module], dict[str, Any]]] = {
    "bmshj2018_factorized": ("FactorizedPrior", compressai.models.FactorizedPrior, {"N": 8, "M": 12}),
    "bmshj2018_hyperprior": ("ScaleHyperprior", compressai.models.ScaleHyperprior, {"N": 8, "M": 12}),
    "mbt2018_mean": ("MeanScaleHyperprior", compressai.models.MeanScaleHyperprior, {"N": 8, "M": 12}),
    "mbt2018": ("JointAutoregressive", compressai.models.JointAutoregressiveHierarchicalPriors, {"N": 8, "M": 12}),
    "cheng2020_anchor": ("Cheng2020Anchor", compressai.models.Cheng2020Anchor, {"N": 8}),
    "cheng2020_attn": ("Cheng2020Attention", compressai.models.Cheng2020Attention, {"N": 8}),
    "elic2022": ("ELIC", compressai.models.Elic2022Official, {"N": 8, "M": 20, "groups": GROUPS}),
}


def theirs(name: str) -> nn.Module:
    """Return CompressAI's model with random weights, solved medians and varied latents, ready to code."""
    torch.manual_seed(3)
    _, kind, arguments = MODELS[name]
    model = kind(**arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.abs().mean())
        last = [layer for layer in model.g_a.modules() if isinstance(layer, nn.Conv2d)][-1]
        last.weight.mul_(30)
        for parameters in predictors(model):
            parameters.bias[: last.out_channels].add_(6)  # scales come first; outliers have no defined code length
    for part in model.modules():
        if isinstance(part, EntropyBottleneck):
            part.update(force=True, update_quantiles=True)
        elif isinstance(part, GaussianConditional):
            part.update_scale_table(torch.exp(torch.linspace(-2.2, 5.5, 64)), force=True)
    return model


def predictors(model: nn.Module) -> list[nn.Module]:
    """Return the last layers that predict the scales of y: one, or one per group of ELIC."""
    named = dict(model.named_modules())
    heads = [part for name, part in named.items() if name.endswith("entropy_parameters")] or [
        named.get("h_s", nn.Module())
    ]
    lasts = [[layer for layer in head.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)] for head in heads]
    return [layers[-1] for layers in lasts if layers]


def config(name: str, **more: Any) -> dict[str, Any]:
    kind, _, arguments = MODELS[name]
    return {"_target_": f"lic_train.models.{name}.{kind}", **arguments, **more}


def image() -> Tensor:
    return picture(256, 256)[None].float() / 255


@pytest.mark.parametrize("name", MODELS)
def test_imported_model_decodes_the_picture_of_compressai_with_its_bits(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth.tar")
    codec = take_over(tmp_path / "weights.pth.tar", config(name))
    with torch.no_grad():
        coded = model.compress(image())
        picture_there = model.decompress(**coded)["x_hat"]
        out = codec(image())
    # Means are rounded to multiples of 2^-8 here, which also changes a few symbols near a boundary.
    difference = out["x_hat"].clamp(0, 1).sub(picture_there).abs()
    assert difference.mean() < 0.02 * picture_there.std()
    assert picture_there.std() > 0.01
    strings = _flat(coded["strings"])
    bits_there = 8 * sum(map(len, strings))
    bits = -sum(likelihoods.log2().sum() for likelihoods in out["likelihoods"].values())
    assert bits_there == pytest.approx(float(bits), rel=0.03, abs=64 * len(strings))  # each string ends with two words
    assert bits_there > 3000
    x = picture(97, 131)
    data = bitstream.encode(codec, x.float() / 255, fingerprint=bytes(8))
    assert bitstream.decode(codec, data, fingerprint=bytes(8)).shape == x.shape


def _flat(strings: Any) -> list[bytes]:
    """Flatten the strings, which ELIC nests by group and pass."""
    return [strings] if isinstance(strings, bytes) else [string for part in strings for string in _flat(part)]


def old_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of releases before 1.2, from a model inside DataParallel."""
    singular = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}
    found = {}
    for name, tensor in weights.items():
        for plural, one in singular.items():
            name = name.replace(f"entropy_bottleneck.{plural}.", f"entropy_bottleneck.{one}")
        found[f"module.{name}"] = tensor
    return found


def test_checkpoint_of_the_example_script_with_old_names(tmp_path: Path) -> None:
    weights = theirs("mbt2018_mean").state_dict()
    torch.save(weights, tmp_path / "new.pth.tar")
    content = {"epoch": 3, "loss": torch.tensor(1.0), "state_dict": old_names(weights)}
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    new, old = (take_over(tmp_path / f"{age}.pth.tar", config("mbt2018_mean")) for age in ("new", "old"))
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())


def test_command_line_writes_a_model_with_its_lambda(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(theirs("bmshj2018_factorized").state_dict(), tmp_path / "a.pth.tar")
    out = tmp_path / "a.safetensors"
    zoo.main([str(tmp_path / "a.pth.tar"), str(out), "model.N=8", "model.M=12", "lambda=0.013"])
    codec, metadata = load_model(out)
    assert metadata.training == {"lambda": 0.013, "distortion": "mse", "source": "a.pth.tar"}
    assert codec(image())["x_hat"].shape == (1, 3, 256, 256)
    assert metadata.fingerprint.hex() in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("content", ["nothing", "garbage", "cut", "a list", "numbers", "code"])
def test_file_without_weights_raises(content: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    torch.save(theirs("bmshj2018_factorized").state_dict(), path)
    data = path.read_bytes()
    if content == "nothing":
        path.unlink()
    elif content in ("garbage", "cut"):
        path.write_bytes(b"\x80\x02" + bytes(range(256)) * 9 if content == "garbage" else data[: len(data) // 2])
    else:
        torch.save({"a list": [1, 2], "numbers": {"epoch": 3}, "code": Path("/")}[content], path)
    with pytest.raises(CheckpointError, match="does not contain weights of a CompressAI model"):
        take_over(path, config("bmshj2018_factorized"))


def test_weights_of_another_model_or_width_or_not_finite_raise(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    weights = theirs("mbt2018_mean").state_dict()
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"g_a\.0\.weight: expected .*\(16, 3, 5, 5\), got .*\(8, 3, 5, 5\)"):
        take_over(path, config("mbt2018_mean", N=16))
    with pytest.raises(CheckpointError, match="it is from another model"):
        take_over(path, config("bmshj2018_factorized"))
    weights["g_a.0.bias"][0] = torch.nan
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in g_a\.0\.bias"):
        take_over(path, config("mbt2018_mean"))
    with pytest.raises(ConfigError, match="whose networks are CompressAI's"):
        take_over(path, {"_target_": "lic_train.models.cwam.CWAM", "N": 64})
