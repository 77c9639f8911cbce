"""Tiled neighbourhood attention compared with a loop over queries, its border rule, its operator, and its blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lic_train.layers.icsa import RNAB, analysis, synthesis
from lic_train.layers.neighborhood_attention import NeighborhoodAttention, neighborhood_attention
from lic_train.layers.transformer import drop_path

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


def windows(length: int, kernel: int) -> list[range]:
    """Return the keys of every query along one axis as the paper defines them: k real keys, shifted at a border."""
    span = min(kernel, length)
    found = []
    for query in range(length):
        first = query - span // 2
        while first < 0:
            first += 1
        while first + span > length:
            first -= 1
        found.append(range(first, first + span))
    return found


def query_by_query(qkv: Tensor, table: Tensor) -> Tensor:
    """Reference from (B, H, W, 3, h, d) to (B, H, W, h, d) that gathers the window of each query."""
    batch, height, width, _, heads, channels = qkv.shape
    kernel = (table.shape[1] + 1) // 2
    q, k, v = qkv.unbind(3)
    rows, columns = windows(height, kernel), windows(width, kernel)
    out = []
    for r in range(height):
        for c in range(width):
            window = slice(rows[r][0], rows[r][-1] + 1), slice(columns[c][0], columns[c][-1] + 1)
            keys, values = k[:, *window].flatten(1, 2), v[:, *window].flatten(1, 2)
            bias = table[:, [key - r + kernel - 1 for key in rows[r]]][
                :, :, [key - c + kernel - 1 for key in columns[c]]
            ]
            scores = torch.einsum("bhd,bnhd->bhn", q[:, r, c], keys) / channels**0.5 + bias.flatten(1)
            out.append(torch.einsum("bhn,bnhd->bhd", scores.softmax(-1), values))
    return torch.stack(out, dim=1).view(batch, height, width, heads, channels)


def inputs(
    height: int, width: int, kernel: int, dtype: torch.dtype = torch.float32, heads: int = 2
) -> tuple[Tensor, Tensor]:
    qkv = torch.randn(2, height, width, 3, heads, 16, dtype=dtype, requires_grad=True)
    table = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, dtype=dtype, requires_grad=True)
    return qkv, table


SIZES = [(1, 1), (1, 20), (2, 3), (5, 6), (7, 7), (8, 8), (9, 11), (6, 25), (16, 24), (17, 10), (20, 12), (13, 33)]


@pytest.mark.parametrize(("kernel", "tile"), [(7, 8), (3, 4)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_the_loop_over_queries(height, width, kernel, tile):
    qkv, table = inputs(height, width, kernel, torch.float64)
    out, expected = neighborhood_attention(qkv, table, tile), query_by_query(qkv, table)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(out)
    gradients = torch.autograd.grad((out * weights).sum(), (qkv, table))
    for ours, theirs in zip(gradients, torch.autograd.grad((expected * weights).sum(), (qkv, table)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(9, 11), (20, 12)])
def test_equals_the_loop_in_single_precision(height, width):
    qkv, table = inputs(height, width, 7)
    out, expected = neighborhood_attention(qkv, table), query_by_query(qkv, table)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    weights = torch.randn_like(out) / out[0].numel() ** 0.5
    gradients = torch.autograd.grad((out * weights).sum(), (qkv, table))
    for ours, theirs in zip(gradients, torch.autograd.grad((expected * weights).sum(), (qkv, table)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [3, 4, 5, 16, 64])
def test_tile_size_does_not_change_the_result(tile):
    qkv, table = inputs(19, 26, 7, torch.float64)
    torch.testing.assert_close(
        neighborhood_attention(qkv, table, tile), neighborhood_attention(qkv, table), rtol=0, atol=1e-12
    )


def test_windows_stop_at_the_border_and_contain_only_real_keys():
    # With equal scores the result is the mean of the values in the window, which are the positions here.
    positions = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(20.0), indexing="ij"), dim=-1)
    qkv = torch.zeros(1, 12, 20, 3, 1, 16)
    qkv[0, :, :, 2, 0, :2] = positions
    means = neighborhood_attention(qkv, torch.zeros(1, 13, 13))[0, :, :, 0, :2]
    expected = torch.stack([positions[..., 0].clamp(3, 8), positions[..., 1].clamp(3, 16)], dim=-1)
    torch.testing.assert_close(means, expected)


def test_bias_is_indexed_by_key_minus_query():
    table = torch.zeros(1, 13, 13)
    table[0, 6 + 2, 6 - 1] = 100  # two rows down, one column to the left
    qkv = torch.zeros(1, 16, 16, 3, 1, 16)
    qkv[:, :, :, 2] = torch.randn(1, 16, 16, 1, 16)
    out = neighborhood_attention(qkv, table)
    torch.testing.assert_close(out[:, 4:10, 4:10], qkv[:, 6:12, 3:9, 2])


def test_operator_passes_opcheck():
    op = torch.ops.lic_train.neighborhood_attention.default
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(op, (*inputs(10, 9, 3), 4), test_utils=checks)


def test_compiles_as_one_graph():
    layer = RNAB(32, 7, [0.0, 0.0])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 32, 12, 20, requires_grad=True)
    out, expected = compiled(x), layer(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    parameters = (x, *layer.parameters())
    gradients = torch.autograd.grad(out.square().sum(), parameters)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.square().sum(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bfloat16_autocast():
    layer, x = NeighborhoodAttention(32, 7), torch.randn(1, 13, 16, 32)
    nn.init.normal_(layer.rpb)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), rtol=0, atol=0.02)
    gradient, expected = (torch.autograd.grad(o.float().sum(), layer.rpb)[0] for o in (out, layer(x)))
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_evaluation_before_training_works():
    layer, x = NeighborhoodAttention(16, 3), torch.randn(1, 23, 29, 16)  # a size that no other test has cached
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.rpb.grad.any()


def test_rounding_is_independent_of_gradients():
    layer, x = NeighborhoodAttention(32, 7), torch.randn(1, 16, 24, 32)
    with torch.no_grad():
        out = layer(x)
    assert torch.equal(layer(x), out)


@pytest.mark.parametrize(("height", "width", "keys"), [(16, 24, 49), (5, 16, 35), (2, 2, 4)])
def test_flop_counters_use_the_definition(height, width, keys):
    qkv, table = (value.detach().to("meta") for value in inputs(height, width, 7))
    with FlopCounterMode(display=False) as counter:
        neighborhood_attention(qkv, table)
    assert counter.get_total_flops() == 2 * 2 * (2 * height * width) * keys * 32


def test_invalid_widths_raise():
    with pytest.raises(ValueError, match=r"multiple of 16.*got 24"):
        NeighborhoodAttention(24, 7)
    with pytest.raises(ValueError, match="odd number, got 4"):
        NeighborhoodAttention(32, 4)


# ---- the blocks ----


def test_group_has_one_more_skip():
    layer, x = RNAB(16, 3, [0.0, 0.0]), torch.randn(1, 16, 5, 6)
    for block in layer.blocks:
        nn.init.zeros_(block.attention.projection.weight)
        nn.init.zeros_(block.mlp[2].weight)
    torch.testing.assert_close(layer(x), 2 * x)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = torch.ones(4000, 2, 3)
    dropped = drop_path(x, 0.25)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped.amax((1, 2)), dropped.amin((1, 2)))
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    layer = RNAB(16, 3, [0.9, 0.9])
    y = torch.randn(1, 16, 4, 4)
    assert torch.equal(layer.eval()(y), layer.eval()(y))


def test_units_have_no_activation_between_convolution_and_attention():
    encoder = analysis((3, 16), (5,), (2,), (1,), 3, [0.0], refine=lambda channels: nn.Conv2d(channels, channels, 1))[0]
    decoder = synthesis((16, 3), (5,), (2,), (1,), 3, [0.0])[0]
    x = torch.randn(1, 3, 16, 24)
    conv = F.conv2d(x, encoder.conv.weight, encoder.conv.bias, stride=2, padding=2)
    assert conv.shape == (1, 16, 8, 12)
    refined = F.conv2d(conv, encoder.refine.weight, encoder.refine.bias)
    torch.testing.assert_close(encoder(x), encoder.rnab(refined))
    up = F.conv_transpose2d(decoder.rnab(conv), decoder.conv.weight, decoder.conv.bias, 2, padding=2, output_padding=1)
    assert up.shape == x.shape
    torch.testing.assert_close(decoder(conv), up)
