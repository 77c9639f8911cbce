"""DCAE: counts of its specification, its blocks, its dictionary attention against loops, its bitstream."""

from __future__ import annotations

import functools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.complexity.count import inside, macs_by_module, on_meta
from lic_train.models.base import build
from lic_train.models.dcae import DCAE, Block, ConvGLU, DictionaryAttention, MultiScaleFilter, Stage
from tests.conftest import SHARED, SMALL

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")

TARGET = "lic_train.models.dcae.DCAE"


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- size and cost: the numbers of the specification, at full width and without memory ----


@functools.cache
def full() -> DCAE:
    return on_meta({"_target_": TARGET})


@functools.cache
def giga() -> dict[str, float]:
    return {name: macs / 1e9 for name, macs in macs_by_module(full(), 256, 256).items()}


# Parameters and GMAC at 256x256 of the layers of g_a; of those of g_s, in reverse order.
G_A = (97_728, 181_260, 548_784, 615_618, 1_562_368, 8_583_520, 2_048_320)
G_S = (97_635, 181_260, 548_736, 615_618, 1_562_256, 8_583_520, 2_048_256)
GMAC = (1.590, 3.099, 2.244, 2.635, 1.598, 9.116, 0.524)


def test_layers_of_the_transforms():
    assert [count(layer) for layer in full().g_a] == [*G_A]
    assert [count(layer) for layer in full().g_s] == [*G_S[::-1]]
    assert [giga()[f"g_a.{i}"] for i in range(7)] == pytest.approx(GMAC, abs=6e-4)
    assert [giga()[f"g_s.{6 - i}"] for i in range(7)] == pytest.approx(GMAC, abs=6e-4)
    blocks = [count(full().g_a[i].layers[0]) for i in (1, 3, 5)]
    assert (blocks, [len(full().g_a[i].layers) for i in (1, 3, 5)]) == ([98_220, 214_425, 666_120], [1, 2, 12])


def test_layers_of_the_hyper_networks():
    assert [count(layer) for layer in full().h_a] == [1_896_768, 707_622, 331_968]
    for part in ("scale", "mean"):
        assert [count(layer) for layer in getattr(full().h_s, part)] == [331_968, 707_622, 1_896_896]
    assert [giga()[name] for name in ("h_a", "h_s.scale", "h_s.mean")] == pytest.approx([0.172] * 3, abs=6e-4)


# Slice: parameters and GMAC of the attention, of the scale and mean networks (each), of the residual network.
SLICES = (
    (8_856_758, 2.2514, 2_267_552, 0.5804, 2_396_576, 0.6134),
    (8_897_718, 2.2618, 2_396_576, 0.6134, 2_525_600, 0.6464),
    (8_938_678, 2.2723, 2_525_600, 0.6464, 2_654_624, 0.6795),
    (8_979_638, 2.2828, 2_654_624, 0.6795, 2_783_648, 0.7125),
    (9_020_598, 2.2933, 2_783_648, 0.7125, 2_912_672, 0.7455),
)


@pytest.mark.parametrize("i", range(5))
def test_networks_of_a_slice(i):
    parts = ("attention", "scale", "mean", "residual")
    a, a_giga, coder, coder_giga, residual, residual_giga = SLICES[i]
    assert [count(getattr(full().context, part)[i]) for part in parts] == [a, coder, coder, residual]
    found = [inside(giga(), f"context.{part}.{i}") for part in parts]
    assert found == pytest.approx([a_giga, coder_giga, coder_giga, residual_giga], abs=6e-5)


def test_parts_of_the_dictionary_attention():
    attention = full().context.attention[0]
    found = [count(part) for part in (attention.filter, attention.filter.units[0], attention.mlp, attention.k)]
    assert found == [4_530_018, 826_880, 2_473_600, 410_240]
    assert full().context.dictionary.shape == (128, 640)


def test_latent_shapes():
    y = full().g_a(torch.empty(1, 3, 256, 256, device="meta"))
    z = full().h_a(y)
    assert (y.shape, z.shape, full().h_s(z).shape) == ((1, 320, 16, 16), (1, 192, 4, 4), (1, 640, 16, 16))


def test_every_second_block_is_shifted():
    stages = [module for module in full().modules() if isinstance(module, Stage)]
    shifts = [[block.attention.shift for block in stage.layers] for stage in stages]
    assert shifts == [[0], [0, 4], [0, 4] * 6, [0, 4] * 6, [0, 4], [0], [0], [0], [0]]


def rename(name: str) -> str:
    for pattern, replacement in DCAE.authors_names:
        name = re.sub(pattern, replacement, name)
    return name


