"""InvCompress: counts of its specification, exact inverse of its flow, order of channels, bitstream."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from lic_train.complexity.count import multiply_adds
from lic_train.models.invcompress import Coupling, Flow, GroupMean, InvCompress, InvertibleConv, Repeat, Squeeze

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomise(flow: nn.Module) -> None:
    """Replace the identity of the first step by random weights of every layer."""
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.ndim == 4:
                nn.init.xavier_normal_(parameter, gain=0.5)
            elif parameter.ndim == 1:
                parameter.normal_(std=0.1)


# ---- size and cost: the numbers of the specification, at full width and without memory ----


def on_meta(N: int) -> InvCompress:
    with torch.device("meta"):
        model = InvCompress(N)
    return model.to("meta")


@pytest.fixture(scope="module")
def full() -> InvCompress:
    return on_meta(128)


def test_parameters_of_every_level(full):
    """Coupling, 1x1 convolution and total of each level; the total of all parts is in test_complexity."""
    levels = [full.flow.operations[start : start + 5] for start in range(0, 20, 5)]
    found = [(count(level[2]), count(level[1]), sum(map(count, level))) for level in levels]
    assert found == [
        (7_452, 144, 22_500),
        (118_368, 2_304, 357_408),
        (710_784, 36_864, 2_169_216),
        (11_358_720, 589_824, 34_665_984),
    ]


def test_parameters_of_the_larger_width():
    model = on_meta(192)
    parts = (model, model.flow, model.g_a, model.g_s, model.h_a, model.h_s, model.entropy_bottleneck)
    expected = (50_032_618, 37_215_108, 758_208, 758_208, 1_659_840, 6_140_640, 11_712)
    assert tuple(map(count, parts)) == expected
    context = model.context
    assert (count(context.entropy_parameters), count(context.context_prediction)) == (1_017_344, 1_843_584)


@pytest.mark.parametrize(
    ("N", "transform", "hyper", "context"),
    [
        (128, 33_543_880_704, (96_731_136, 224_133_120), (209_715_200, 115_372_544)),
        (192, 33_651_359_744, (217_645_056, 504_299_520), (471_859_200, 260_046_848)),
    ],
)
def test_multiplications(N, transform, hyper, context):
    model = on_meta(N)
    y, u = (1, N, 16, 16), (1, 3, 256, 256)
    shared = sum(multiply_adds(part, u)[""] for part in (model.enhancement, model.flow))
    assert shared + multiply_adds(model.g_a, (1, 768, 16, 16))[""] == transform
    assert shared + multiply_adds(model.g_s, y)[""] == transform
    assert (multiply_adds(model.h_a, y)[""], multiply_adds(model.h_s, (1, N, 4, 4))[""]) == hyper
    networks = ((model.context.context_prediction, y), (model.context.entropy_parameters, (1, 4 * N, 16, 16)))
    assert tuple(multiply_adds(network, shape)[""] for network, shape in networks) == context


# ---- the flow ----


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 80)])
@torch.no_grad()
def test_flow_is_invertible(height, width):
    flow, x = Flow((5, 3, 1)), torch.rand(2, 3, height, width)
    identity = flow(x)
    randomise(flow)
    h = flow(x)
    assert h.shape == (2, 192, height // 8, width // 8)
    assert (h - identity).abs().max() > 0.1  # the couplings have an effect
    torch.testing.assert_close(flow(h, True), x, rtol=0, atol=1e-5)


@torch.no_grad()
def test_scales_are_bounded_and_couplings_invert_at_the_bounds():
    coupling, x = Coupling(12, kernel=3), torch.rand(1, 12, 9, 7) + 1
    for sign, factor in ((1, math.e), (-1, 1 / math.e)):
        for subnet in (coupling.G1, coupling.G2):
            subnet.convs[-1].bias.fill_(sign * 1e4)
        y = coupling(x)
        torch.testing.assert_close(y, factor * x)
        torch.testing.assert_close(coupling(y, True), x)


def test_coupling_follows_its_equations():
    coupling, x = Coupling(12, kernel=3).double(), torch.randn(1, 12, 4, 4, dtype=torch.float64)
    randomise(coupling)
    x1, x2 = x[:, :3], x[:, 3:]
    y1 = x1 * torch.exp(torch.tanh(coupling.G2(x2) / 2)) + coupling.H2(x2)
    y2 = x2 * torch.exp(torch.tanh(coupling.G1(y1) / 2)) + coupling.H1(y1)
    torch.testing.assert_close(coupling(x), torch.cat([y1, y2], dim=1))


def test_flow_is_initially_a_rotation():
    """The couplings are the identity and the matrices orthogonal, so the norm of every 2x2 block is kept."""
    x = torch.rand(1, 3, 8, 8)
    h = Flow((5,))(x)
    blocks = x.square().unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(1, 4, 5))
    torch.testing.assert_close(h.square().sum(dim=1), blocks)


def test_squeeze_is_offset_major():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    squeezed = Squeeze()(x)
    for row in range(2):
        for column in range(2):
            first = 3 * (2 * row + column)
            assert torch.equal(squeezed[:, first : first + 3], x[:, :, row::2, column::2])
    assert torch.equal(Squeeze()(squeezed, True), x)


def test_matrix_multiplies_channels_and_its_inverse_is_not_stored():
    conv, x = InvertibleConv(5), torch.randn(2, 5, 3, 4)
    with torch.no_grad():
        conv.weight.normal_()
    torch.testing.assert_close(conv(x), torch.einsum("oi,bihw->bohw", conv.weight, x))
    torch.testing.assert_close(conv(conv(x), True), x, rtol=1e-3, atol=1e-4)
    assert list(conv.state_dict()) == ["weight"]


def test_gradients_of_the_inverse_reach_the_matrix():
    conv, h = InvertibleConv(4).double(), torch.randn(1, 4, 2, 2, dtype=torch.float64)
    inverse = torch.linalg.inv(conv.weight.detach()).requires_grad_()
    torch.einsum("oi,bihw->bohw", inverse, h).square().sum().backward()
    conv(h, True).square().sum().backward()
    # The differential of a matrix inverse: dW^-1 = -W^-1 dW W^-1.
    torch.testing.assert_close(conv.weight.grad, -(inverse.mT @ inverse.grad @ inverse.mT))


def test_groups_are_averaged_and_repeated_in_order():
    h = torch.arange(12.0).view(1, 12, 1, 1)
    y = GroupMean(4)(h)
    assert y.flatten().tolist() == [4, 5, 6, 7]
    assert Repeat(3)(y).flatten().tolist() == [4, 5, 6, 7] * 3


def test_flow_is_computed_in_float32_under_autocast():
    flow, x = Flow((3,)), torch.rand(1, 3, 16, 16)
    randomise(flow)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = flow(x)
        torch.testing.assert_close(flow(h, True), x, rtol=0, atol=1e-5)


# ---- the codec ----


def test_reverse_pass_restores_the_picture_without_average_and_quantiser():
    """With the latent that the average removes, decoder and encoder are inverses at the start of training."""
    model, x = InvCompress(16, kernels=(3, 3), enhancement_width=8), torch.rand(1, 3, 32, 32)
    h = model.flow(model.enhancement(x))
    torch.testing.assert_close(model.restoration(model.flow(h, True)), x, rtol=0, atol=1e-5)
    assert torch.equal(model.enhancement(x), x)


def test_latents_of_four_levels(full):
    y, z = full._analyse(torch.empty(2, 3, 256, 192, device="meta"))
    assert (y.shape, z.shape) == ((2, 128, 16, 12), (2, 128, 4, 3))
    assert full.h_s(z).shape == (2, 256, 16, 12)
    assert full._synthesise(y).shape == (2, 3, 256, 192)
    assert full.downsampling_factor == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"N": 100}, "divisor of the flow's 768 channels, got 100"),
        ({"N": 0}, "divisor of the flow's 768 channels, got 0"),
        ({"N": 3}, "even divisor of the flow's 768 channels, got 3"),
        ({"N": 16, "kernels": [3, 4]}, r"kernels: expected odd positive numbers, got \[3, 4\]"),
        ({"N": 16, "kernels": []}, r"kernels: expected odd positive numbers, got \[\]"),
    ],
)
def test_invalid_options_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        InvCompress(**arguments)


# ---- names in the authors' files ----

NAMES = {
    "inv.operations.16.weight": "flow.operations.16.weight",
    "inv.operations.2.G1.conv3.bias": "flow.operations.2.G1.convs.2.bias",
    "enh.forw_enh.layers.0.conv5.weight": "enhancement.branch.0.convs.4.weight",
    "enh.back_enh.layers.2.weight": "restoration.branch.2.weight",
    "attention.forw_att.conv_a.0.conv.2.weight": "g_a.1.conv_a.0.conv.2.weight",
    "attention.back_att.conv_b.3.bias": "g_s.0.conv_b.3.bias",
    "h_s.2.0.weight": "h_s.2.0.weight",
    "context_prediction.weight": "context.context_prediction.weight",
    "entropy_parameters.4.bias": "context.entropy_parameters.4.bias",
}


@pytest.mark.parametrize("theirs", NAMES)
def test_authors_names(full, theirs):
    name = theirs
    for pattern, replacement in InvCompress.authors_names:
        name = re.sub(pattern, replacement, name)
    assert name == NAMES[theirs]
    assert name in full.state_dict()
