"""Codecs with a variable rate: gain units in every model, the ladder, levels of a batch, and the file header."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import yaml

from lic_train.config.compose import compose
from lic_train.config.folder import CONF_DIR
from lic_train.config.run import checked
from lic_train.errors import BitstreamError, ConfigError
from lic_train.files import bitstream
from lic_train.files.container import unpack
from lic_train.layers.gains import GainUnit, Ladder
from lic_train.models.base import Codec, build, fixed
from lic_train.recipes import losses
from lic_train.recipes.recipe import Recipe
from lic_train.training.levels import by_level, count_of, levels_of
from tests.conftest import SMALL, small_config, with_varied_latents
from tests.test_codecs import assert_same_picture, photograph
from tests.tiny import HYPERPRIOR, make_codec

LAMBDAS = [0.002, 0.01, 0.05]
VARIABLE = {**HYPERPRIOR, "lambdas": LAMBDAS}
OPTIMIZER = {"aux_lr": 1e-3, "clip_norm": 1.0}
STAGES = [{"name": "main", "share": 1, "lr": 1e-3}]
FINGERPRINT = bytes(range(8))


def variable(name: str) -> Codec:
    return with_varied_latents({**small_config(name), "lambdas": LAMBDAS})


# --- every model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_every_model_trains_and_codes_at_a_continuous_rate(name, seeded_on_one_thread):
    model, x = variable(name), photograph(64, 64)[None]
    with model.train().at_level(torch.tensor([0.0, 2.0])):
        out = model(torch.cat([x, x]))
    (losses.bpp(out, x) + 100 * losses.mse(out, torch.cat([x, x]))).backward()
    untouched = {id(p) for p in model.net_parameters() if p.grad is None}
    assert not [key for key, p in model.named_parameters() if id(p) in untouched]
    for unit in model.gains.values():
        assert [bool(row.any()) for row in unit.log_gain.grad] == [True, False, True]
        assert not unit.log_inverse.grad[1].any()
    sizes = []
    with torch.no_grad(), model.ready_to_code():
        other = copy.deepcopy(model)  # with gain units of its own
        for level in (0.25, 2):
            data = bitstream.encode(model, x[0], FINGERPRINT, level=level)
            expected = bitstream.estimate(model, x[0], level=level).x_hat
            assert_same_picture(bitstream.decode(other, data, FINGERPRINT), expected)
            sizes.append(len(data))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] or name == "bmshj2018_factorized"  # whose untrained density has one symbol here


@pytest.mark.parametrize("name", SMALL)
def test_gains_of_one_are_the_model_with_one_rate(name, seeded_on_one_thread):
    """The same weights, forward pass and loss, bit by bit."""
    single, x = build(small_config(name)).train(), photograph(64, 64)[None]
    with_gains = build({**small_config(name), "lambdas": [0.01]}).train()
    missing = with_gains.load_state_dict(single.state_dict(), strict=False).missing_keys
    assert all(key.startswith("gains.") for key in missing)
    with_gains.reset_gains()
    recipe = Recipe(STAGES, 10, 0.01, "mse", OPTIMIZER)
    torch.manual_seed(1)
    expected = recipe(single(x), x, 0)["loss"]
    torch.manual_seed(1)
    with with_gains.at_level(torch.zeros(1)):
        loss = recipe(with_gains(x), x, 0, torch.tensor([0.01]))["loss"]
    assert torch.equal(loss, expected)


def test_one_level_with_fixed_gains_trains_like_the_model_with_one_rate(seeded_on_one_thread):
    def curve(lambdas: list[float] | None) -> list[float]:
        torch.manual_seed(0)
        model = build({**small_config("mbt2018_mean"), **({"lambdas": lambdas} if lambdas else {})}).train()
        if lambdas:
            model.gains.requires_grad_(False)
        recipe, history = Recipe(STAGES, 10, 0.01, "mse", OPTIMIZER), []
        optimizer = torch.optim.Adam([p for p in model.net_parameters() if p.requires_grad], lr=1e-3)
        for step in range(5):
            x = torch.stack([photograph(64, 64, 2 * step), photograph(64, 64, 2 * step + 1)])
            torch.manual_seed(step)
            loss = recipe(model(x), x, step, torch.full((2,), lambdas[0]) if lambdas else None)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return history

    assert curve([0.01]) == curve(None)


def test_compiled_forward_is_one_graph_for_all_levels(seeded_on_one_thread):
    model, x = variable("mbt2018_mean").train(), torch.stack([photograph(64, 64, seed) for seed in range(2)])
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count, dynamic=False, fullgraph=True)
    for levels in ([0.0, 1.0], [2.0, 1.0], [1.0, 0.0]):
        with model.at_level(torch.tensor(levels)):
            torch.manual_seed(1)
            found = compiled(x)["x_hat"]
            torch.manual_seed(1)
            torch.testing.assert_close(found, model(x)["x_hat"])
    assert len(graphs) == 1


def test_gains_of_side_information_start_at_one_and_those_of_pictures_at_the_root_of_lambda():
    model = build({**small_config("mbt2018_mean"), "lambdas": [0.001, 0.01, 0.1]})
    steps = model.gains["y"].log_gain.exp()[:, 0]
    torch.testing.assert_close(steps, torch.tensor([10**-0.5, 1, 10**0.5]))
    torch.testing.assert_close(model.gains["y"].log_inverse, -model.gains["y"].log_gain)
    assert not model.gains["z"].log_gain.any()
    hierarchical = build({**small_config("qres_vae"), "lambdas": [0.001, 0.01, 0.1]})
    assert len(hierarchical.gains) == 5
    for unit in hierarchical.gains.values():
        torch.testing.assert_close(unit.log_gain.exp()[:, 0], torch.tensor([10**-0.5, 1, 10**0.5]))


def test_prior_of_a_hierarchical_latent_is_scaled_by_its_gain():
    unit = GainUnit(2, 3)
    unit.start_at([0.5, 2.0])
    unit.level = 1.0
    density = torch.randn(1, 6, 4, 4)
    means, log_scales = unit.amplify_density(unit, (), density).chunk(2, dim=1)
    torch.testing.assert_close(means, 2 * density[:, :3])
    torch.testing.assert_close(log_scales.exp(), 2 * density[:, 3:].exp())


# --- gains and ladder ------------------------------------------------------------------------------------------------


def test_gains_between_two_levels_are_geometric_means():
    unit = GainUnit(3, 2)
    gains = torch.tensor([[1.0, 2.0], [3.0, 0.5], [7.0, 5.0]])
    with torch.no_grad():
        unit.log_gain.copy_(gains.log())
    y = torch.rand(4, 2, 3, 3)
    unit.level = torch.tensor([0.0, 0.25, 1.5, 2.0])
    expected = [gains[0], gains[0] ** 0.75 * gains[1] ** 0.25, (gains[1] * gains[2]).sqrt(), gains[2]]
    torch.testing.assert_close(unit.amplify(unit, (), y), y * torch.stack(expected)[:, :, None, None])


def test_ladder_interpolates_lambda_geometrically():
    ladder = Ladder([0.001, 0.004, 0.1])
    assert [ladder.lambda_at(level) for level in (0, 1, 2)] == [0.001, 0.004, 0.1]
    assert ladder.lambda_at(0.5) == pytest.approx(0.002)
    assert ladder.lambda_at(1.5) == pytest.approx(math.sqrt(0.0004))
    for level in (0, 0.3, 1, 1.9, 2):
        assert ladder.level_of(ladder.lambda_at(level)) == pytest.approx(level)
    single = Ladder([0.01])
    assert (single.middle, single.lambda_at(0), single.level_of(0.01)) == (0, 0.01, 0)


@pytest.mark.parametrize("lambdas", [[0.02, 0.01], [0.01, 0.01], [0.0, 0.01], [-1.0], [math.nan], [0.1, math.inf], []])
def test_ladder_that_is_not_increasing_raises(lambdas):
    with pytest.raises(ValueError, match="lambdas: expected"):
        Ladder(lambdas)


@pytest.mark.parametrize("level", [-0.1, 2.1, math.nan])
def test_level_outside_the_range_raises(level):
    with pytest.raises(ConfigError, match="from 0 to 2"), make_codec(VARIABLE).at_level(level):
        pass


# --- levels of a batch -----------------------------------------------------------------------------------------------


def test_every_level_has_the_same_number_of_crops():
    batches = [levels_of(torch.arange(4), step, 4, 6) for step in range(6)]
    assert torch.bincount(torch.cat(batches)).tolist() == [4] * 6
    for step, levels in enumerate(batches):
        assert torch.bincount(levels, minlength=6).tolist() == [count_of(level, step, 4, 6) for level in range(6)]


def test_rates_of_levels_do_not_depend_on_the_parts_of_a_batch():
    """Two processes with two micro-batches each: images 0 and 2, 1 and 3, and so on."""
    generator = torch.Generator().manual_seed(0)
    x, x_hat = torch.rand(2, 8, 3, 4, 4, generator=generator)
    likelihoods = torch.rand(8, 5, 2, 2, generator=generator)

    def part(positions: torch.Tensor) -> dict[str, torch.Tensor]:
        out = {"x_hat": x_hat[positions], "likelihoods": {"y": likelihoods[positions]}}
        return by_level(out, x[positions], levels_of(positions, 5, 8, 3), 5, 8, 3)

    parts = [part(torch.tensor([first, first + 2])) for first in (0, 1, 4, 5)]
    levels = levels_of(torch.arange(8), 5, 8, 3)
    for level in range(3):
        chosen = {"x_hat": x_hat[levels == level], "likelihoods": {"y": likelihoods[levels == level]}}
        for name in ("bpp", "mse"):
            expected = losses.TERMS[name](chosen, x[levels == level])
            found = torch.stack([each[f"{name}_level_{level}"] for each in parts]).mean()
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("distortion", "side"), [("mse", 32), ("ms_ssim", 176)])
def test_distortion_of_each_image_has_its_own_lambda(distortion, side):
    generator = torch.Generator().manual_seed(0)
    x, x_hat = torch.rand(2, 3, 3, side, side, generator=generator)
    likelihoods = torch.rand(3, 5, 2, 2, generator=generator)
    out = {"x_hat": x_hat, "likelihoods": {"y": likelihoods}}
    lambdas = [0.5, 2.0, 8.0]
    stages = [{"name": "main", "share": 1, "lr": 1e-3, "loss": {"bpp": 1.0, "distortion": 0.5, "mse": 3.0}}]
    expected = []
    for i, lmbda in enumerate(lambdas):
        one = {"x_hat": x_hat[i : i + 1], "likelihoods": {"y": likelihoods[i : i + 1]}}
        expected.append(Recipe(stages, 10, lmbda, distortion, OPTIMIZER)(one, x[i : i + 1], 0)["loss"])
    loss = Recipe(stages, 10, 8.0, distortion, OPTIMIZER)(out, x, 0, torch.tensor(lambdas))["loss"]
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=0)


# --- files -----------------------------------------------------------------------------------------------------------


def test_file_contains_the_level_that_codes_it():
    codec, x = make_codec(VARIABLE), photograph(70, 90)
    for level, stored in ((0, 0), (2, 2), (0.7, 717 / 1024), (None, 1)):
        data = bitstream.encode(codec, x, FINGERPRINT, level=level)
        assert unpack(data)[0].level / 1024 == stored
        with codec.at_level(2.0):  # the present level of the decoder has no effect
            x_hat = bitstream.decode(codec, data, FINGERPRINT)
        assert_same_picture(x_hat, bitstream.estimate(codec, x, level=stored).x_hat)


def test_files_of_fixed_and_variable_rate_are_not_exchanged():
    x, single, several = photograph(64, 64), make_codec(HYPERPRIOR), make_codec(VARIABLE)
    with pytest.raises(BitstreamError, match=r"from a model with a variable rate\.\nexpected: .*one rate"):
        bitstream.decode(single, bitstream.encode(several, x, FINGERPRINT), FINGERPRINT)
    with pytest.raises(BitstreamError, match=r"from a model with one rate\.\nexpected: .*a variable rate"):
        bitstream.decode(several, bitstream.encode(single, x, FINGERPRINT), FINGERPRINT)
    with pytest.raises(ConfigError, match="one rate"):
        bitstream.encode(single, x, FINGERPRINT, level=1)
    shorter = make_codec({**HYPERPRIOR, "lambdas": LAMBDAS[:2]})
    with pytest.raises(BitstreamError, match=r"hostile.*\nexpected: a level from 0 to 1\ngot: level 2"):
        bitstream.decode(shorter, bitstream.encode(several, x, FINGERPRINT, level=2), FINGERPRINT)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_configuration_has_the_ladder_of_the_recipe():
    config = checked(compose(["model=mbt2018_mean", "rate=variable", "rate.lambdas=[0.0018,0.0067]"]))
    assert config.network == {**config.model, "lambdas": [0.0018, 0.0067]}
    assert (config.lmbda, config.model["M"]) == (0.0067, 192)
    assert config.output == "outputs/mbt2018_mean/mbt2018_mean/variable"
    ms_ssim = checked(compose(["model=mbt2018_mean", "rate=variable", "distortion=ms_ssim", "crop=192", "name=a"]))
    assert ms_ssim.rate.lambdas == [2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00]
    assert (ms_ssim.model["M"], ms_ssim.output[-10:]) == (320, "variable_a")
    single = checked(compose(["model=mbt2018_mean"]))
    assert single.network == fixed(config.network) == single.model


def test_ladder_of_every_recipe_can_be_a_variable_rate():
    ladders = [yaml.safe_load(path.read_text()).get("ladder", {}) for path in (CONF_DIR / "recipe").glob("*.yaml")]
    assert sum(map(bool, ladders)) > 10
    for lambdas in (lambdas for ladder in ladders for lambdas in ladder.values()):
        Ladder(lambdas)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rate=variable", "rate.lambdas=[0.1,0.01]"], r"rate\.lambdas: expected positive numbers in increasing order"),
        (["rate=variable", "rate.lambdas=[]"], "rate|lambda"),
        (["rate.lambdas=[0.1]"], r"rate\.lambdas: expected none, because the run has one rate.*add rate=variable"),
        (["rate=variable", "lambda=0.01"], r"lambda: expected none, because the run has rate\.lambdas"),
        (["rate=variable", "distortion=psnr"], "distortion: expected one of mse, ms_ssim"),
        (["rate=varible"], "one of fixed, variable"),
    ],
)
def test_wrong_rates_raise(overrides, message):
    with pytest.raises(ConfigError, match=message):
        checked(compose(["model=cwam", *overrides]))