def test_names_of_the_authors_tensors():
    """Every parameter has one counterpart of equal size in the authors' files, whose names are listed elsewhere."""
    table = SHARED.parent / "specs" / "keys" / "dcae.tsv"
    if not table.is_file():
        pytest.skip("the names of the authors' tensors are not next to the repository")
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    theirs = {rename(row[0]): row[1] for row in rows if row[3] == "0" and not row[0].startswith("entropy_bottleneck")}
    ours = dict(full().named_parameters())
    assert theirs.keys() == {name for name in ours if not name.startswith("entropy_bottleneck")}
    assert {name: math.prod(map(int, shape.split("x"))) for name, shape in theirs.items()} == {
        name: ours[name].numel() for name in theirs
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("dt", "context.dictionary"),
        ("h_z_s1.2.res1.conv1.weight", "h_s.scale.2.res1.conv1.weight"),
        ("g_a.3.layers.1.mlp.dwconv.dwconv.bias", "g_a.3.layers.1.mlp.dwconv.bias"),
        ("g_s.1.layers.11.res_scale_2.scale", "g_s.1.layers.11.scale2"),
        ("dt_cross_attention.4.msa.dense.proj.bias", "context.attention.4.filter.proj.bias"),
        (
            "dt_cross_attention.1.msa.dense.conv_layers.2.1.in_trans.bias",
            "context.attention.1.filter.units.2.in_trans.bias",
        ),
        ("dt_cross_attention.0.scale", "context.attention.0.scale"),
    ],
)
def test_examples_of_renamed_tensors(theirs, ours):
    assert rename(theirs) == ours
    assert ours in full().state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": [8, 20, 32]}, "stages: expected a positive multiple of 16, got 20; try 16"),
        ({"stages": [8, 16]}, "stages, depths: expected 3 numbers each, got 2 and 3"),
        ({"depths": [1, 0, 2]}, "depths: expected positive numbers"),
        ({"M": 100}, "M: expected a positive multiple of 80, got 100; try 80"),
        ({"Z": 0}, "Z: .* got 0; try 32"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        DCAE(**{**SMALL["dcae"], **options})


# ---- blocks ----


def zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def test_stage_without_its_convolution_is_the_identity():
    stage, x = Stage(16, 8, 4, 2), torch.randn(1, 16, 8, 12)
    zero(stage.conv)
    assert torch.equal(stage(x), x)


@torch.no_grad()
def test_scales_are_on_the_skip_paths():
    block, x = Block(16, 8, 4, shifted=False), torch.randn(1, 8, 8, 16)
    zero(block.attention.projection)
    zero(block.mlp.fc2)
    block.scale1.copy_(torch.arange(16.0))
    block.scale2.fill_(3)
    torch.testing.assert_close(block(x), 3 * torch.arange(16.0) * x)
    block.scale1.zero_()
    block.scale2.zero_()
    block.mlp.fc2.bias.fill_(2)  # the branches are not scaled
    assert torch.equal(block(x), torch.full_like(x, 2))


@torch.no_grad()
def test_gate_of_the_linear_unit_sees_its_neighbours_across_windows():
    unit, x = ConvGLU(4), torch.randn(1, 3, 4, 4)
    hidden = x @ unit.fc1.weight.T + unit.fc1.bias
    gate, value = hidden[..., :8], hidden[..., 8:]
    padded = F.pad(gate, (0, 0, 1, 1, 1, 1))
    expected = torch.empty(1, 3, 4, 4)
    for row in range(3):
        for column in range(4):
            patch = padded[0, row : row + 3, column : column + 3]
            mixed = torch.stack([(patch[..., c] * unit.dwconv.weight[c, 0]).sum() for c in range(8)])
            mixed = mixed + unit.dwconv.bias
            activated = 0.5 * mixed * (1 + torch.erf(mixed / math.sqrt(2)))
            expected[0, row, column] = unit.fc2.weight @ (activated * value[0, row, column]) + unit.fc2.bias
    torch.testing.assert_close(unit(x), expected)


@torch.no_grad()
def test_filter_gates_the_merged_chain():
    module, x = MultiScaleFilter(6), torch.randn(1, 5, 7, 6)
    zero(module.gate)
    first = module.s(x.permute(0, 3, 1, 2))
    second = module.units[0](first)
    third = module.units[1](second)
    merged = module.proj(torch.cat([first, second, third, module.units[2](third)], dim=1))
    torch.testing.assert_close(module(x), 0.5 * merged.permute(0, 2, 3, 1))
    module.gate.weight[0, 1, 3, 3] = 1  # the second input is the maximum over channels
    expected = merged * torch.sigmoid(merged.max(dim=1, keepdim=True).values)
    torch.testing.assert_close(module(x), expected.permute(0, 2, 3, 1))


# ---- dictionary attention against loops over heads and positions ----


@torch.no_grad()
def slow_attention(net: DictionaryAttention, queries: Tensor, dictionary: Tensor) -> Tensor:
    """Return the weighted entries for one query after another, head by head."""
    values = net.dict_ln(dictionary)
    keys = net.k(values)
    out = torch.empty_like(queries)
    for position in range(len(queries)):
        for head in range(len(net.scale)):
            at = slice(32 * head, 32 * head + 32)
            logits = torch.stack([queries[position, at] @ key[at] for key in keys]) * net.scale[head, 0, 0]
            weights = logits.exp() / logits.exp().sum()
            out[position, at] = sum(weight * value[at] for weight, value in zip(weights, values, strict=True))
    return out


@torch.no_grad()
def test_dictionary_attention_equals_loops():
    net, x, dictionary = DictionaryAttention(20, M=80).eval(), torch.randn(2, 20, 3, 2), torch.randn(7, 160)
    net.scale.copy_(torch.rand(5, 1, 1) + 0.5)
    for scale in (net.scale1, net.scale2, net.scale3):
        scale.copy_(torch.rand(160) + 0.5)
    a = net.x_trans(x.permute(0, 2, 3, 1))
    b = net.scale1 * a + net.filter(net.ln_scale(a))
    attended = slow_attention(net, net.q_trans(net.lnx(b)).reshape(-1, 160), dictionary).view_as(b)
    c = net.scale2 * b + net.linear(attended)
    e = net.scale3 * c + net.mlp(net.ln_mlp(c))
    torch.testing.assert_close(net(x, dictionary), net.output_trans(e).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


# ---- the entropy model ----


class Recorder:
    """Pass that rounds y around the mean without coding and stores its arguments."""

    def __init__(self, y: Tensor) -> None:
        self.y = y
        self.params: list[tuple[Tensor, Tensor]] = []

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        self.params.append((scales, means))
        return torch.round(self.y[:, channels] - means) + means


@torch.no_grad()
def test_slice_depends_on_all_earlier_slices_and_on_no_other():
    context = small().context
    y, psi = 3 * torch.randn(1, 80, 4, 4), torch.randn(1, 160, 4, 4)

    def walk(y: Tensor) -> list[tuple[Tensor, Tensor]]:
        recorder = Recorder(y)
        context._passes(psi, recorder)
        return recorder.params

    before = walk(y)
    assert [scales.shape[1] for scales, _ in before] == [16] * 5
    for changed in range(5):
        other = y.clone()
        other[:, 16 * changed : 16 * changed + 16, 3, 2] += 5
        pairs = zip(before, walk(other), strict=True)
        differs = [[not torch.equal(*pair) for pair in zip(*both, strict=True)] for both in pairs]
        assert differs == [[step > changed] * 2 for step in range(5)]


def test_networks_read_the_support_and_then_the_result_of_the_attention():
    context = small().context
    psi, decoded = torch.randn(1, 160, 4, 4), [torch.randn(1, 16, 4, 4) for _ in range(2)]
    scale_input, mean_input = context.supports(2, psi, decoded)
    assert torch.equal(scale_input, mean_input)
    support = torch.cat([psi, *decoded], dim=1)
    assert torch.equal(scale_input[:, :192], support)
    assert torch.equal(scale_input[:, 192:], context.attention[2](support, context.dictionary))


def test_hyper_decoders_give_scales_and_then_means():
    h_s, z_hat = small().h_s, torch.randn(1, 32, 2, 2)
    psi = h_s(z_hat)
    assert torch.equal(psi[:, :80], h_s.scale(z_hat))
    assert torch.equal(psi[:, 80:], h_s.mean(z_hat))


def test_training_and_evaluation_reconstruct_equally(monkeypatch):
    """Apart from the grid of the means, which only evaluation has."""
    monkeypatch.setattr("lic_train.entropy.passes.on_grid", lambda means: means)
    model, x = small(), picture(64, 128)
    evaluated = model(x)
    trained = model.train()(x)
    torch.testing.assert_close(trained["x_hat"], evaluated["x_hat"], rtol=0, atol=1e-5)
    assert not torch.allclose(trained["likelihoods"]["y"], evaluated["likelihoods"]["y"], atol=1e-3)


# ---- the codec ----


@torch.no_grad()
def small() -> DCAE:
    """Return a small network with varied latents and entropy parameters, ready to code."""
    torch.manual_seed(0)
    model = build({"_target_": TARGET, **SMALL["dcae"]})
    for net in (*model.context.scale, *model.context.mean, *model.context.residual):
        net[-1].weight.mul_(5)
    model.g_a[6].weight.mul_(20)
    model.eval()
    model.update()
    return model


def picture(height: int, width: int) -> Tensor:
    """Return smooth colours and some noise, (1, 3, height, width)."""
    coarse = F.interpolate(torch.rand(1, 3, 6, 7), (height, width), mode="bicubic", align_corners=False)
    return (coarse + 0.1 * torch.rand(1, 3, height, width)).clamp(0, 1)


# The authors' code fails for all of these sizes.
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (128, 256), (192, 64), (320, 192)])
@torch.no_grad()
def test_every_size_decodes_bit_exactly(size):
    model, x = small(), picture(*size)
    out = model(x)
    assert torch.equal(model.decompress(**model.compress(x))["x_hat"], out["x_hat"].clamp(0, 1))


@torch.no_grad()
def test_any_number_of_threads_decodes():
    model = small()
    coded = model.compress(picture(128, 192))

    def decoded() -> Tensor:
        z_hat = model.entropy_bottleneck.decompress(coded["strings"][1], coded["shape"])
        return model.context.decompress(coded["strings"][0], model._psi(z_hat))

    y_hat = decoded()
    torch.set_num_threads(2)
    assert torch.equal(decoded(), y_hat)
