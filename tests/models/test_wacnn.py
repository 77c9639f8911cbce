"""WACNN: counts of its specification row by row, its window attention module, invalid options."""

import pytest
import torch
from torch import nn

from lic_train.complexity.count import macs_by_module
from lic_train.layers.gated_attention import GatedAttention
from lic_train.models.wacnn import WACNN, ResidualWindowAttention, window_attention_module

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


@pytest.fixture(scope="module")
def full():
    return WACNN().to("meta")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- size and cost: the numbers of the specification, at full width and without memory ----


def test_parameters(full):
    assert [count(full.g_a), count(full.g_s)] == [6_928_528, 6_928_211]
    assert [count(full.g_a[i]) for i in (1, 4, 8)] == [37_056, 908_232, 2_514_632]  # GDN, WAM(8), WAM(4)
    assert [count(full.g_s[i]) for i in (7, 5, 0)] == [37_056, 908_232, 2_514_632]
    assert [count(full.h_a), count(full.h_s.scale), count(full.h_s.mean)] == [3_319_040, 5_882_624, 5_882_624]
    context = full.context
    assert [count(nets) for nets in (context.mean, context.scale, context.residual)] == [
        15_212_640,
        15_212_640,
        15_857_760,
    ]
    assert [net[0].in_channels for net in context.mean] == [320 + 32 * min(i, 5) for i in range(10)]
    assert count(full.entropy_bottleneck) == 11_712
    assert count(full) == 75_235_779


def test_multiplications(full):
    found = macs_by_module(full, 256, 256)
    gdn = sum(found[f"g_a.{i}"] for i in (1, 3, 6))
    rows = [found["g_a"] - gdn, gdn, found["g_a.4"], found["g_a.8"], found["h_a"], found["h_s.scale"], found[""]]
    assert [round(macs / 1e9, 3) for macs in rows] == [9.793, 0.793, 3.800, 0.645, 0.530, 0.445, 34.435]
    nets = [sum(found[f"context.{name}.{i}"] for i in range(10)) for name in ("mean", "scale", "residual")]
    assert [round(macs / 1e9, 3) for macs in nets] == [3.893, 3.893, 4.058]


# ---- the window attention module ----


def test_windows_and_shifts(full):
    modules = [part for part in (*full.g_a, *full.g_s) if isinstance(part, GatedAttention)]
    attentions = [module.mask[0].attention for module in modules]
    assert [(a.window, a.shift, a.heads) for a in attentions] == [(8, 4, 8), (4, 2, 8), (4, 2, 8), (8, 4, 8)]


@torch.no_grad()
def test_attention_has_a_shortcut_and_no_norm():
    attention, x = ResidualWindowAttention(16, window=4), torch.randn(1, 16, 8, 12)
    expected = x + attention.attention(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.equal(attention(x), expected)
    for parameter in attention.attention.projection.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(attention(x), x)


@torch.no_grad()
def test_module_is_a_gated_residual():
    module, x = window_attention_module(16, window=4), torch.randn(1, 16, 8, 8)
    gate = module.mask(x).sigmoid()
    torch.testing.assert_close(module(x), x + module.trunk(x) * gate)
    nn.init.constant_(module.mask[-1].bias, -1e4)  # a closed gate
    assert torch.equal(module(x), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"N": 12}, "channels: expected a positive multiple of 8"),
        ({"M": 32, "slices": 5}, "slices: expected a divisor of the 32 channels of y, got 5"),
    ],
)
def test_invalid_options_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        WACNN(**{"N": 16, "M": 32, "widths": [8], **arguments})
