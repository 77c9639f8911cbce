"""The network of the codec in the package: the rate model that it starts with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lic_train.models import demo
from lic_train.models.demo import SmallHyperprior


@torch.no_grad()
def test_hyper_networks_start_as_local_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "RANDOM", 0.0)
    model = SmallHyperprior(A=4, N=20, M=24, Z=12)
    y = torch.randn(2, 24, 6, 8)
    z = model.h_a(torch.cat([y, y.abs()], dim=1))
    magnitudes = F.avg_pool2d(y.abs(), 2).unflatten(1, (6, 4)).mean(2)
    torch.testing.assert_close(z[:, :6], magnitudes)
    # A value and its negative pass LeakyReLU(0.01) and are subtracted.
    torch.testing.assert_close(z[:, 6:], 1.01 * F.avg_pool2d(y[:, :6], 2))

    scales, means = model.h_s(z).chunk(2, dim=1)
    enlarged = F.interpolate(magnitudes, scale_factor=2).repeat_interleave(4, dim=1)
    torch.testing.assert_close(scales, demo.DEVIATION * enlarged + demo.LEAST_SCALE)
    local_means = F.interpolate(F.avg_pool2d(y[:, :6], 2), scale_factor=2)
    assert (means[:, :6] / local_means - 1).abs().max() < 0.04
    assert not means[:, 6:].any()


@torch.no_grad()
def test_scales_at_the_start_cost_less_than_one_scale_for_all() -> None:
    torch.manual_seed(0)
    model = SmallHyperprior(A=4, N=40, M=24, Z=28)
    energy = F.interpolate(torch.rand(1, 1, 8, 8) + 0.1, scale_factor=4)
    deviations = torch.linspace(16, 2, 24).view(1, 24, 1, 1) * energy
    y = deviations * torch.randn(1, 24, 32, 32)

    def bits(scales: torch.Tensor) -> float:
        y_hat = model.eval().context.gaussian_conditional(y, scales, torch.zeros_like(y))
        return float(-y_hat[1].log2().sum())

    scales, _ = model.h_s(torch.round(model.h_a(torch.cat([y, y.abs()], dim=1)))).chunk(2, dim=1)
    assert bits(scales) < 0.95 * bits(y.std().expand_as(y))


@pytest.mark.parametrize(("N", "Z"), [(40, 6), (16, 12)])
def test_widths_without_room_for_them_are_refused(N: int, Z: int) -> None:
    with pytest.raises(ValueError, match="Z: expected 7 to"):
        SmallHyperprior(A=4, N=N, M=24, Z=Z)
