"""GCAB + GMM: counts of its specification, attention, mixture head, bitstream, configuration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lic_train.complexity.count import multiply_adds
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.models.base import build
from lic_train.models.gcab_gmm import GCABMixture, GlobalContext, MixtureHead

SMALL = {"N": 16, "M": 12, "ratio": 4, "head_widths": (24, 20)}


pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small(**options):
    """Return a network with varied latents, suitable scales and active attention."""
    torch.manual_seed(1)
    model = GCABMixture(**{**SMALL, **options}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("g_a.") and parameter.ndim == 4:
                parameter.normal_(0, 2 * parameter[0].numel() ** -0.5)
        if not options.get("mixture", True):
            model.h_s[-2].bias.add_(4)
        else:
            model.context.head.layers[-1].bias.view(3, model.context.head.K, -1)[2].add_(4)
    return model


def picture(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    waves = (torch.rand(1, 3, n, n, generator=generator) for n in (3, 11, 40))
    return sum(F.interpolate(wave, (height, width), mode="bilinear") for wave in waves)[0] / 3


# ---- size and cost: the numbers of the specification, at full width and without memory ----

PARAMETERS = [
    ({}, (1_500_299, 1_493_123, 1_040_768, 1_040_832, 752_000, 7_808), 5_834_830),
    ({"K": 2}, (1_500_299, 1_493_123, 1_040_768, 1_040_832, 567_104, 7_808), 5_649_934),
    ({"K": 4}, (1_500_299, 1_493_123, 1_040_768, 1_040_832, 936_896, 7_808), 6_019_726),
    ({"ratio": 4}, (1_518_947, 1_493_123, 1_040_768, 1_040_832, 752_000, 7_808), 5_853_478),
    ({"N": 192}, (2_906_223, 2_890_947, 2_175_552, 2_175_552, 752_000, 11_712), 10_911_986),
]


@pytest.mark.parametrize(("options", "parts", "total"), PARAMETERS)
def test_parameters(options, parts, total):
    model = GCABMixture(**options).to("meta")
    found = (model.g_a, model.g_s, model.h_a, model.h_s, model.context, model.entropy_bottleneck)
    assert tuple(map(count, found)) == parts
    assert count(model) == total


def test_parameters_of_one_attention_block():
    sizes = (GlobalContext(128), GlobalContext(128, ratio=4), GlobalContext(192))
    assert tuple(map(count, sizes)) == (2_329, 8_545, 5_029)


def test_without_both_it_is_the_scale_hyperprior():
    model = GCABMixture(mixture=False, gcab_after=()).to("meta")
    assert count(model) == 5_075_843


def macs(module, *shape):
    return multiply_adds(module, (1, *shape))[""]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (256, 256, (2_769_557_504, 2_764_046_336, 89_391_104, 89_391_104, 191_889_408)),
        (512, 768, (16_617_314_304, 16_584_278_016, 536_346_624, 536_346_624, 1_151_336_448)),
    ],
)
def test_multiplications(height, width, expected):
    model = GCABMixture().to("meta")
    h, w = height // 16, width // 16
    found = (
        macs(model.g_a, 3, height, width),
        macs(model.g_s, 192, h, w),
        macs(model.h_a, 192, h, w),
        macs(model.h_s, 128, h // 4, w // 4),
        macs(model.context.head, 192, h, w),
    )
    assert found == expected
    # Linear in the pixels except for the two small convolutions of every attention block.
    assert sum(found) == (5_904_275_456 if height == 256 else 35_425_622_016)


def test_multiplications_of_the_attention_blocks():
    blocks = [macs(GlobalContext(128).to("meta"), 128, side, side) for side in (128, 64, 32)]
    assert blocks == [4_196_352, 1_050_624, 264_192]


def test_shapes_of_the_latents():
    model = GCABMixture().to("meta")
    y = model.g_a(torch.empty(1, 3, 512, 768, device="meta"))
    assert y.shape == (1, 192, 32, 48)
    z = model.h_a(y)
    assert z.shape == (1, 128, 8, 12)
    assert [p.shape for p in model.context._parameters_of_y(model._psi(z))] == [(1, 3, 192, 32, 48)] * 3


# ---- attention ----


def test_attention_equals_the_loop():
    block = GlobalContext(8, ratio=2)
    torch.nn.init.normal_(block.transform[-1].weight)
    x = torch.randn(2, 8, 5, 7)
    for image, result in zip(x, block(x), strict=True):
        columns = image.flatten(1).T.double().detach().numpy()
        scores = columns @ block.score.weight[0, :, 0, 0].double().detach().numpy() + block.score.bias.item()
        shares = np.exp(scores) / np.exp(scores).sum()
        context = sum(share * column for share, column in zip(shares, columns, strict=True))
        first, norm, _, last = block.transform
        hidden = first.weight[:, :, 0, 0].double().detach().numpy() @ context + first.bias.double().detach().numpy()
        hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
        hidden = np.maximum(hidden * norm.weight.flatten().tolist() + norm.bias.flatten().tolist(), 0)
        added = last.weight[:, :, 0, 0].double().detach().numpy() @ hidden + last.bias.double().detach().numpy()
        expected = (columns + added).T.reshape(8, 5, 7)
        np.testing.assert_allclose(result.detach().numpy(), expected, atol=1e-5)
        # One number for all positions of a channel.
        assert (result - image).flatten(1).std(dim=1).max().item() < 1e-6


def test_attention_is_initially_the_identity():
    model, x = GCABMixture(**SMALL), torch.rand(2, 3, 64, 64)
    plain = torch.nn.Sequential(*(layer for layer in model.g_a if not isinstance(layer, GlobalContext)))
    assert len(plain) == len(model.g_a) - 3
    assert torch.equal(model.g_a(x), plain(x))


def test_attention_follows_the_selected_stages():
    positions = [
        i
        for i, layer in enumerate(GCABMixture(**{**SMALL, "gcab_after": (1, 4)}).g_a)
        if isinstance(layer, GlobalContext)
    ]
    assert positions == [2, 8]
    assert not any(isinstance(m, GlobalContext) for m in GCABMixture(**SMALL).g_s.modules())


# ---- head ----


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [1, 100])
def test_weights_sum_to_one(weights, size):
    head = MixtureHead(12, 3, (24, 20), weights, "softplus")
    found, means, scales = head(size * torch.randn(2, 12, 4, 5))
    assert found.shape == means.shape == scales.shape == (2, 3, 12, 4, 5)
    assert bool((found >= 0).all())
    assert bool((scales >= 0).all())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 12, 4, 5), rtol=0, atol=1e-5)


def test_sigmoid_weights_are_sigmoids_divided_by_their_sum():
    torch.manual_seed(0)
    head = MixtureHead(12, 3, (24, 20), "sigmoid", "raw")
    psi = torch.randn(1, 12, 2, 2)
    logits, means, scales = head.layers(psi).chunk(3, dim=1)
    sigmoids = torch.sigmoid(logits).view(1, 3, 12, 2, 2)
    found = head(psi)
    torch.testing.assert_close(found[0], sigmoids / sigmoids.sum(dim=1, keepdim=True))
    # Component-major: component k in channels k * M .. (k + 1) * M - 1.
    assert torch.equal(found[1][:, 2], means[:, 24:])
    assert torch.equal(found[2][:, 1], scales[:, 12:24])


def test_sigmoid_head_warns():
    with pytest.warns(UserWarning, match="sigmoids do not sum to 1"):
        GCABMixture(**SMALL, head="sigmoid")


def test_components_are_initially_different():
    bias = MixtureHead(100, 3, (8, 8), "softmax", "softplus").layers[-1].bias.view(3, 3, 100)[1].mean(dim=1)
    torch.testing.assert_close(bias, torch.tensor([-1.0, 0.0, 1.0]), rtol=0, atol=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"K": 0}, "K: expected at least 1"),
        ({"gcab_after": [0, 5]}, "stages from 1 to 4"),
        ({"head": "relu"}, "softmax or sigmoid"),
        ({"scale": "exp"}, "softplus or raw"),
        ({"act": "gelu"}, "relu or leaky_relu"),
        ({"head_widths": [8]}, "two widths"),
        ({"ratio": 16}, "at most half"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        GCABMixture(**{**SMALL, **options})


# ---- coding ----

VARIANTS = [
    {},
    {"K": 1},
    {"K": 4, "gcab_after": (4,), "act": "leaky_relu", "abs_y": True, "scale": "raw"},
    {"head": "sigmoid", "gcab_after": ()},
    {"mixture": False},
]


@pytest.mark.filterwarnings("ignore:head=sigmoid")
@pytest.mark.parametrize("options", VARIANTS)
def test_decompress_equals_the_evaluation_forward(options):
    model, x = small(**options), picture(128, 192)[None]
    with torch.no_grad(), model.ready_to_code():
        out = model(x)
        coded = model.compress(x)
        decoded = model.decompress(**coded)["x_hat"]
    assert torch.equal(decoded, out["x_hat"].clamp(0, 1))
    likelihoods = out["likelihoods"]["y"]
    real, estimate = 8 * len(coded["strings"][0]), -float(likelihoods.double().log2().sum())
    assert bool(((likelihoods > 1e-8) & (likelihoods <= 1 + 1e-6)).all())
    assert estimate > 1000, "a latent of zeros is not a test"
    # In addition: a checksum and the coder's last two words; the Gaussians of the hyperprior share 64 tables.
    assert abs(real - estimate - 64) < (0.005 if options == {"mixture": False} else 0.001) * estimate + 32


def test_strides_of_the_picture_have_no_effect():
    """Some readers return channels-last pictures to the encoder; the decoder creates its latents itself."""
    model, x = small().to(memory_format=torch.channels_last), picture(128, 192)[None]
    with torch.no_grad(), model.ready_to_code():
        coded = model.compress(x.to(memory_format=torch.channels_last))
        decoded = model.decompress(**coded)["x_hat"]
        assert torch.equal(decoded, model(x.to(memory_format=torch.channels_last))["x_hat"].clamp(0, 1))


# ---- configuration ----


def test_shipped_configuration_is_the_specified_model():
    config = checked(compose(["model=gcab_gmm"]))
    model = build(config.model)
    assert count(model) == 5_834_830
    assert isinstance(model, GCABMixture)


@pytest.mark.parametrize(("paper", "ours"), [(8192, 0.12598), (2048, 0.03150), (128, 0.00197)])
def test_lambda_conversion(paper, ours):
    """The paper's loss is R + lambda * MSE of pixels in [0, 1]; here it is lambda * 255^2 * MSE."""
    config = checked(compose(["model=gcab_gmm", f"lambda={ours}"]))
    assert ours in config.recipe.ladder["mse"]
    recipe = config.make_recipe()
    out = {"x_hat": torch.full((1, 3, 8, 8), 0.1), "likelihoods": {"y": torch.ones(1)}}
    terms = recipe(out, torch.zeros(1, 3, 8, 8), 0)
    assert float(terms["loss"]) == pytest.approx(paper * 0.01, rel=3e-3)


def test_schedule_of_the_paper():
    base = checked(compose(["model=gcab_gmm", "steps=2500000"])).make_recipe()
    assert [(s.start, s.stop, s.lr) for s in base.stages] == [(0, 2_000_000, 1e-4), (2_000_000, 2_500_000, 1e-5)]
    tuned = checked(compose(["model=gcab_gmm", "recipe=gcab_gmm_finetune", "steps=500000"])).make_recipe()
    assert [(s.start, s.stop, s.lr) for s in tuned.stages] == [(0, 500_000, 1e-5)]
