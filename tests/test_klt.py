"""Initial weights of a block transform: the networks of a transform coder before the first step."""

from __future__ import annotations

import pytest
import torch
from compressai.layers import GDN
from skimage import data
from torch import Tensor, nn

from lic_train.config.compose import compose
from lic_train.config.run import RunConfig, checked
from lic_train.errors import ConfigError
from lic_train.layers.klt import best_gain, start_as_klt
from lic_train.models.demo import SmallHyperprior
from lic_train.models.mbt2018_mean import MeanScaleHyperprior
from lic_train.training.setup import make_model


def photograph() -> Tensor:
    return torch.from_numpy(data.astronaut()[:256, :256].copy()).permute(2, 0, 1)[None] / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def networks(M: int, name: str = "mbt2018_mean") -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = MeanScaleHyperprior(48, M) if name == "mbt2018_mean" else SmallHyperprior(16, 48, M, 32, 8, 16)
    return model.g_a, model.g_s


def transform(M: int, lmbda: float, name: str = "mbt2018_mean") -> tuple[nn.Module, nn.Module]:
    g_a, g_s = networks(M, name)
    start_as_klt(g_a, g_s, best_gain(g_a, lmbda))
    return g_a, g_s


def config(*overrides: str) -> RunConfig:
    return checked(compose(["model=mbt2018_mean", "model.N=16", "model.M=24", "logger=csv", *overrides]))


@torch.no_grad()
def test_picture_is_reconstructed_from_as_many_components_as_the_layers_have() -> None:
    x = photograph()
    found = []
    for M in (12, 48, 144):
        g_a, g_s = transform(M, lmbda=0.0067)
        found.append(psnr(g_s(g_a(x)), x))
    assert found == sorted(found)
    assert found[-1] > 27  # random initial weights: 5 to 6 dB


@pytest.mark.parametrize(("name", "components"), [("mbt2018_mean", 96), ("demo", 40)])
@torch.no_grad()
def test_without_gdn_and_random_part_the_error_is_that_of_the_discarded_components(
    monkeypatch: pytest.MonkeyPatch, name: str, components: int
) -> None:
    """Orthonormal rows: energy that the transform keeps and energy of the error add up to that of the picture."""
    monkeypatch.setattr("lic_train.layers.klt._RANDOM", 0.0)
    pair = transform(components, 0.01, name)
    g_a, g_s = (nn.Sequential(*(layer for layer in net if not isinstance(layer, GDN))) for net in pair)
    x = photograph()
    halvings = {"mbt2018_mean": 4, "demo": 3}[name]
    y = g_a(x) / best_gain(g_a, 0.01) * 2**halvings
    error = (g_s(g_a(x)) - x).square().sum()
    torch.testing.assert_close(y.square().sum() + error, (x - 0.5).square().sum(), rtol=1e-4, atol=0)


def test_step_of_the_quantiser_is_that_of_theory() -> None:
    # D = step^2 / 12 and dR / dD = -1 / (2 ln 2 D) for every component, so that lambda * D = 1 / (2 ln 2).
    step = 16 * 255 / best_gain(networks(24)[0], 0.0067)
    assert 0.0067 * step**2 / 12 == pytest.approx(1 / (2 * torch.tensor(2.0).log().item()))


def test_networks_with_other_convolutions_are_refused() -> None:
    wrong = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1))
    with pytest.raises(ValueError, match="expected mirrored 5x5 convolutions of stride 2, got"):
        start_as_klt(wrong, wrong)


def test_recipe_starts_a_run_with_it() -> None:
    random, klt = make_model(config()), make_model(config("+recipe.initial_weights=klt"))
    x = photograph()
    with torch.no_grad():
        psnrs = [psnr(model.eval()(x)["x_hat"], x) for model in (random, klt)]
    assert psnrs[1] > psnrs[0] + 10


def test_variable_rate_has_the_factor_in_its_gain_units() -> None:
    rates = ("rate=variable", "rate.lambdas=[0.002,0.008]")
    model, plain = make_model(config("+recipe.initial_weights=klt", *rates)), make_model(config(*rates))
    unit, other = model.gains["y"], plain.gains["y"]
    torch.testing.assert_close(unit.log_gain.exp(), best_gain(model.g_a, 0.004) * other.log_gain.exp())
    torch.testing.assert_close(unit.log_inverse, -unit.log_gain)
    x = photograph()
    with torch.no_grad(), model.at_level(1):
        assert psnr(model.eval()(x)["x_hat"], x) > 20


def test_model_with_other_networks_is_one_error() -> None:
    other = compose(["model=qres_vae", "model.N=8", "+recipe.initial_weights=klt", "logger=csv"])
    with pytest.raises(ConfigError, match="klt: expected mirrored"):
        make_model(checked(other))
