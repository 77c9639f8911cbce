"""CWAM's cross-scale window attention: compared with loops over windows, its masks, and its use in training."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from lic_train.layers.window_attention import tiles
from lic_train.models.cwam import (
    HEADS,
    CrossScaleWindowAttention,
    CrossWindowAttention,
    cached_window_masks,
    neighbourhoods,
    window_masks,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_window_attention_without_its_last_layer_is_the_identity():
    attention, x = CrossScaleWindowAttention(16, window=8), torch.randn(2, 16, 16, 24)
    for parameter in attention.projection.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(attention(x), x)


# ---- cross-scale window attention against loops over windows ----


def region(position, size, window):
    """Return the index of the slice [0, size-w), [size-w, size-s), [size-s, size) that contains the position."""
    return 0 if position < size - window else 1 if position < size - window // 2 else 2


def patch(image, top, left, window):
    """Return the (w * w, C) tokens of image (C, H, W); positions outside are reflected at the border."""
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
    """Attention of one window (T, N) to its keys, head by head; ``hidden`` (T, T) pairs have the bias -100."""
    d, index, heads = q.shape[1] // HEADS, relative_index(attention.window), []
    for h in range(HEADS):
        at = slice(h * d, (h + 1) * d)
        score = q[:, at] @ keys[:, at].T / math.sqrt(d) + bias.table[index, h] - 100.0 * hidden
        heads.append(score.softmax(dim=1) @ values[:, at])
    return torch.cat(heads, dim=1)


def slow_window_attention(attention, x):
    """Reference: image by image, window by window; coarse tokens are projected after cutting the patches."""
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
    attention.qkv.weight.mul_(4)  # clearly non-uniform attention
    x = torch.randn(batch, 16, height, width)
    torch.testing.assert_close(attention(x), slow_window_attention(attention, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [8, 4])
def test_every_token_has_a_key_and_patches_match_windows(window):
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


def test_masks_built_in_an_evaluation_work_in_training():
    cached_window_masks.cache_clear()
    attention, x = CrossScaleWindowAttention(16, window=4), torch.randn(1, 16, 8, 8)
    with torch.inference_mode():
        attention(x)
    attention(x).sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


def test_masks_and_indices_are_not_in_the_state():
    block = CrossWindowAttention(16, window=4)
    block(torch.zeros(1, 16, 8, 8))
    assert set(block.state_dict()) == {name for name, _ in block.named_parameters()}


# ---- use in training ----


@torch.no_grad()
def test_channels_last_and_bfloat16_change_the_result_little():
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
