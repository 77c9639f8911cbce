"""Facts of CWAM: counts of its specification, identities, the window attention against a loop, the real bitstream."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lic_train.models.cwam import (
    CWAM,
    HEADS,
    CrossScaleWindowAttention,
    CrossWindowAttention,
    cached_window_masks,
    neighbourhoods,
    tiles,
    window_masks,
)

CPU = torch.device("cpu")


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
# convolutions over their input positions, the context as one dense pass. FE; the four stages; CWAM at 1/4 and 1/16;
# Tail; h_a, h_s, context, entropy parameters; all.
MACS = {
    128: (20.54, (0.43, 1.74, 0.44, 0.10), (2.11, 0.13), 0.09, (0.10, 0.22, 0.21, 0.12), 51.8),
    192: (20.54, (0.84, 3.93, 0.98, 0.24), (4.66, 0.28), 0.19, (0.22, 0.50, 0.47, 0.26), 64.8),
    320: (20.54, (2.07, 10.91, 2.73, 0.66), (12.71, 0.78), 0.54, (0.60, 1.40, 1.31, 0.72), 105.9),
}


def macs(module, *shape):
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() / 2e9


def macs_in_turn(layers, shape):
    for layer in layers:
        yield macs(layer, *shape)
        shape = layer(torch.empty(1, *shape, device="meta")).shape[1:]


@pytest.mark.parametrize("N", MACS)
def test_multiplications(full_width, N):
    model = full_width[N]
    fe, *cost = macs_in_turn(model.g_a, (3, 256, 256))
    stages = (cost[0] + cost[1], cost[2] + cost[3], cost[5] + cost[6], cost[7])
    # The table projects coarse tokens after cutting overlapping patches, H*W of them; here it is done before, on H*W/4.
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


def test_enhancement_starts_as_the_identity():
    model, x = CWAM(16), torch.rand(1, 3, 24, 40)
    assert torch.equal(model.g_a[0](x), x)
    assert torch.equal(model.g_s[-1](x), x)


def test_window_attention_without_its_last_layer_is_the_identity():
    attention, x = CrossScaleWindowAttention(16, window=8), torch.randn(2, 16, 16, 24)
    for parameter in attention.projection.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(attention(x), x)


# ---- cross-scale window attention against loops over windows ----


def region(position, size, window):
    """Which of the slices [0, size-w), [size-w, size-s), [size-s, size) holds the position."""
    return 0 if position < size - window else 1 if position < size - window // 2 else 2


def patch(image, top, left, window):
    """(w * w, C) tokens of image (C, H, W); positions outside are reflected about the border ones."""
    height, width = image.shape[1:]

    def reflect(position, size):
        position = abs(position)
        return 2 * (size - 1) - position if position >= size else position

    tokens = [
        image[:, reflect(top + row, height), reflect(left + column, width)]
        for row, column in itertools.product(range(window), repeat=2)
    ]
    return torch.stack(tokens)


@functools.cache
def relative_index(window):
    cells = list(itertools.product(range(window), repeat=2))
    side = 2 * window - 1
    return torch.tensor([[(a - c + window - 1) * side + b - d + window - 1 for c, d in cells] for a, b in cells])


def halved(image):
    return F.interpolate(image[None], scale_factor=0.5, mode="bilinear", align_corners=False)[0]


def attend(attention, bias, q, keys, values, hidden):
    """One window (T, N) over its keys, head by head; ``hidden`` (T, T) pairs are pushed down by 100."""
    d, index, heads = q.shape[1] // HEADS, relative_index(attention.window), []
    for h in range(HEADS):
        at = slice(h * d, (h + 1) * d)
        score = q[:, at] @ keys[:, at].T / math.sqrt(d) + bias.table[index, h] - 100.0 * hidden
        heads.append(score.softmax(dim=1) @ values[:, at])
    return torch.cat(heads, dim=1)


def slow_window_attention(attention, x):
    """Image by image, window by window; coarse tokens are projected after the patches are cut."""
    w, (N, height, width) = attention.window, x.shape[1:]
    shift = w // 2
    rows, columns = (torch.tensor([float(region(i, size, w)) for i in range(size)]) for size in (height, width))
    ids = 3 * rows[:, None] + columns
    out = torch.empty_like(x)
    for image, result in zip(x, out, strict=True):
        rolled, attended = image.roll((-shift, -shift), (1, 2)), torch.empty(N, height, width)
        for top, left in itertools.product(range(0, height, w), range(0, width, w)):
            fine, fine_ids = (patch(source, top, left, w) for source in (rolled, ids[None]))
            corner = (top // 2 - w // 4, left // 2 - w // 4)
            coarse, coarse_ids = (patch(halved(source), *corner, w) for source in (rolled, ids[None]))
            q, k, v = attention.qkv(fine).split(N, dim=1)
            same = attend(attention, attention.bias, q, k, v, fine_ids != fine_ids.T)
            k, v = attention.kv_coarse(coarse).split(N, dim=1)
            cross = attend(attention, attention.bias_coarse, q, k, v, fine_ids != coarse_ids.T)
            first, _, second = attention.merge
            fused = second(F.leaky_relu(first(torch.cat([same, cross], dim=1)), 0.2)) + same
            attended[:, top : top + w, left : left + w] = attention.projection(fused).T.reshape(N, w, w)
        result.copy_(image + attended.roll((shift, shift), (1, 2)))
    return out


@pytest.mark.parametrize(
    ("window", "batch", "height", "width"),
    [(8, 1, 8, 8), (8, 2, 16, 24), (8, 1, 32, 16), (4, 1, 4, 4), (4, 2, 8, 12), (4, 1, 16, 8)],
)
@torch.no_grad()
def test_window_attention_equals_loops(window, batch, height, width):
    attention = CrossScaleWindowAttention(16, window)
    for bias in (attention.bias, attention.bias_coarse):
        bias.table.normal_()
    attention.qkv.weight.mul_(4)  # attention that is far from uniform
    x = torch.randn(batch, 16, height, width)
    torch.testing.assert_close(attention(x), slow_window_attention(attention, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [8, 4])
def test_no_token_is_left_without_a_key_and_patches_match_windows(window):
    for rows, columns in itertools.product(range(1, 5), repeat=2):
        height, width = rows * window, columns * window
        for mask in window_masks(height, width, window, CPU):
            assert mask.shape == (rows * columns, 1, window**2, window**2)
            assert (mask == 0).any(dim=-1).all()
        fine = tiles(torch.zeros(1, height, width, 1), window)
        coarse = neighbourhoods(torch.zeros(1, height // 2, width // 2, 1), window)
        assert fine.shape == coarse.shape == (1, rows, columns, window, window, 1)


@pytest.mark.parametrize("window", [8, 4])
def test_share_of_masked_pairs(window):
    same, cross = window_masks(4 * window, 4 * window, window, CPU)
    assert [round((mask != 0).float().mean().item(), 2) for mask in (same, cross)] == [0.23, 0.39]


def test_masks_made_in_an_evaluation_serve_training():
    cached_window_masks.cache_clear()
    attention, x = CrossScaleWindowAttention(16, window=4), torch.randn(1, 16, 8, 8)
    with torch.inference_mode():
        attention(x)
    attention(x).sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


def test_masks_and_indices_stay_out_of_the_state():
    block = CrossWindowAttention(16, window=4)
    block(torch.zeros(1, 16, 8, 8))
    assert set(block.state_dict()) == {name for name, _ in block.named_parameters()}


# ---- the way it is run in training ----


@torch.no_grad()
def test_channels_last_and_bfloat16_change_little():
    block, x = CrossWindowAttention(32, window=8), torch.randn(2, 32, 16, 24)
    expected = block(x)
    out = block.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(block(x).float(), expected, atol=0.05, rtol=0.02)


@torch.no_grad()
def test_window_attention_compiles_into_one_graph():
    attention = CrossScaleWindowAttention(16, window=4)
    compiled = torch.compile(attention, fullgraph=True, backend="eager", dynamic=False)
    for height, width in ((4, 4), (8, 12)):
        x = torch.randn(1, 16, height, width)
        torch.testing.assert_close(compiled(x), attention(x))


# ---- the codec ----


@pytest.fixture(scope="module")
def coder():
    """Random weights whose latents spread over several symbols and whose pictures stay in [0, 1]."""
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
def test_bitstream_carries_what_forward_shows(coder, height, width):
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
    psi = coder.h_s(coder.entropy_bottleneck(coder.h_a(y))[0])
    y_hat, _ = coder.context(y, psi)
    assert y_hat.abs().max() > 2  # several symbols
    assert (y_hat - y_hat.round()).abs().max() > 0.1  # means that matter
    assert torch.equal(coder.context.decompress(coder.context.compress(y, psi), psi), y_hat)


def test_latents_of_a_training_crop():
    model = CWAM(16).to("meta")
    y = model.g_a(torch.empty(2, 3, 256, 256, device="meta"))
    z = model.h_a(y)
    assert (y.shape, z.shape) == ((2, 16, 16, 16), (2, 16, 4, 4))
    assert model.h_s(z).shape == (2, 32, 16, 16)
    assert model.g_s(y).shape == (2, 3, 256, 256)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"N": 16, "hyper": "balle"}, "cheng or minnen, got 'balle'"),
        ({"N": 16, "tail": "none"}, "attention or cwam, got 'none'"),
        ({"N": 100}, "got 100; nearest: 96 or 112"),
        ({"N": 8}, "got 8; nearest: 16"),
        ({"N": -32}, "got -32; nearest: 16"),
    ],
)
def test_options_without_meaning_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        CWAM(**arguments)


def test_training_reaches_every_parameter_of_the_other_options():
    model = CWAM(16, hyper="minnen", tail="cwam")
    out = model(torch.rand(1, 3, 64, 64))
    bits = sum(-value.log2().sum() for value in out["likelihoods"].values())
    (bits + out["x_hat"].square().sum()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == ["entropy_bottleneck.quantiles"]
