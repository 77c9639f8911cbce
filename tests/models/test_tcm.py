"""LIC-TCM: counts of its specification, its blocks, its channel-wise entropy model, its bitstream."""

from __future__ import annotations

import functools
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.complexity.count import inside, macs_by_module, on_meta
from lic_train.layers.window_attention import WindowAttention
from lic_train.models.base import build
from lic_train.models.tcm import TCM, MixedBlock, SwinBlock, SwinGate
from tests.conftest import SHARED, SMALL

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")

TARGET = "lic_train.models.tcm.TCM"


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- size and cost: the numbers of the specification, at full width and without memory ----


@functools.cache
def full(N: int) -> TCM:
    return on_meta({"_target_": TARGET, "N": N})


@functools.cache
def giga(N: int) -> dict[str, float]:
    return {name: macs / 1e9 for name, macs in macs_by_module(full(N), 256, 256).items()}


# N: parameters of the model, g_a, g_s, h_a and each hyper decoder; their GMAC at 256x256.
SIZES = {
    64: ((45_180_752, 2_141_020, 6_765_096, 1_109_252, 3_724_356), (36.675, 11.57, 17.59, 0.06, 0.15)),
    96: ((59_133_650, 4_526_186, 12_986_166, 2_020_134, 5_942_246), (71.990, 25.64, 38.58, 0.11, 0.25)),
    128: ((76_568_148, 7_787_896, 21_099_588, 3_168_584, 8_397_704), (121.008, 45.24, 67.70, 0.18, 0.37)),
}
PARTS = ("g_a", "g_s", "h_a", "h_s.scale", "h_s.mean")


@pytest.mark.parametrize("N", SIZES)
def test_parameters_and_multiplications_of_the_transforms(N):
    model = full(N)
    parameters, macs = SIZES[N]
    assert [count(model), *(count(model.get_submodule(part)) for part in PARTS)] == [*parameters, parameters[-1]]
    assert giga(N)[""] == pytest.approx(macs[0], abs=5e-4)
    assert [giga(N)[part] for part in PARTS] == pytest.approx([*macs[1:], macs[-1]], abs=5e-3)


@pytest.mark.parametrize(("N", "expected"), [(64, 158_664), (96, 354_732), (128, 628_624)])
def test_parameters_of_a_mixed_block(N, expected):
    assert count(full(N).g_a[1]) == expected


def test_parameters_of_the_entropy_model():
    context = full(64).context
    for gates in (context.atten_scale, context.atten_mean):
        assert [count(gate) for gate in gates] == [820_048, 836_496, 852_944, 869_392, 885_840]
    coders = [977_312, 1_106_336, 1_235_360, 1_364_384, 1_493_408, 1_622_432]
    assert [count(net) for net in context.scale] == [count(net) for net in context.mean] == coders[:5]
    assert [count(net) for net in context.residual] == coders[1:]


def test_multiplications_of_the_slices():
    parts = ("atten_scale", "atten_mean", "scale", "mean", "residual")
    slices = [sum(inside(giga(64), f"context.{part}.{i}") for part in parts) for i in range(5)]
    assert slices == pytest.approx([1.215, 1.323, 1.430, 1.538, 1.645], abs=6e-4)


def test_latent_shapes():
    y = full(64).g_a(torch.empty(1, 3, 256, 256, device="meta"))
    z = full(64).h_a(y)
    assert (y.shape, z.shape, full(64).h_s(z).shape) == ((1, 320, 16, 16), (1, 192, 4, 4), (1, 640, 16, 16))


def test_windows_alternate_and_heads_have_the_widths_of_the_paper():
    blocks = [block.trans_block.attention for block in full(128).modules() if isinstance(block, MixedBlock)]
    assert [block.shift for block in blocks[:12]] == [0, 4] * 6
    assert [block.shift for block in blocks[12:]] == [0, 2] * 3
    assert [block.heads for block in blocks] == [16, 16, 8, 8, 4, 4, 4, 4, 8, 8, 16, 16, *(4, 4) * 3]


