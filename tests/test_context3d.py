"""The 3-D context compared with a masked Conv3d, and its wavefront with one element at a time."""

import pytest
import torch
import torch.nn.functional as F

from lic_train.entropy.context3d import CausalConv3d, VolumeContext, wavefront
from lic_train.entropy.precision import repeatable
from lic_train.errors import BitstreamError

M, HEIGHT, WIDTH = 7, 3, 3
VISIBLE = 665


pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


@pytest.fixture
def context() -> VolumeContext:
    torch.manual_seed(0)
    context = VolumeContext(M).eval()
    for parameter in context.parameters():  # a clearly non-empty context and realistic scales
        parameter.data *= 1.5
    return context


@pytest.fixture
def psi() -> torch.Tensor:
    return torch.randn(1, 2 * M, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def y() -> torch.Tensor:
    return 2 * torch.randn(1, M, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))


def masked_conv3d(conv: CausalConv3d, y: torch.Tensor) -> torch.Tensor:
    """Reference from the specification: a dense 11x11x11 kernel with only the taps before the centre."""
    mask = (torch.arange(11**3) < VISIBLE).view(1, 1, 11, 11, 11)
    return F.conv3d(y[:, None], conv.weight[:, None] * mask, conv.bias, padding=5)


def recorded(context: VolumeContext, y: torch.Tensor, psi: torch.Tensor) -> list[torch.Tensor]:
    """Return weights, means and scales (elements, 3), as passed from the wavefront to the coder."""
    kept = [torch.full((y.numel(), 3), torch.nan, dtype=torch.float64) for _ in range(3)]
    flat = y.round().double().flatten()

    def code(at: torch.Tensor, parameters: tuple) -> torch.Tensor:
        for store, values in zip(kept, parameters, strict=True):
            store[at] = values
        return flat[at]

    with torch.no_grad():
        y_hat = context._wavefront(psi, code)
    assert torch.equal(y_hat, y.round().double())
    return kept


def test_kernel_equals_a_masked_3d_convolution() -> None:
    torch.manual_seed(0)
    conv, y = CausalConv3d(3), torch.randn(2, 7, 5, 6)
    got = conv(y).unflatten(0, (2, 7)).transpose(1, 2)
    torch.testing.assert_close(got, masked_conv3d(conv, y), rtol=1e-4, atol=1e-5)


def test_element_depends_on_665_taps() -> None:
    y = torch.zeros(1, 8, 11, 11, requires_grad=True)
    CausalConv3d(1)(y)[5, 0, 5, 5].backward()
    seen = y.grad.flatten().nonzero().flatten()
    assert len(seen) == VISIBLE
    assert seen.max() == (5 * 11 + 5) * 11 + 5 - 1


def test_later_elements_have_no_effect_on_earlier_ones(context, psi, y) -> None:
    before = context.predict(y, psi.float()).permute(0, 2, 3, 1).flatten(0, 2)
    for at in (0, 17, 40, M * HEIGHT * WIDTH - 2):
        changed = y.clone()
        changed.view(-1)[at] += 3
        after = context.predict(changed, psi.float()).permute(0, 2, 3, 1).flatten(0, 2)
        assert torch.equal(before[: at + 1], after[: at + 1])
        assert not torch.allclose(before[at + 1 :], after[at + 1 :])


def test_every_tap_is_decoded_in_an_earlier_step() -> None:
    size = (7, 7, 13)
    volume = torch.arange(7 * 7 * 13).view(size)
    step_of = torch.full((volume.numel(),), -1)
    for step, (elements, _) in enumerate(wavefront(*size)):
        assert (step_of[elements] == -1).all()
        step_of[elements] = step
    assert (step_of >= 0).all()
    steps = step_of.view(size)
    for c, r, q in [(6, 3, 6), (6, 0, 12), (3, 6, 0), (6, 6, 12), (0, 3, 5)]:
        box = tuple(slice(max(0, centre - 5), centre + 6) for centre in (c, r, q))
        taps = steps[box][volume[box] < volume[c, r, q]]
        assert taps.max() < steps[c, r, q]


@pytest.mark.parametrize(
    ("M", "height", "width", "steps"),
    [(192, 16, 16, 6982), (192, 32, 48, 7110), (192, 48, 32, 7190), (320, 16, 16, 11590), (320, 32, 48, 11718)],
)
def test_number_of_steps(M: int, height: int, width: int, steps: int) -> None:
    assert sum(1 for _ in wavefront(M, height, width)) == steps


def test_wavefront_equals_one_element_at_a_time(context, psi, y) -> None:
    got = recorded(context, y, psi)
    exact = VolumeContext(M).double().eval()
    exact.load_state_dict(context.state_dict())
    known = torch.zeros(1, M, HEIGHT, WIDTH, dtype=torch.float64)
    for element in range(known.numel()):
        with torch.no_grad():
            raw = exact.predict(known, psi).permute(0, 2, 3, 1).reshape(-1, 9)[element]
        logits, means, scales = raw.view(3, 3).T
        for values, reference in zip(got, (logits.softmax(0), means, scales.abs()), strict=True):
            torch.testing.assert_close(values[element], reference, rtol=1e-9, atol=1e-9)
        known.view(-1)[element] = y.view(-1)[element].round()


def test_encoder_and_decoder_have_the_same_parameters(context, psi, y) -> None:
    first, second = recorded(context, y, psi), recorded(context, y, psi)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("make", [torch.zeros_like, torch.ones_like, lambda y: y, lambda y: 1e4 * y])
def test_round_trip(context, psi, y, make) -> None:
    string = context.compress(make(y), psi)
    assert torch.equal(context.decompress(string, psi), make(y).round().double())


def test_string_length_matches_the_estimate() -> None:
    torch.manual_seed(0)
    context = VolumeContext(16).eval()
    context.entropy_parameters[-1].bias.data[2::3] = 2.0  # scales
    y, psi = 2 * torch.randn(1, 16, 8, 8), torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        bits = -context(y.round(), psi).log2().sum().item()
    assert 8 * len(context.compress(y, psi.double())) == pytest.approx(bits + 64, rel=0.01)  # + checksum and last word


def test_another_number_of_threads_decodes(context, psi, y) -> None:
    torch.set_num_threads(2)
    string = context.compress(y, psi)
    torch.set_num_threads(1)
    assert torch.equal(context.decompress(string, psi), y.round().double())


def test_damage_and_weights_that_are_not_finite_raise(context, psi, y) -> None:
    string = bytearray(context.compress(y, psi))
    string[-1] ^= 1
    with pytest.raises(BitstreamError):
        context.decompress(bytes(string), psi)
    context.entropy_parameters[-1].bias.data[1] = torch.nan
    with pytest.raises(BitstreamError, match="means"):
        context.compress(y, psi)


def test_float64_does_not_change_the_module() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).eval()
    x, before = torch.randn(1, 2, 5, 5), dict(module.named_parameters())
    with repeatable(module):
        out = module(x.double())
    with repeatable(module), pytest.raises(RuntimeError):
        module(x)  # parameters are restored after an error
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), module(x), rtol=1e-5, atol=1e-6)
    assert all(parameter is before[name] for name, parameter in module.named_parameters())


def test_softplus_scales_and_unknown_kinds() -> None:
    assert (VolumeContext(4, scale_param="softplus")._split(torch.randn(5, 9), 1)[2] > 0).all()
    with pytest.raises(ValueError, match="abs or softplus"):
        VolumeContext(4, scale_param="exp")
