"""Float64 convolutions of a CPU against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lic_train.entropy import float64_kernels
from lic_train.entropy.float64_kernels import Float64Kernels

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")

# Channels, outputs, groups, kernel, (h, w), and the function that computes it.
CASES = {
    "odd map": (96, 20, 1, 3, (25, 27), "_minimal_filtering"),
    "even map": (100, 3, 1, 3, (24, 24), "_minimal_filtering"),
    "depthwise 3": (6, 6, 6, 3, (5, 4), "_depthwise"),
    "depthwise 7": (2, 2, 2, 7, (9, 3), "_depthwise"),
    "small map": (96, 4, 1, 3, (23, 24), None),
    "few channels": (95, 4, 1, 3, (24, 24), None),
    "5x5": (96, 4, 1, 5, (24, 24), None),
    "groups": (8, 8, 2, 3, (24, 24), None),
    "two filters of each channel": (4, 8, 4, 3, (6, 6), None),
}


@pytest.fixture
def called(monkeypatch):
    """Return the list of the replacements that were called."""
    names = []
    for name in ("_depthwise", "_minimal_filtering"):
        original = getattr(float64_kernels, name)

        def kept(*args, name=name, original=original):
            names.append(name)
            return original(*args)

        monkeypatch.setattr(float64_kernels, name, kept)
    return names


def tensors(channels, outputs, groups, size, shape, dtype=torch.float64):
    x = torch.randn(2, channels, *shape, dtype=dtype)
    weight = torch.randn(outputs, channels // groups, size, size, dtype=dtype)
    return x, weight, torch.randn(outputs, dtype=dtype)


@torch.no_grad()
@pytest.mark.parametrize(("channels", "outputs", "groups", "size", "shape", "function"), CASES.values(), ids=CASES)
def test_values(called, channels, outputs, groups, size, shape, function):
    x, weight, bias = tensors(channels, outputs, groups, size, shape)
    for some in (bias, None):
        expected = F.conv2d(x, weight, some, padding=size // 2, groups=groups)
        with Float64Kernels():
            found = F.conv2d(x, weight, some, padding=size // 2, groups=groups)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-15 * weight[0].numel())
        assert found.is_contiguous()
    assert called == ([function] * 2 if function else [])


@torch.no_grad()
@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"padding": 0}, {"padding": 2, "dilation": 2}, {}])
def test_other_convolutions_are_those_of_pytorch(called, options):
    for groups in (1, 96):
        x, weight, bias = tensors(96, 96, groups, 3, (26, 26))
        expected = F.conv2d(x, weight, bias, **options, groups=groups)
        with Float64Kernels():
            assert torch.equal(F.conv2d(x, weight, bias, **options, groups=groups), expected)
    assert not called


@torch.no_grad()
def test_pictures_of_a_batch_do_not_depend_on_each_other():
    x, weight, bias = tensors(96, 32, 1, 3, (24, 25))
    with Float64Kernels():
        together = F.conv2d(x, weight, bias, padding=1)
        apart = [F.conv2d(one, weight, bias, padding=1) for one in x.split(1)]
    assert torch.equal(together, torch.cat(apart))


def test_gradients_and_float32_are_those_of_pytorch(called):
    x, weight, bias = tensors(4, 4, 4, 3, (6, 6))
    weight.requires_grad_()
    with Float64Kernels():
        F.conv2d(x, weight, bias, padding=1, groups=4).sum().backward()
        with torch.no_grad():
            F.conv2d(x.float(), weight.float(), bias.float(), padding=1, groups=4)
    assert weight.grad is not None
    assert not called
