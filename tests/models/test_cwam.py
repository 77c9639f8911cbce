"""CWAM: counts of its specification, identities and bitstream. Its attention is tested in test_window_attention.py."""

import pytest
import torch

from lic_train.complexity.count import multiply_adds
from lic_train.models.cwam import CWAM, CrossScaleWindowAttention, CrossWindowAttention


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ---- size and cost: the numbers of the specification, at full width and without memory ----

PARAMETERS = {  # g_a, g_s, h_a, h_s, context, entropy parameters, factorised density, total
    128: (2_916_387, 2_916_262, 737_920, 2_729_792, 819_456, 451_697, 7_808, 10_579_322),
    192: (6_150_755, 6_150_566, 1_659_840, 6_140_640, 1_843_584, 1_017_344, 11_712, 22_974_441),
    320: (16_490_211, 16_489_894, 4_609_600, 17_054_240, 5_120_640, 2_822_257, 19_520, 62_606_362),
}


@pytest.fixture(scope="module")
def full_width():
    return {N: CWAM(N).to("meta") for N in PARAMETERS}


@pytest.mark.parametrize("N", PARAMETERS)
def test_parameters(full_width, N):
    model = full_width[N]
    context = model.context
    parts = (model.g_a, model.g_s, model.h_a, model.h_s, context.context_prediction, context.entropy_parameters)
    assert tuple(map(count, (*parts, model.entropy_bottleneck, model))) == PARAMETERS[N]


@pytest.mark.parametrize(("N", "cnn", "tail"), [(128, 2_264_864, 337_536), (320, 14_072_864, 2_103_360)])
def test_parameters_inside_g_a(full_width, N, cnn, tail):
    fe, *middle, last = full_width[N].g_a
    assert (count(fe), sum(map(count, middle)), count(last)) == (313_987, cnn, tail)


def test_parameters_of_one_window_attention(full_width):
    quarter, sixteenth = (block for block in full_width[320].g_a if isinstance(block, CrossWindowAttention))
    attention = next(block for block in quarter.mask if isinstance(block, CrossScaleWindowAttention))
    assert (count(quarter.trunk), count(quarter.mask), count(attention)) == (1_000_320, 2_030_800, 927_760)
    assert (count(quarter), count(sixteenth)) == (3_031_120, 3_028_304)


def test_parameters_of_the_options():
    model = CWAM(320, hyper="minnen", tail="cwam").to("meta")
    assert (count(model.h_a), count(model.h_s)) == (6_042_560, 9_166_240)
    assert count(model.g_a[-1]) == count(model.g_s[0]) == 3_028_304


# G multiply-adds for 256x256: convolutions, linear layers, attention products, GDN as a 1x1 convolution; transposed
# convolutions are counted over their input positions, the context as one dense pass. Columns: FE; the four stages; CWAM
# at 1/4 and 1/16; Tail; h_a, h_s, context, entropy parameters; total.
MACS = {
    128: (20.54, (0.43, 1.74, 0.44, 0.10), (2.11, 0.13), 0.09, (0.10, 0.22, 0.21, 0.12), 51.8),
    192: (20.54, (0.84, 3.93, 0.98, 0.24), (4.66, 0.28), 0.19, (0.22, 0.50, 0.47, 0.26), 64.8),
    320: (20.54, (2.07, 10.91, 2.73, 0.66), (12.71, 0.78), 0.54, (0.60, 1.40, 1.31, 0.72), 105.9),
}


def macs(module, *shape):
    return multiply_adds(module, (1, *shape))[""] / 1e9


def macs_in_turn(layers, shape):
    for layer in layers:
        yield macs(layer, *shape)
        shape = layer(torch.empty(1, *shape, device="meta")).shape[1:]


