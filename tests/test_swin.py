"""Shifted-window attention against a loop over windows, for every map size, and its use in training."""

import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lic_train.layers.window_attention import WindowAttention

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")

HEADS, CHANNELS = 2, 6


def attention(window, shifted):
    module = WindowAttention(CHANNELS, HEADS, window, shifted)
    with torch.no_grad():
        module.bias.table.normal_()
        module.qkv.weight.mul_(4)  # clearly non-uniform attention
    return module


def band(position, size, window):
    """Return the part of a padded axis: before the last window, before its last rows, or its last rows."""
    return 0 if position < size - window else 1 if position < size - window // 2 else 2


def window_by_window(module, image, shifted):
    """Reference for one image (H, W, C): explicit tokens, one window and one head at a time."""
    w, (height, width, C) = module.window, image.shape
    rows, columns = math.ceil(height / w) * w, math.ceil(width / w) * w
    padded = torch.zeros(rows, columns, C)
    padded[:height, :width] = image
    shift = w // 2 if shifted else 0
    d, out = C // HEADS, torch.empty(rows, columns, C)
    for top, left in itertools.product(range(0, rows, w), range(0, columns, w)):
        rolled = list(itertools.product(range(top, top + w), range(left, left + w)))
        cells = [((r + shift) % rows, (c + shift) % columns) for r, c in rolled]
        q, k, v = module.qkv(torch.stack([padded[cell] for cell in cells])).split(C, dim=1)
        regions = [(band(r, rows, w), band(c, columns, w)) for r, c in rolled]
        for head in range(HEADS):
            at = slice(head * d, (head + 1) * d)
            for i, (row, column) in enumerate(rolled):
                seen = [j for j in range(w * w) if not shifted or regions[j] == regions[i]]
                offsets = [(row - rolled[j][0] + w - 1) * (2 * w - 1) + column - rolled[j][1] + w - 1 for j in seen]
                logits = k[seen, at] @ q[i, at] / d**0.5 + module.bias.table[offsets, head]
                out[cells[i]][at] = logits.softmax(0) @ v[seen, at]
    return module.projection(out[:height, :width])


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("window", "height", "width"), [(4, 4, 4), (4, 8, 12), (4, 1, 1), (4, 3, 9), (4, 8, 4), (2, 5, 6), (3, 7, 3)]
)
@torch.no_grad()
def test_equals_a_loop_over_windows(window, height, width, shifted):
    module, x = attention(window, shifted), torch.randn(2, height, width, CHANNELS)
    expected = torch.stack([window_by_window(module, image, shifted) for image in x])
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_loop():
    module, x = attention(2, shifted=True), torch.randn(1, 6, 5, CHANNELS)
    parameters = list(module.parameters())
    weights = torch.randn(6, 5, CHANNELS)
    fast = torch.autograd.grad((module(x)[0] * weights).sum(), parameters)
    slow = torch.autograd.grad((window_by_window(module, x[0], True) * weights).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_multiplications_of_a_padded_map():
    module = attention(4, shifted=True).to("meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, 7, 12, CHANNELS, device="meta"))
    padded, kept = 8 * 12, 7 * 12
    products = padded * 3 * CHANNELS**2 + 2 * padded * 16 * CHANNELS + kept * CHANNELS**2
    assert counter.get_total_flops() == 2 * products


@torch.no_grad()
def test_bfloat16_and_float64():
    module, x = attention(4, shifted=True), torch.randn(2, 9, 8, CHANNELS)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(x).float(), expected, atol=0.1, rtol=0.05)
    exact = module.double()(x.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), expected, atol=1e-5, rtol=1e-5)


def test_masks_and_indices_are_not_in_the_state():
    module = attention(4, shifted=True)
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()}


def test_channels_that_do_not_divide_into_heads_raise():
    with pytest.raises(ValueError, match="channels: expected a positive multiple of 4"):
        WindowAttention(6, 4, 4, shifted=False)
