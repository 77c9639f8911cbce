"""QRes-VAE: counts of its specification, its prior and likelihoods, its order of coding, its lambda."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lic_train.complexity.count import inside, macs_by_module
from lic_train.config.compose import compose
from lic_train.entropy.gaussian import gaussian_tables
from lic_train.models.qres_vae import TABLE_RANGE, DensityInTails, LatentBlock, QResVAE
from lic_train.recipes.losses import bpp
from tests.conftest import make_small_codec

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- size and cost: the numbers of the specification, at full width and without memory ----


@pytest.fixture(scope="module")
def full() -> QResVAE:
    with torch.device("meta"):
        model = QResVAE()
    return model.to("meta")


def test_parameters_of_every_block(full):
    down_192, down_384 = 453_504, 1_201_536
    assert list(map(count, full.g_a)) == [
        9_408,
        *[158_208] * 6,
        down_192,
        *[611_328] * 6,
        down_384,
        *[602_112] * 6,
        down_384,
        *[595_968] * 4,
        down_384,
        *[592_896] * 2,
    ]
    assert list(map(count, full.top_down.blocks)) == [
        1_358_112,
        591_360,
        *[1_663_866] * 2,
        591_360,
        *[1_674_708] * 3,
        591_360,
        *[1_691_694] * 3,
        295_680,
        *[435_024] * 3,
    ]
    assert (count(full.g_a), count(full.g_s), count(full)) == (15_867_072, 9_264, 34_036_602)


def test_parameters_inside_a_block(full):
    block = full.top_down.blocks[2]
    parts = (block.front, block.prior, block.posterior, block.z_proj, block.end)
    assert tuple(map(count, parts)) == (595_968, 205_756, 241_262, 24_912, 595_968)


def test_multiplications(full):
    found = macs_by_module(full, 256, 256)
    posteriors = sum(macs for name, macs in found.items() if name.endswith(".posterior"))
    assert inside(found, "g_a") == 10_684_502_016
    assert inside(found, "top_down") + inside(found, "g_s") == 12_536_180_736
    assert found[""] - inside(found, "g_a") - posteriors == 10_839_060_480
    assert found[""] == 23_220_682_752


def test_latents_of_a_crop(full):
    found = full.train()(torch.empty(2, 3, 128, 192, device="meta"))["likelihoods"]
    channels, counts = (16, 14, 12, 10, 8), (1, 2, 3, 3, 3)
    shapes = [
        (2, c, 2 * 2**i, 3 * 2**i) for i, (c, n) in enumerate(zip(channels, counts, strict=True)) for _ in range(n)
    ]
    assert list(found) == [f"z{i}" for i in range(12)]
    assert [tuple(likelihoods.shape) for likelihoods in found.values()] == shapes
    assert sum(math.prod(shape[1:]) for shape in shapes) == 6 * 8_768


# ---- the start of training ----


def test_priors_start_constant_and_latents_add_twice_the_default():
    torch.manual_seed(0)
    model = QResVAE(16)
    out = model.train()(torch.rand(1, 3, 64, 64))
    # All scales are softplus(2.3) - 2.3 in the logarithm, all means 0: the likelihood of a value within 1/2 is at most
    # that of 0.
    scale = math.exp(math.log1p(math.exp(2.3)) - 2.3)
    assert scale == pytest.approx(1.100, abs=5e-4)
    assert float(out["likelihoods"]["z0"].max()) <= math.erf(0.5 / scale / math.sqrt(2)) + 1e-6
    blocks = [block for block in model.top_down.blocks if isinstance(block, LatentBlock)]
    # PyTorch draws uniformly within 1/sqrt(fan-in), here times sqrt(12 / 3).
    for block in blocks:
        weight = block.z_proj[-1].weight
        assert float(weight.abs().max()) == pytest.approx(2 / math.sqrt(weight.shape[1]), rel=0.1)
    intended = QResVAE(16, projection_init="intended").top_down.blocks[0].z_proj[-1].weight
    assert float(intended.abs().max()) == pytest.approx(1 / 6 / math.sqrt(intended.shape[1]), rel=0.1)
    zero = [key for key, value in model.named_parameters() if key.endswith("bias") and not value.any()]
    assert not [key for key in zero if ".depthwise." in key or ".mlp." in key]
    assert {"g_a.0.bias", "g_s.0.bias", "top_down.bias", "top_down.blocks.1.0.bias"} <= set(zero)


# ---- likelihoods ----


def test_training_likelihood_against_float64():
    """Mass within the unit interval; where it is below 1e-6 the density, at least 1e-9."""
    density, z = DensityInTails().train(), torch.linspace(-8, 0.25, 321)  # the lower side, exact in float64
    for scale in (0.1003, 0.5, 1.1):
        normal = torch.distributions.Normal(0.25, scale)
        exact = z.double()
        mass = normal.cdf(exact + 0.5) - normal.cdf(exact - 0.5)
        expected = torch.where(mass > 1e-6, mass, normal.log_prob(exact).exp().clamp(min=1e-9))
        found = density.likelihood(z, torch.full_like(z, scale), torch.full_like(z, 0.25))
        near = (mass - 1e-6).abs() > 1e-8  # both sides of the switch are right at the switch
        torch.testing.assert_close(found.double()[near], expected[near], rtol=2e-3, atol=1e-9)


def test_gradient_of_an_outlier_is_that_of_the_log_density():
    """At 60 standard deviations, where mass and density are 0 in float32."""
    density, mean = DensityInTails().train(), torch.zeros(1, requires_grad=True)
    scale = torch.full((1,), 0.5, requires_grad=True)
    (-density.likelihood(torch.full((1,), 30.0), scale, mean).log()).sum().backward()
    assert float(mean.grad) == pytest.approx(-30 / 0.25)
    assert float(scale.grad) == pytest.approx(1 / 0.5 - 900 / 0.125)


def test_evaluation_likelihood_is_the_house_gaussian():
    density = DensityInTails().eval()
    found = density.likelihood(torch.zeros(2), torch.tensor([0.1003, 0.11]), torch.zeros(2))
    assert found[0] == found[1]
    assert float(found[0]) == pytest.approx(math.erf(0.5 / 0.11 / math.sqrt(2)))


def test_tables_have_64_scales_from_a_tenth_to_twenty():
    tables = gaussian_tables(*TABLE_RANGE)
    assert len(tables) == 64
    assert (tables[0].minimum, tables[-1].minimum) == (-1, -math.ceil(6.11 * 20))


# ---- the codec ----


@torch.no_grad()
def test_a_latent_depends_on_coarser_latents_only():
    """Changing latent i changes the priors of later latents, and no prior of an earlier one or its own."""
    model, x = make_small_codec("qres_vae").eval(), torch.rand(1, 3, 64, 128)
    blocks = [block for block in model.top_down.blocks if isinstance(block, LatentBlock)]

    def priors():
        found = []
        handles = [block.prior.register_forward_hook(lambda _, __, out: found.append(out)) for block in blocks]
        model(x)
        for handle in handles:
            handle.remove()
        return found

    before = priors()
    for changed, block in enumerate(blocks):
        handle = block.posterior.register_forward_hook(lambda _, __, mean: mean + 3)
        same = [torch.equal(a, b) for a, b in zip(before, priors(), strict=True)]
        handle.remove()
        assert same == [place <= changed for place in range(len(blocks))]


@torch.no_grad()
def test_decoder_uses_neither_encoder_nor_posteriors():
    model, x = make_small_codec("qres_vae"), torch.rand(1, 3, 64, 64)
    with model.ready_to_code():
        coded = model.compress(x)
        expected = model.decompress(**coded)["x_hat"]
        for key, parameter in model.named_parameters():
            if key.startswith("g_a") or ".posterior." in key:
                parameter.normal_()
        assert torch.equal(model.decompress(**coded)["x_hat"], expected)
    assert coded["shape"] == (1, 1)
    assert len(coded["strings"]) == 1


@torch.no_grad()
def test_block_follows_its_equations():
    block = LatentBlock(16, 6, kernel=3)
    for parameter in block.parameters():
        parameter.normal_(std=0.3)
    feature, encoder_feature = torch.randn(1, 16, 4, 4), torch.randn(1, 16, 4, 4)
    seen = {}

    def code(_, front, scales, means):
        seen.update(front=front, scales=scales, means=means, q=block.encode(front, {4: encoder_feature}))
        return seen["q"] + 0.25

    out = block(feature, code)
    front = block.front(feature)
    means, log_scales = block.prior(front).chunk(2, dim=1)
    torch.testing.assert_close(seen["means"], means)
    torch.testing.assert_close(seen["scales"], (F.softplus(log_scales + 2.3) - 2.3).exp())
    torch.testing.assert_close(seen["q"], block.posterior(torch.cat([front, encoder_feature], dim=1)))
    torch.testing.assert_close(out, block.end(front + block.z_proj(seen["q"] + 0.25)))


def test_model_without_factorised_density_has_no_quantiles():
    model = make_small_codec("qres_vae").train()
    assert model.aux_parameters() == []
    assert float(model.aux_loss()) == 0
    assert len(model.net_parameters()) == len(list(model.parameters()))


# ---- the recipe ----


def test_lambda_and_clip_are_those_of_the_authors_loss():
    """Their loss: nats per sub-pixel + lmb * MSE on [-1, 1]; times 3 / ln 2 it is ours."""
    recipe = compose(["model=qres_vae"]).recipe
    assert list(recipe.ladder.mse) == [
        round(lmb * 12 / (math.log(2) * 65025), 5) for lmb in (16 * 2**i for i in range(8))
    ]
    assert recipe.optimizer.clip_norm == pytest.approx(2 * 3 / math.log(2), abs=5e-3)
    x, likelihoods = torch.rand(2, 3, 64, 64), torch.rand(2, 16, 1, 1)
    out = {"x_hat": torch.rand(2, 3, 64, 64), "likelihoods": {"z0": likelihoods}}
    nats = -likelihoods.log().sum() / (2 * 3 * 64 * 64)
    theirs = nats + 64 * F.mse_loss(2 * out["x_hat"] - 1, 2 * x - 1)
    ours = bpp(out, x) + 64 * 2.6624e-4 * 65025 * F.mse_loss(out["x_hat"], x)
    torch.testing.assert_close(ours, theirs * 3 / math.log(2), rtol=1e-4, atol=0)


# ---- arguments and names ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"N": 6}, "N: expected a positive multiple of 4, got 6"),
        ({"depths": [1, 1]}, r"depths: expected 5 numbers of at least 0, got \[1, 1\]"),
        ({"latents": [1, 1, 0, 1, 1]}, r"latents: expected 5 numbers of at least 1, got \[1, 1, 0, 1, 1\]"),
        ({"projection_init": "zero"}, "expected code or intended, got 'zero'"),
    ],
)
def test_invalid_options_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        QResVAE(**arguments)


NAMES = {
    "encoder.enc_blocks.0.weight": "g_a.0.weight",
    "encoder.enc_blocks.7.gamma": "g_a.7.gamma",
    "encoder.enc_blocks.7.downsapmle.bias": "g_a.7.down.bias",
    "encoder.enc_blocks.28.mlp.fc2.weight": "g_a.28.mlp.2.weight",
    "decoder.bias": "top_down.bias",
    "decoder.dec_blocks.0.resnet_front.conv_dw.weight": "top_down.blocks.0.front.depthwise.weight",
    "decoder.dec_blocks.1.0.weight": "top_down.blocks.1.0.weight",
    "decoder.dec_blocks.15.prior.c4.bias": "top_down.blocks.15.prior.7.bias",
    "decoder.dec_blocks.15.posterior.c1.weight": "top_down.blocks.15.posterior.1.weight",
    "decoder.dec_blocks.15.z_proj.2.weight": "top_down.blocks.15.z_proj.2.weight",
    "decoder.dec_blocks.16.0.bias": "g_s.0.bias",
}


@pytest.mark.parametrize("theirs", NAMES)
def test_authors_names(full, theirs):
    name = theirs
    for pattern, replacement in QResVAE.authors_names:
        name = re.sub(pattern, replacement, name)
    assert name == NAMES[theirs]
    assert name in full.state_dict()