@pytest.mark.parametrize("N", MACS)
def test_multiplications(full_width, N):
    model = full_width[N]
    fe, *cost = macs_in_turn(model.g_a, (3, 256, 256))
    stages = (cost[0] + cost[1], cost[2] + cost[3], cost[5] + cost[6], cost[7])
    # The table projects coarse tokens after cutting overlapping patches (H*W tokens), the code before it (H*W/4).
    spared = tuple(0.75 * side * side * 2 * N * N / 1e9 for side in (64, 16))
    attention = (cost[4] + spared[0], cost[8] + spared[1])
    context = model.context
    entropy = (
        macs(model.h_a, N, 16, 16),
        macs(model.h_s, N, 4, 4),
        macs(context.context_prediction, N, 16, 16),
        macs(context.entropy_parameters, 4 * N, 16, 16),
    )
    parts = (fe, stages, attention, cost[9], entropy)
    total = fe + sum(cost) + macs(model.g_s, N, 16, 16) + sum(entropy) + 2 * sum(spared)
    rounded = tuple(tuple(round(v, 2) for v in part) if isinstance(part, tuple) else round(part, 2) for part in parts)
    assert (*rounded, round(total, 1)) == MACS[N]


# ---- identities at the start of training ----


def test_enhancement_is_initially_the_identity():
    model, x = CWAM(16), torch.rand(1, 3, 24, 40)
    assert torch.equal(model.g_a[0](x), x)
    assert torch.equal(model.g_s[-1](x), x)


# ---- the codec ----


@pytest.fixture(scope="module")
def coder():
    """Return a codec with random weights, latents of several symbols and pictures in [0, 1]."""
    torch.manual_seed(1)
    model = CWAM(16).eval()
    with torch.no_grad():
        for enhancement in (model.g_a[0], model.g_s[-1]):
            enhancement.branch[-1].convs[-1].weight.normal_(std=0.01)
        model.g_a[8].weight *= 20
        model.h_a[-1].weight *= 10
        model.g_s[9].bias.fill_(0.5)
        model.context.entropy_parameters[-1].weight[16:] *= 5
        model.context.entropy_parameters[-1].bias[:16] = 1.5
        model.update()
    return model


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 192)])
@torch.no_grad()
def test_bitstream_decodes_to_the_evaluation_forward(coder, height, width):
    x = torch.rand(1, 3, height, width)
    coded = coder.compress(x)
    decoded = coder.decompress(**coded)["x_hat"]
    out = coder(x)
    likelihoods = out["likelihoods"]
    assert likelihoods["y"].shape == (1, 16, height // 16, width // 16)
    assert likelihoods["z"].shape[2:] == coded["shape"] == (height // 64, width // 64)
    torch.testing.assert_close(decoded, out["x_hat"].clamp(0, 1), atol=1e-5, rtol=0)
    bits = sum(-value.log2().sum().item() for value in likelihoods.values())
    assert 8 * sum(map(len, coded["strings"])) == pytest.approx(bits, rel=0.03, abs=128)


@torch.no_grad()
def test_decoded_latent_equals_the_encoders(coder):
    y = coder.g_a(torch.rand(1, 3, 64, 128))
    psi = coder._psi(coder.entropy_bottleneck(coder.h_a(y))[0])
    y_hat, _ = coder.context(y, psi)
    assert y_hat.abs().max() > 2  # several symbols
    assert (y_hat - y_hat.round()).abs().max() > 0.1  # the means have an effect
    assert torch.equal(coder.context.decompress(coder.context.compress(y, psi), psi), y_hat)


def test_latents_of_a_training_crop():
    model = CWAM(16).to("meta")
    y = model.g_a(torch.empty(2, 3, 256, 256, device="meta"))
    z = model.h_a(y)
    assert (y.shape, z.shape) == ((2, 16, 16, 16), (2, 16, 4, 4))
    assert model.h_s(z).shape == (2, 32, 16, 16)
    assert model.g_s(y).shape == (2, 3, 256, 256)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"N": 16, "hyper": "balle"}, "cheng or minnen, got 'balle'"),
        ({"N": 16, "tail": "none"}, "attention or cwam, got 'none'"),
        ({"N": 100}, "got 100; nearest: 96 or 112"),
        ({"N": 8}, "got 8; nearest: 16"),
        ({"N": -32}, "got -32; nearest: 16"),
    ],
)
def test_invalid_options_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        CWAM(**arguments)


def test_every_parameter_receives_a_gradient_with_the_other_options():
    model = CWAM(16, hyper="minnen", tail="cwam")
    out = model(torch.rand(1, 3, 64, 64))
    bits = sum(-value.log2().sum() for value in out["likelihoods"].values())
    (bits + out["x_hat"].square().sum()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == ["entropy_bottleneck.quantiles"]