@pytest.mark.parametrize("N", [64, 96, 128])
def test_names_of_the_authors_tensors(N):
    """Every parameter has one counterpart of equal size in the authors' files, whose names are listed elsewhere."""
    table = SHARED.parent / "specs" / "keys" / f"tcm_n{N}.tsv"
    if not table.is_file():
        pytest.skip("the names of the authors' tensors are not next to the repository")
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    theirs = {rename(row[0]): row[1] for row in rows if row[3] == "0" and not row[0].startswith("entropy_bottleneck")}
    ours = dict(full(N).named_parameters())
    assert theirs.keys() == {name for name in ours if not name.startswith("entropy_bottleneck")}
    elements = {name: functools.reduce(int.__mul__, map(int, shape.split("x"))) for name, shape in theirs.items()}
    assert elements == {name: ours[name].numel() for name in theirs}


def rename(name: str) -> str:
    for pattern, replacement in TCM.authors_names:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("g_a.1.trans_block.msa.embedding_layer.weight", "g_a.1.trans_block.attention.qkv.weight"),
        ("h_mean_s.2.trans_block.msa.linear.bias", "h_s.mean.2.trans_block.attention.projection.bias"),
        ("cc_scale_transforms.3.4.bias", "context.scale.3.4.bias"),
        ("lrp_transforms.4.0.weight", "context.residual.4.0.weight"),
        ("atten_mean.2.0.non_local_block.block_2.ln1.bias", "context.atten_mean.2.non_local_block.1.norm1.bias"),
        ("atten_scale.0.0.conv_b.3.weight", "context.atten_scale.0.conv_b.3.weight"),
    ],
)
def test_examples_of_renamed_tensors(theirs, ours):
    assert rename(theirs) == ours
    assert ours in full(64).state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"N": 48}, "N: expected a positive multiple of 32, got 48; try 64"),
        ({"N": 0}, "N: .* got 0; try 32"),
        ({"M": 42}, "M: expected a positive multiple of 5, got 42; try 40"),
        ({"attention": 24}, "attention: expected a positive multiple of 16"),
        ({"Z": 0}, "Z: expected a positive"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        TCM(**{**SMALL["tcm"], **options})


# ---- blocks ----


def zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def test_mixed_block_is_the_identity_without_its_last_convolution():
    block, x = MixedBlock(32, 8, 8, shifted=True), torch.randn(1, 32, 8, 16)
    zero(block.conv1_2)
    assert torch.equal(block(x), x)


@torch.no_grad()
def test_halves_of_a_mixed_block():
    """Without their inner branches, the two skips double the convolution half, and the other half is unchanged."""
    block, x = MixedBlock(32, 8, 8, shifted=False), torch.randn(1, 32, 8, 8)
    zero(block.conv_block)
    zero(block.trans_block.attention.projection)
    zero(block.trans_block.mlp[2])
    u = block.conv1_1(x)
    expected = x + block.conv1_2(torch.cat([2 * u[:, :16], u[:, 16:]], dim=1))
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def by_token(attention: WindowAttention, x: Tensor) -> Tensor:
    """Attention of one map (H, W, C), token by token: the keys are the tokens of the map inside the same window.

    Windows begin at the shift and at every multiple of the window after and before it, and end at the border.
    """
    height, width, C = x.shape
    w, h, tokens = attention.window, attention.heads, list(itertools.product(range(height), range(width)))
    q, k, v = (part.unflatten(-1, (h, -1)) for part in attention.qkv(x).chunk(3, dim=-1))

    def window(row: int, column: int) -> tuple[int, int]:
        return (row - attention.shift) // w, (column - attention.shift) // w

    out = torch.empty_like(q)
    for row, column in tokens:
        keys = [token for token in tokens if window(*token) == window(row, column)]
        rows = torch.tensor([[row - r + w - 1, column - c + w - 1] for r, c in keys]) @ torch.tensor([2 * w - 1, 1])
        for head in range(h):
            logits = torch.stack([q[row, column, head] @ k[r, c, head] for r, c in keys]) / (C / h) ** 0.5
            weights = (logits + attention.bias.table[rows, head]).softmax(dim=0)
            out[row, column, head] = weights @ torch.stack([v[r, c, head] for r, c in keys])
    return attention.projection(out.flatten(2))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(4, 8), (8, 12), (2, 2), (6, 4), (2, 10)])
