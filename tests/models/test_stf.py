"""STF: counts of its specification row by row, merging and splitting, stochastic depth, stages on small maps."""

import pytest
import torch
from torch import nn

from lic_train.complexity.count import macs_by_module
from lic_train.layers.swin import PatchMerging, PatchSplitting
from lic_train.models.stf import STF

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return STF().to("meta")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- size and cost: the numbers of the specification, at full width and without memory ----

# Parameters and G multiply-adds at 256x256 of each row: embedding, stages; stages, last convolutions.
ANALYSIS = [(720, 0.009), (75_654, 1.032), (298_764, 1.007), (2_969_160, 2.831), (3_551_280, 0.912)]
SYNTHESIS = [(3_846_960, 0.988), (2_746_824, 2.831), (242_892, 1.007), (56_838, 0.956), (231_891, 3.860)]


def test_parameters(full):
    assert [count(part) for part in (full.g_a.embed, *full.g_a.stages)] == [row[0] for row in ANALYSIS]
    assert [count(part) for part in (*full.g_s.stages, full.g_s.end)] == [row[0] for row in SYNTHESIS]
    assert [count(full.h_a), count(full.h_s.scale), count(full.h_s.mean)] == [4_397_472, 9_749_568, 9_749_568]
    context = full.context
    assert [count(nets) for nets in (context.mean, context.scale, context.residual)] == [
        20_384_064,
        20_384_064,
        21_158_208,
    ]
    assert [net[0].in_channels for net in context.mean] == [384 + 32 * min(i, 6) for i in range(12)]
    assert [net[0].in_channels for net in context.residual] == [384 + 32 * min(i + 1, 7) for i in range(12)]
    assert count(full.entropy_bottleneck) == 11_712
    assert count(full) == 99_855_639


def test_multiplications(full):
    found = macs_by_module(full, 256, 256)
    rows = [found["g_a.embed"], *(found[f"g_a.stages.{i}"] for i in range(4))]
    assert [round(macs / 1e9, 3) for macs in rows] == [row[1] for row in ANALYSIS]
    rows = [*(found[f"g_s.stages.{i}"] for i in range(4)), found["g_s.end"]]
    assert [round(macs / 1e9, 3) for macs in rows] == [row[1] for row in SYNTHESIS]
    nets = [sum(found[f"context.{name}.{i}"] for i in range(12)) for name in ("mean", "scale", "residual")]
    assert [round(macs / 1e9, 3) for macs in nets] == [5.216, 5.216, 5.415]
    assert [round(found[name] / 1e9, 3) for name in ("h_a", "h_s.scale", "h_s.mean", "")] == [
        0.739,
        0.739,
        0.739,
        33.498,
    ]


# ---- blocks ----


@torch.no_grad()
def test_merging_order():
    """Inputs of the projection are the neighbours at (row, column) = (0, 0), (1, 0), (0, 1), (1, 1)."""
    merging = PatchMerging(1)
    merging.norm = nn.Identity()
    merging.reduction = nn.Identity()
    x = torch.arange(24.0).view(1, 4, 6, 1)
    out = merging(x)
    assert out.shape == (1, 2, 3, 4)
    for row in range(2):
        for column in range(3):
            expected = [x[0, 2 * row + r, 2 * column + c, 0].item() for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))]
            assert out[0, row, column].tolist() == expected


@torch.no_grad()
def test_splitting_order():
    """Channel 4c + 2r + q of the projection becomes channel c at the offset (r, q)."""
    splitting = PatchSplitting(4)
    splitting.norm = nn.Identity()
    splitting.reduction = nn.Identity()
    x = torch.randn(1, 2, 3, 8)
    out = splitting(x)
    assert out.shape == (1, 4, 6, 2)
    for r, q, c in ((0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)):
        assert torch.equal(out[:, r::2, q::2, c], x[..., 4 * c + 2 * r + q])


def test_shifts_and_drop_rates(full):
    blocks = [block for stage in full.g_a.stages for block in stage.blocks]
    assert [block.attention.shift for block in blocks] == [0, 2] * 6
    assert [block.drop_rate for block in blocks] == pytest.approx([0.2 * i / 11 for i in range(12)])
    blocks = [block for stage in full.g_s.stages for block in stage.blocks]
    assert [len(stage.blocks) for stage in full.g_s.stages] == [2, 6, 2, 2]
    assert [block.drop_rate for block in blocks] == pytest.approx([0.2 * i / 11 for i in range(12)])
    heads = [stage.blocks[0].attention.heads for stage in full.g_s.stages]
    assert heads == [24, 12, 6, 3]


@torch.no_grad()
def test_drop_path_skips_branches_in_training_only():
    model = STF(N=16, Z=16, slices=4, support=2, widths=[8], drop_path=0.9)
    x = torch.rand(1, 3, 64, 64)
    evaluated = model.eval().g_a(x)
    assert torch.equal(model.g_a(x), evaluated)
    assert not torch.equal(model.train().g_a(x), evaluated)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"N": 24}, "N: expected a positive multiple of 16"),
        ({"N": 16, "slices": 5}, "slices: expected a divisor of the 128 channels of y, got 5"),
        ({"N": 16, "drop_path": 1.0}, "drop_path: expected a rate"),
    ],
)
def test_invalid_options_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        STF(**{"Z": 16, "widths": [8], **arguments})
