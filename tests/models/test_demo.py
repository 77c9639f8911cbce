"""The network of the codec in the package: the rate model that it starts with, and its context."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lic_train.entropy.gaussian import MeanScaleContext
from lic_train.models import demo
from lic_train.models.demo import NeighbourContext, SmallHyperprior


@torch.no_grad()
def test_hyper_networks_start_as_local_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "RANDOM", 0.0)
    model = SmallHyperprior(A=4, N=20, M=24, Z=12, F=8, C=8)
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
    model = SmallHyperprior(A=4, N=40, M=24, Z=28, F=8, C=8)
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
        SmallHyperprior(A=4, N=N, M=24, Z=Z, F=8, C=8)


def disturbed_context() -> NeighbourContext:
    torch.manual_seed(0)
    context = NeighbourContext(M=6, F=4, C=8).eval()
    for parameter in context.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return context.double()


def test_context_starts_as_no_correction() -> None:
    y, psi = 3 * torch.randn(2, 6, 8, 10), torch.randn(2, 12, 8, 10).double()
    context = NeighbourContext(M=6, F=4, C=8).eval()
    context.gaussian_conditional.distortion_weight = None
    for found, expected in zip(context(y, psi), MeanScaleContext().eval()(y, psi), strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_parameters_depend_on_what_is_coded_before() -> None:
    """Change y at one position: only later stages at its eight neighbours, and the other channels there, change."""
    context = disturbed_context()
    psi = torch.rand(1, 12, 8, 8).double() + 0.5

    def parameters(y: torch.Tensor) -> torch.Tensor:
        maps = torch.zeros(1, 12, 8, 8).double()

        def code(channels: slice, mask: torch.Tensor, scales: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
            for kind, values in enumerate((scales, means)):
                view = maps[:, 6 * kind : 6 * kind + 6][:, channels]
                view[:, :, mask] = values[:, :, mask]
            return y[:, channels]

        context._passes(psi, code)
        return maps

    order = torch.tensor([[0, 2], [3, 1]]).repeat(4, 4)  # stage of each position by row and column parity
    y = torch.randn(1, 6, 8, 8).double()
    for row, column in ((2, 4), (3, 5), (2, 5), (3, 4)):
        other = y.clone()
        other[:, :, row, column] += 1
        changed = (parameters(other) != parameters(y))[0].unflatten(0, (2, 6))
        near = torch.zeros(8, 8, dtype=torch.bool)
        near[row - 1 : row + 2, column - 1 : column + 2] = True
        later = near & (order > order[row, column])
        assert torch.equal(changed[:, :4].any(0).any(0), later)
        assert torch.equal(changed[:, 4:].any(0).any(0), near)


def test_context_without_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="F: expected 1 to M - 1 = 23, got 24"):
        SmallHyperprior(A=4, N=40, M=24, Z=28, F=24, C=8)