@torch.no_grad()
def test_attention_stays_inside_the_windows_of_the_map(size, shifted):
    attention, x = SwinBlock(12, 6, 4, shifted).attention, torch.randn(2, *size, 12)
    attention.bias.table.normal_()
    attention.qkv.weight.mul_(4)
    attention.qkv.bias.normal_()  # padded tokens have keys and values
    expected = torch.stack([by_token(attention, image) for image in x])
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gate_is_a_sigmoid_of_the_swin_pair():
    gate, x = SwinGate(24, 16), torch.randn(1, 24, 8, 8)
    u = gate.in_conv(x)
    zero(gate.conv_b[3])
    torch.testing.assert_close(gate(x), gate.out_conv(u + 0.5 * gate.conv_a(u)))
    gate.conv_b[3].bias.fill_(-1e3)
    torch.testing.assert_close(gate(x), gate.out_conv(u))


@torch.no_grad()
def test_gate_depends_on_the_far_end_of_its_window():
    gate, x = SwinGate(24, 16), torch.randn(1, 24, 8, 24)
    moved = x.clone()
    moved[:, :, 0, 0] += 5
    changed = (gate(moved) - gate(x)).abs().amax(dim=(0, 1)) > 1e-7
    assert changed[7, 7]
    assert not changed[:, 20:].any()


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
    y, psi = 3 * torch.randn(1, 40, 8, 8), torch.randn(1, 80, 8, 8)

    def walk(y: Tensor) -> list[tuple[Tensor, Tensor]]:
        recorder = Recorder(y)
        context._passes(psi, recorder)
        return recorder.params

    before = walk(y)
    assert [scales.shape[1] for scales, _ in before] == [8] * 5
    for changed in range(5):
        other = y.clone()
        other[:, 8 * changed : 8 * changed + 8, 3, 4] += 5
        differs = [
            [not torch.equal(*pair) for pair in zip(*both, strict=True)]
            for both in zip(before, walk(other), strict=True)
        ]
        assert differs == [[step > changed] * 2 for step in range(5)]


@torch.no_grad()
def test_scale_map_comes_first():
    context = small().context
    y, psi = torch.randn(1, 40, 8, 8), torch.randn(1, 80, 8, 8)

    def first(psi: Tensor) -> tuple[Tensor, Tensor]:
        recorder = Recorder(y)
        context._passes(psi, recorder)
        return recorder.params[0]

    moved = psi.clone()
    moved[:, 39] += 1
    (scales, means), (other_scales, other_means) = first(psi), first(moved)
    assert not torch.equal(scales, other_scales)
    assert torch.equal(means, other_means)


@torch.no_grad()
def test_residual_prediction_adds_at_most_one_half():
    context = small().context
    y, psi = torch.randn(1, 40, 4, 4), torch.randn(1, 80, 4, 4)
    recorder = Recorder(y)
    for net in context.residual:
        zero(net[-1])
        net[-1].bias.fill_(100)
    y_hat = context._passes(psi, recorder)
    means = torch.cat([means for _, means in recorder.params], dim=1)
    torch.testing.assert_close(y_hat, torch.round(y - means) + means + 0.5)


def test_training_and_evaluation_reconstruct_equally(monkeypatch):
    """Apart from the grid of the means, which only evaluation has."""
    monkeypatch.setattr("lic_train.entropy.passes.on_grid", lambda means: means)
    model, x = small(), picture(64, 128)
    evaluated = model(x)
    trained = model.train()(x)
    torch.testing.assert_close(trained["x_hat"], evaluated["x_hat"], rtol=0, atol=1e-4)
    assert not torch.allclose(trained["likelihoods"]["y"], evaluated["likelihoods"]["y"], atol=1e-3)


# ---- the codec ----


@torch.no_grad()
def small() -> TCM:
    """Return a small network with varied latents and entropy parameters, ready to code."""
    torch.manual_seed(0)
    model = build({"_target_": TARGET, **SMALL["tcm"]})
    for net in (*model.context.scale, *model.context.mean, *model.context.residual):
        net[-1].weight.mul_(5)
    model.g_a[9].weight.mul_(20)
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
