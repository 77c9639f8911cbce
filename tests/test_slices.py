"""Channel slices: support, order of operations and likelihoods against loops over single slices, and the bitstream."""

import pytest
import torch
from torch import nn

from lic_train.entropy.slices import SliceContext

SLICES, SIZE, SUPPORT, C = 5, 3, 2, 4


@pytest.fixture
def context():
    torch.manual_seed(0)
    context = SliceContext(SLICES, SIZE, SUPPORT, C, widths=(6, 5)).eval()
    with torch.no_grad():
        for parameter in (*context.mean.parameters(), *context.residual.parameters()):
            parameter.mul_(3)
        for network in context.scale:
            network[-1].bias.add_(4)
    return context


def latents(height=6, width=7):
    generator = torch.Generator().manual_seed(1)
    y = 4 * torch.randn(1, SLICES * SIZE, height, width, generator=generator)
    return y, torch.randn(1, 2 * C, height, width, generator=generator)


class Recorder:
    """Pass that rounds around the means and stores what it receives."""

    def __init__(self, y):
        self.y, self.calls = y, []

    def __call__(self, channels, mask, scales, means):
        assert bool(mask.all())
        self.calls.append((channels, scales, means))
        return torch.round(self.y[:, channels] - means) + means

    def parameters_of(self, index):
        """Return scales and means (1, s, h, w) of a slice."""
        scales, means = (torch.cat([call[i] for call in self.calls], dim=1) for i in (1, 2))
        channels = slice(index * SIZE, (index + 1) * SIZE)
        return scales[:, channels], means[:, channels]


def one_by_one(context, y, psi):
    """Return corrected and uncorrected y_hat, scales and means, computed slice after slice, as in the paper."""
    scale_map, mean_map = psi[:, :C], psi[:, C:]
    corrected, rows = [], []
    for i in range(SLICES):
        support = corrected[: min(i, SUPPORT)]
        scales = context.scale[i](torch.cat([scale_map, *support], 1))
        means = context.mean[i](torch.cat([mean_map, *support], 1))
        y_hat = torch.round(y[:, SIZE * i : SIZE * (i + 1)] - means) + means
        corrected.append(y_hat + 0.5 * context.residual[i](torch.cat([mean_map, *support, y_hat], 1)).tanh())
        rows.append((corrected[-1], y_hat, scales, means))
    return [torch.cat(maps, 1) for maps in zip(*rows, strict=True)]


@torch.no_grad()
def test_steps_equal_single_slices(context):
    y, psi = latents()
    expected, y_hat, scales, means = one_by_one(context, y, psi)
    code = Recorder(y)
    assert torch.equal(context._passes(psi, code), expected)
    assert [(c.start, c.stop) for c, *_ in code.calls] == [(0, 3), (3, 6), (6, 15)]
    assert torch.equal(torch.cat([call[1] for call in code.calls], 1), scales)
    assert torch.equal(torch.cat([call[2] for call in code.calls], 1), means)
    assert (expected - y_hat).abs().max() > 0.1


@pytest.mark.parametrize(("slices", "support", "steps"), [(12, 6, 7), (10, 5, 6), (5, 5, 5), (1, 5, 1)])
def test_number_of_steps(slices, support, steps):
    context = SliceContext(slices, 2, support, C, widths=(2,))
    code = Recorder(torch.zeros(1, 2 * slices, 2, 2))
    context._passes(torch.zeros(1, 2 * C, 2, 2), code)
    assert len(code.calls) == steps
    assert [network[0].in_channels for network in context.mean] == [C + 2 * min(i, support) for i in range(slices)]


@torch.no_grad()
def test_parameters_depend_on_the_support_only(context):
    y, psi = latents()

    def parameters(index, changed):
        other = y.clone()
        other[:, SIZE * changed : SIZE * (changed + 1)] += 3
        context._passes(psi, code := Recorder(other))
        return torch.cat(code.parameters_of(index))

    for index in range(SLICES):
        plain = parameters(index, SLICES)  # changes nothing
        for changed in range(SLICES):
            assert torch.equal(parameters(index, changed), plain) == (changed >= min(index, SUPPORT))


