"""Tiny-LIC: counts of its specification, its nine passes, its bitstream. Its attention is tested elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.complexity.count import inside, macs_by_module
from lic_train.layers.multistage_context import MultistageContext, slice_sizes
from lic_train.models.base import Codec, build
from lic_train.models.tinylic import TinyLIC
from lic_train.recipes.losses import bpp

SMALL = {"N": 32, "M": 80}


pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- size and cost: the numbers of the specification, at full width and without memory ----

# Convolution and RNAB of every unit: parameters, then GMAC at 256x256. The attention core is counted by its definition,
# 2 k^2 C per position; transposed convolutions over their input positions.
UNITS = {
    "g_a.0.conv": (9_728, 0.157),
    "g_a.0.rnab": (267_664, 4.706),
    "g_a.1.conv": (221_376, 0.906),
    "g_a.1.rnab": (598_104, 2.570),
    "g_a.2.conv": (442_624, 0.453),
    "g_a.2.rnab": (3_178_848, 3.375),
    "g_a.3.conv": (737_600, 0.189),
    "g_a.3.rnab": (1_652_200, 0.436),
    "h_a.0.conv": (553_152, 0.035),
    "h_a.0.rnab": (594_648, 0.038),
    "h_a.1.conv": (331_968, 0.005),
    "h_a.1.rnab": (594_648, 0.010),
    "h_s.0.rnab": (594_648, 0.010),
    "h_s.0.conv": (331_968, 0.005),
    "h_s.1.rnab": (594_648, 0.038),
    "h_s.1.conv": (1_106_560, 0.071),
    "g_s.0.rnab": (1_652_200, 0.436),
    "g_s.0.conv": (737_536, 0.189),
    "g_s.1.rnab": (3_178_848, 3.375),
    "g_s.1.conv": (442_560, 0.453),
    "g_s.2.rnab": (598_104, 2.570),
    "g_s.2.conv": (221_312, 0.906),
    "g_s.3.rnab": (267_664, 4.706),
    "g_s.3.conv": (9_603, 0.157),
}


@pytest.fixture(scope="module")
def full() -> TinyLIC:
    with torch.device("meta"):
        model = TinyLIC()
    return model.to("meta").eval()


def gmac(model: nn.Module, height: int, width: int) -> dict[str, float]:
    """Return G multiply-adds per module; "" is the total, "core" is attention without its linear layers."""
    found = {name: macs / 1e9 for name, macs in macs_by_module(model, height, width).items()}
    attention = [name for name in found if name.endswith(".attention")]
    core = sum(found[name] - found[f"{name}.qkv"] - found[f"{name}.projection"] for name in attention)
    return {**found, "core": core}


def test_parameters(full):
    assert count(full) == 28_338_211
    parts = {name: count(getattr(full, name)) for name in ("g_a", "h_a", "h_s", "g_s", "entropy_bottleneck")}
    expected = {"g_a": 7_108_144, "h_a": 2_074_416, "h_s": 2_627_824, "g_s": 7_107_827, "entropy_bottleneck": 11_712}
    assert parts == expected
    assert {name: count(full.get_submodule(name)) for name in UNITS} == {name: n for name, (n, _) in UNITS.items()}


def test_parameters_of_the_context(full):
    context = full.context
    assert [count(net) for net in context.channel_context] == [408_864, 1_350_399, 2_371_304, 3_224_814]
    assert [count(net) for net in context.entropy_parameters] == [67_264, 278_944, 519_665, 339_726]
    masked = [[count(net) for net in nets] for nets in context.spatial_context]
    assert masked == [[10_416, 28_848, 28_848], [238_188], [541_008], []]


def test_multiplications(full):
    found = gmac(full, 256, 256)
    assert found[""] == pytest.approx(28.459, abs=5e-4)
    assert found["core"] == pytest.approx(1.472, abs=5e-4)
    assert {name: found[name] for name in UNITS} == pytest.approx({n: macs for n, (_, macs) in UNITS.items()}, abs=6e-4)
    parts = [inside(found, f"context.{part}") for part in ("channel_context", "entropy_parameters", "spatial_context")]
    assert parts == pytest.approx([1.883, 0.564, 0.217], abs=6e-4)


def test_multiplications_of_a_kodak_image(full):
    found = gmac(full, 512, 768)
    assert found[""] == pytest.approx(170.75, abs=5e-3)
    assert found["core"] == pytest.approx(8.83, abs=5e-3)
    assert found["g_a"] + found["h_a"] == pytest.approx(77.3, abs=0.05)
    assert found["h_s"] + found["context"] + found["g_s"] == pytest.approx(93.5, abs=0.05)


def test_latent_shapes(full):
    y = full.g_a(torch.empty(1, 3, 256, 256, device="meta"))
    z = full.h_a(y)
    assert (y.shape, z.shape, full.h_s(z).shape) == ((1, 320, 16, 16), (1, 192, 4, 4), (1, 640, 16, 16))


def test_drop_path_increases_once_per_side(full):
    def rates(*parts: nn.Module) -> list[float]:
        return [block.drop_rate for part in parts for unit in part for block in unit.rnab.blocks]

    ramp = pytest.approx([0.1 * i / 15 for i in range(16)])
    assert rates(full.g_a, full.h_a) == ramp
    assert rates(full.h_s, full.g_s) == ramp
    assert not any(rates(TinyLIC(**SMALL, drop_path=0).g_a))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"N": 48}, "N: expected a positive multiple of 32 .*, got 48; try 64"),
        ({"M": 100}, "M: expected a positive multiple of 16 .*, got 100; try 96"),
        ({"N": 0}, "N: .* try 32"),
        ({"drop_path": 1}, "drop_path: expected a rate"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        TinyLIC(**{**SMALL, **options})


# ---- the context model ----


def test_slices():
    assert slice_sizes(320) == [24, 69, 104, 123]
    assert slice_sizes(80) == [6, 17, 26, 31]


def test_taps():
    corners = [(r, c) for r in (-1, 1) for c in (-1, 1)]
    five = range(-2, 3)
    odd_sum = [(r, c) for r in five for c in five if (r + c) % 2]
    not_both_even = [(r, c) for r in five for c in five if r % 2 or c % 2]
    assert (len(odd_sum), len(not_both_even)) == (12, 16)

    def seen(net: nn.Module) -> list[tuple[int, int]]:
        reach = net.kernel_size[0] // 2
        return [(r - reach, c - reach) for r, c in net.taps.nonzero().tolist()]

    nets = [net for nets in MultistageContext(80).spatial_context for net in nets]
    assert [seen(net) for net in nets] == [corners, odd_sum, not_both_even, odd_sum, odd_sum]


class Recorder:
    """Pass that rounds y around the mean without coding and stores its arguments."""

    def __init__(self, y: Tensor) -> None:
        self.y = y
        self.passes: list[tuple[slice, Tensor, Tensor, Tensor]] = []

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        self.passes.append((channels, mask, scales, means))
        return torch.round(self.y[:, channels] - means) + means


def lively_context() -> MultistageContext:
    """Return a context model whose output depends clearly on all of its inputs."""
    context = MultistageContext(80).eval()
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.mul_(1.5)
    return context


# Nine passes: channels of the slice, and the parities (row, column) coded.
PASSES = [
    (6, {(0, 0)}),
    (6, {(1, 1)}),
    (6, {(0, 1)}),
    (6, {(1, 0)}),
    (17, {(0, 1), (1, 0)}),
    (17, {(0, 0), (1, 1)}),
    (26, {(0, 0), (1, 1)}),
    (26, {(0, 1), (1, 0)}),
    (31, {(0, 0), (0, 1), (1, 0), (1, 1)}),
]


@torch.no_grad()
def test_pass_depends_only_on_earlier_passes():
    context = lively_context()
    y, psi = 3 * torch.randn(1, 80, 8, 8), torch.randn(1, 160, 8, 8)

    def walk(y: Tensor) -> list[tuple[slice, Tensor, Tensor, Tensor]]:
        recorder = Recorder(y)
        context._passes(psi, recorder)
        return recorder.passes

    passes = walk(y)
    assert [
        (c.stop - c.start, {(r % 2, c % 2) for r, c in mask.nonzero().tolist()}) for c, mask, *_ in passes
    ] == PASSES
    for changed, (channels, mask, *_) in enumerate(passes):
        other = y.clone()
        row, column = mask.nonzero()[len(mask.nonzero()) // 2].tolist()
        other[:, channels, row, column] += 5
        differs = [
            any(not torch.equal(a[:, :, mask], b[:, :, mask]) for a, b in zip(before[2:], after[2:], strict=True))
            for before, after, mask in ((b, a, b[1]) for b, a in zip(passes, walk(other), strict=True))
        ]
        assert not any(differs[: changed + 1])
        assert all(differs[changed + 1 :])


@torch.no_grad()
def test_masked_taps_have_no_effect():
    context = lively_context()
    y, psi = 3 * torch.randn(1, 80, 8, 8), torch.randn(1, 160, 8, 8).double()
    before = context(y, psi)
    for net in (net for nets in context.spatial_context for net in nets):
        net.weight.masked_fill_(~net.taps, 1e3)
    for a, b in zip(before, context(y, psi), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_scales_come_first():
    context = MultistageContext(80).eval()
    for net in context.entropy_parameters:
        nn.init.zeros_(net[-1].weight)
        net[-1].bias.copy_(torch.arange(2.0).repeat_interleave(len(net[-1].bias) // 2) * 0.75 + 2)
    recorder = Recorder(torch.zeros(1, 80, 4, 4))
    context._passes(torch.randn(1, 160, 4, 4), recorder)
    for _, mask, scales, means in recorder.passes:
        assert bool((scales[:, :, mask] == 2).all())
        assert bool((means[:, :, mask] == 2.75).all())


def test_training_rounds_everywhere_except_in_the_likelihood(monkeypatch):
    monkeypatch.setattr("lic_train.entropy.passes.on_grid", lambda means: means)  # only evaluation has it
    context = lively_context().train()
    y, psi = (3 * torch.randn(1, 80, 4, 4)).requires_grad_(), torch.randn(1, 160, 4, 4)
    (y_hat, first), (again, second) = context(y, psi), context(y, psi)
    assert torch.equal(y_hat, again)
    assert not torch.equal(first, second)
    torch.testing.assert_close(y_hat, context.eval()(y, psi.double())[0])
    last = torch.autograd.grad(y_hat[:, -31:].sum(), y)[0]  # no slice follows the last one
    torch.testing.assert_close(last[:, -31:], torch.ones_like(last[:, -31:]))


# ---- the codec ----


def spread(context: MultistageContext) -> None:
    """Make the entropy parameters of an untrained network vary around scale 1 and mean 0."""
    for net in context.entropy_parameters:
        net[-1].weight.mul_(3)
        net[-1].bias.copy_(torch.arange(2.0).flip(0).repeat_interleave(len(net[-1].bias) // 2))


@torch.no_grad()
def small() -> TinyLIC:
    """Return a small network with varied latents and entropy parameters, ready to code."""
    torch.manual_seed(0)
    model = build({"_target_": "lic_train.models.tinylic.TinyLIC", **SMALL})
    model.g_a[3].conv.weight.mul_(2)
    spread(model.context)
    model.eval()
    model.update()
    return model


def picture(height: int, width: int) -> Tensor:
    """Return smooth colours and some noise, (1, 3, height, width), padded to multiples of 64 like the bitstream."""
    coarse = F.interpolate(torch.rand(1, 3, 6, 7), (height, width), mode="bicubic", align_corners=False)
    x = (coarse + 0.1 * torch.rand(1, 3, height, width)).clamp(0, 1)
    return F.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate")


PICTURES = {
    "97x131": lambda: picture(97, 131),
    "64x64": lambda: picture(64, 64),
    "black": lambda: torch.zeros(1, 3, 64, 128),
    "white": lambda: torch.ones(1, 3, 128, 64),
}


@torch.no_grad()
def assert_decoder_equals_the_evaluation(model: Codec, x: Tensor) -> None:
    """Assert bit equality, and a size that matches the likelihoods."""
    out, coded = model(x), model.compress(x)
    assert torch.equal(model.decompress(**coded)["x_hat"], out["x_hat"].clamp(0, 1))
    # Two checksums and last words; estimates for outliers of an untrained network (likelihood floor) are rough.
    outliers = sum(int((likelihoods <= 1.001e-9).sum()) for likelihoods in out["likelihoods"].values())
    size = 8 * sum(map(len, coded["strings"]))
    assert size == pytest.approx(float(bpp(out, x)) * x[0, 0].numel(), rel=0.02, abs=2 * 96 + 16 * outliers)


@pytest.mark.parametrize("name", PICTURES)
def test_decoder_equals_the_evaluation_bit_exactly(name):
    assert_decoder_equals_the_evaluation(small(), PICTURES[name]())


@torch.no_grad()
def test_any_number_of_threads_decodes():
    model = small()
    coded = model.compress(picture(128, 192))

    def decoded() -> Tensor:
        z_hat = model.entropy_bottleneck.decompress(coded["strings"][1], coded["shape"])
        return model.context.decompress(coded["strings"][0], model._psi(z_hat))

    y_hat = decoded()
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(decoded(), y_hat)
        assert torch.get_num_threads() == threads
