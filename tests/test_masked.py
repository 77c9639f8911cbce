"""Layers that compute only the coded positions, against the same layers over the whole map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lic_train.layers.masked import MaskedConv2d, pointwise

MASKS = {"half": 0.5, "few": 0.05, "all": 1.1, "none": -1.0}


def positions(share: float) -> torch.Tensor:
    return torch.rand(7, 9, generator=torch.Generator().manual_seed(1)) < share


@torch.no_grad()
@pytest.mark.parametrize("share", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("size", [3, 5])
def test_masked_convolution_equals_that_of_the_whole_map(size, share):
    torch.manual_seed(0)
    conv = MaskedConv2d(4, 6, (torch.rand(size, size) < 0.4).tolist()).double()
    x, mask = torch.randn(2, 4, 7, 9, dtype=torch.float64), positions(share)
    whole = F.conv2d(x, conv.weight * conv.taps, conv.bias, padding=size // 2)
    torch.testing.assert_close(conv.train()(x, mask), whole, rtol=0, atol=0)
    torch.testing.assert_close(conv.eval()(x, mask), whole * mask, rtol=0, atol=1e-14)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.5, 0.05, 1.1])
def test_pointwise_network_equals_that_of_the_whole_map(share):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(7, 5, 1), nn.GELU(), nn.Conv2d(5, 3, 1)).double()
    inputs, mask = [torch.randn(2, c, 7, 9, dtype=torch.float64) for c in (3, 4)], positions(share)
    whole = network(torch.cat(inputs, dim=1))
    torch.testing.assert_close(pointwise(network.train(), inputs, mask), whole, rtol=0, atol=0)
    torch.testing.assert_close(pointwise(network.eval(), inputs, mask), whole * mask, rtol=0, atol=1e-14)