@torch.no_grad()
def test_likelihood_belongs_to_the_values_before_the_correction(context, monkeypatch):
    monkeypatch.setattr("lic_train.entropy.passes.on_grid", lambda means: means)  # the reference has no grid
    y, psi = (tensor.double() for tensor in latents())
    expected, uncorrected, scales, means = one_by_one(context.double(), y, psi)
    y_hat, likelihoods = context(y, psi)
    assert torch.equal(y_hat, expected.float())
    normal = torch.distributions.Normal(means.double(), scales.double().clamp(min=0.11))
    mass = normal.cdf(uncorrected.double() + 0.5) - normal.cdf(uncorrected.double() - 0.5)
    torch.testing.assert_close(likelihoods.double(), mass.clamp(min=1e-9), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_bitstream_decodes_to_the_evaluation_forward(context):
    y, psi = latents()
    psi = psi.double()
    y_hat, likelihoods = context(y, psi)
    string = context.compress(y, psi)
    assert torch.equal(context.decompress(string, psi), y_hat)
    assert 8 * len(string) == pytest.approx(-likelihoods.log2().sum().item(), rel=0.02, abs=96)


def test_training_rounds_straight_through_and_rates_noise(context):
    y, psi = latents()
    y.requires_grad_()
    expected = one_by_one(context, y.detach(), psi)[0]
    y_hat, likelihoods = context.train()(y, psi)
    torch.testing.assert_close(y_hat, expected)
    again, other_noise = context(y, psi)
    assert torch.equal(again, y_hat)
    assert not torch.equal(other_noise, likelihoods)
    y_hat.sum().backward()
    assert bool(y.grad.abs().gt(0).all())


@torch.no_grad()
def test_float64(context):
    y, psi = (tensor.double() for tensor in latents())
    expected = one_by_one(context.double(), y, psi)[0]
    y_hat = context._passes(psi, Recorder(y))
    assert y_hat.dtype == torch.float64
    assert torch.equal(y_hat, expected)


@torch.no_grad()
def test_only_networks_that_decide_compute_in_float64(context):
    """No parameter depends on the correction of the last step."""
    y, psi = latents()
    used = {}
    for name, part in context.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda part, inputs, name=name: used.update({name: inputs[0].dtype}))
    y_hat, _ = context.eval()(y, psi.double())
    last = {name for name in used if name.startswith("residual.") and int(name.split(".")[1]) >= SUPPORT}
    assert {name for name, dtype in used.items() if dtype == torch.float32} == last
    assert len(last) == 3 * (SLICES - SUPPORT), "three convolutions of each network"
    assert torch.equal(context.decompress(context.compress(y, psi.double()), psi.double()), y_hat)


@torch.no_grad()
def test_other_supports():
    """A subclass can replace the inputs of the networks, for example by attention."""

    class Doubled(SliceContext):
        def __init__(self):
            super().__init__(SLICES, SIZE, SLICES, C, widths=(6,))
            self.attention = nn.ModuleList(nn.Conv2d(C + SIZE * i, C + SIZE * i, 1) for i in range(SLICES))

        def supports(self, step, psi, decoded):
            scale_input, mean_input = super().supports(step, psi, decoded)
            return scale_input, self.attention[step](mean_input)

    torch.manual_seed(0)
    context, (y, psi) = Doubled().eval(), latents()
    context._passes(psi, code := Recorder(y))
    first = context.attention[0](psi[:, C:])
    torch.testing.assert_close(code.parameters_of(0)[1], context.mean[0](first), rtol=0, atol=0)
    psi = psi.double()
    assert torch.equal(context.decompress(context.compress(y, psi), psi), context(y, psi)[0])
