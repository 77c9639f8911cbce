"""IB-LIC: counts of its specification per module, switches, identities, bitstream and schedule."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lic_train.complexity.count import macs_by_module
from lic_train.complexity.options import read_options
from lic_train.complexity.variants import count_rows
from lic_train.layers.error_compensation import ErrorCompensation, LaplaceNoise, rounding_error_series, splitmix64
from lic_train.layers.interleaving import Enhancement, FeatureExtraction, FrameConv, deinterleave, interleave
from lic_train.models.base import build
from lic_train.models.iblic import IBLIC
from lic_train.models.tinylic import TinyLIC
from lic_train.recipes.losses import bpp, mse
from tests.models.test_tinylic import PICTURES, assert_decoder_equals_the_evaluation, picture, spread

SMALL = {"N": 32, "M": 80}
OFF = {"fexm": False, "frm": False, "fenm": False, "crm": False, "qecm": "off"}


pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


# ---- size and cost: the numbers of the specification, at full width and without memory ----


def full(**options: object) -> IBLIC:
    with torch.device("meta"):
        model = IBLIC(**options)
    return model.to("meta").eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gmac(model: IBLIC) -> dict[str, float]:
    """Return G multiply-adds of a 768x512 picture per module; key "" is the total."""
    return {name: macs / 1e9 for name, macs in macs_by_module(model, 512, 768).items()}


# The paper's table, cumulative by module: parameters, true GMAC at 768x512, GMAC of a profiler like thop, printed GMAC.
CUMULATIVE = [
    (28_338_211, 170.75, 193.4, 192),
    (28_712_966, 213.51, 234.1, 236),
    (28_866_646, 288.14, 308.9, None),
    (31_752_790, 328.14, 349.0, 347),
    (31_833_158, 335.99, 356.8, 355),
    (32_391_238, 336.63, 357.5, 356),
]


def test_counts_module_by_module():
    _, options = read_options(["model=iblic", "variants=iblic_modules"])
    rows = list(count_rows(options.model, options.variants))
    found = [(row.parameters, round(row.macs / 1e9, 2), round(row.profiler_macs / 1e9, 1)) for row in rows]
    assert found == [row[:3] for row in CUMULATIVE]
    assert [row.paper_macs and row.paper_macs / 1e9 for row in rows] == [row[3] for row in CUMULATIVE]
    assert {name: rows[0].model[name] for name in OFF} == OFF
    assert rows[-1].model == options.model  # with every module, the shipped configuration


def test_parts():
    model = full()
    found = gmac(model)
    extraction, refinement, _ = model.extract
    assert (count(refinement), count(model.enhance)) == (153_680, 80_368)
    assert [count(part) for part in (extraction.parts[0], extraction.parts[2], extraction.whole)] == [896, 9_248, 2_432]
    assert [count(part) for part in model.assemble.parts] == [9_248, 32, 867]
    assert (count(model.assemble.whole), count(model.g_a[0].conv), count(model.g_s[3].conv)) == (
        2_403,
        184_448,
        184_480,
    )
    assert [count(unit.refine) for unit in model.g_a] == [107_264, 240_768, 427_520, 667_520]
    assert [count(unit.refine) for unit in model.g_s] == [667_520, 427_520, 240_768, 107_264]
    parts = {
        "extract.0": 4.20,
        "assemble": 4.20,
        "g_a.0.conv": 18.12,
        "g_s.3.conv": 18.12,
        "extract.1": 74.64,
        "extract.1.head": 27.18,
        "extract.1.body": 23.40,
        "extract.1.spatial_gate": 0.14,
        "g_a.0.refine": 10.47,
        "g_a.1.refine": 5.89,
        "g_a.2.refine": 2.62,
        "g_a.3.refine": 1.02,
        "enhance": 7.85,
    }
    assert {name: found[name] for name in parts} == pytest.approx(parts, abs=0.0051)
    attention = found["extract.1.trunk"] + found["extract.1.mask"]
    compensation = sum(found[name] for name in ("compensate_y", "restore_y", "compensate_z", "restore_z"))
    assert (attention, compensation) == pytest.approx((23.91, 0.643), abs=0.0051)


@pytest.mark.parametrize(
    ("patch", "parameters", "macs"), [(1, 32_157_574, 379.81), (4, 33_324_358, 256.87), (8, 37_053_766, 196.79)]
)
def test_other_patches(patch, parameters, macs):
    model = full(patch=patch)
    assert count(model) == parameters
    assert gmac(model)[""] == pytest.approx(macs, abs=0.0051)


def test_tiny():
    model = full(size="tiny")
    extraction, refinement, _ = model.extract
    parts = (extraction, refinement, model.enhance, model.assemble, model.g_a[0].conv, model.g_s[3].conv)
    assert [count(part) for part in parts] == [448 + 1_216, 6_928 + 2_032, 12_080, 435 + 1_203, 10_368, 10_320]
    assert sum(count(unit.refine) for unit in (*model.g_a, *model.g_s)) == 444_160
    assert count(model) == 29_366_150
    assert gmac(model)[""] == pytest.approx(183.80, abs=0.0051)
    assert count(full(size="tiny", qecm="off")) == 28_808_070


def test_levels_and_fixed_compensation():
    unit = 8_032
    assert [count(full(levels=levels)) - 32_391_238 for levels in (1, 3)] == [-3 * unit, 3 * unit]
    assert count(full(qecm="fixed")) == 31_833_158


def test_latent_shapes():
    for patch in (1, 2, 4, 8):
        model = full(patch=patch)
        refined = model.extract(torch.empty(1, 3, 256, 256, device="meta"))
        assert refined.shape == (1, 32 * (patch**2 + 1), 256 // patch, 256 // patch)
        assert model.g_a(refined).shape == (1, 320, 16, 16)
    assert model.h_a(model.g_a(refined)).shape == (1, 192, 4, 4)


# ---- switches ----


@torch.no_grad()
def test_all_switches_off_is_tinylic():
    plain, model = TinyLIC(**SMALL), IBLIC(**SMALL, **OFF)
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    model.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 128)
    for network in (plain, model):
        network.eval()
        network.update()
    ours, theirs = model(x), plain(x)
    assert set(ours) == set(theirs) == {"x_hat", "likelihoods"}
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    assert torch.equal(ours["likelihoods"]["y"], theirs["likelihoods"]["y"])
    assert model.compress(x) == plain.compress(x)
    for network in (plain, model):
        network.train()
    torch.manual_seed(1)
    ours = model(x)["likelihoods"]["y"]
    torch.manual_seed(1)
    assert torch.equal(ours, plain(x)["likelihoods"]["y"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "small"}, "size: expected full, tiny, got 'small'"),
        ({"patch": 3}, "patch: expected 1, 2, 4, 8, got 3"),
        ({"levels": 4}, "levels: expected 1, 2, 3, got 4"),
        ({"qecm": "yes"}, "qecm: expected off, fixed, learned, got 'yes'"),
        ({"fexm": False}, "fexm: expected true"),
        ({"fexm": False, "frm": False}, "fexm: expected true"),
        ({"size": "tiny", "patch": 1}, "patch: expected 2, 4 or 8 for size=tiny"),
        ({"noise": -0.1}, "noise: expected"),
        ({"noise_z": -0.1}, "noise_z: expected"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        IBLIC(**SMALL, **options)


def test_off_in_yaml_switches_compensation_off():
    # YAML 1.1 parses a bare off as false.
    assert count(IBLIC(**SMALL, qecm=False)) == count(IBLIC(**SMALL, qecm="off"))


# ---- ends ----


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_interleaving(patch):
    x = torch.rand(2, 3, 16, 24)
    frames = interleave(x, patch)
    assert frames.shape == (2, patch**2, 3, 16 // patch, 24 // patch)
    for a in range(patch):
        for b in range(patch):
            assert torch.equal(frames[:, patch * a + b], x[:, :, a::patch, b::patch])
    assert torch.equal(deinterleave(frames, patch), x)


def test_frames_are_shared_and_channel_major():
    model = IBLIC(**SMALL, frm=False)
    extraction, x = model.extract[0], torch.rand(1, 3, 16, 24)
    refined = model.extract(x).unflatten(1, (8, 5))
    for t in range(4):
        torch.testing.assert_close(refined[:, :, t], extraction.parts(interleave(x, 2)[:, t]))
    torch.testing.assert_close(refined[:, :, 4], extraction.whole(x))
    # The decoder uses the same layout: each frame at its own place, the last one over the whole image.
    parts = torch.stack([model.assemble.parts(refined[:, :, t]) for t in range(4)], dim=1)
    expected = deinterleave(parts, 2) + model.assemble.whole(refined[:, :, 4])
    torch.testing.assert_close(model.assemble(refined.flatten(1, 2)), expected)


@pytest.mark.parametrize("kernel", [3, 7])
def test_frame_convolution_equals_a_3d_convolution(kernel):
    conv, x = FrameConv(4, 6, kernel, num_frames=5), torch.randn(2, 4, 5, 9, 8)
    weight = conv.weight.unflatten(1, (3, 4)).transpose(1, 2)
    expected = F.conv3d(x, weight, conv.bias, padding=(1, kernel // 2, kernel // 2))
    frames = x.transpose(1, 2)
    torch.testing.assert_close(conv(frames.flatten(0, 1)).unflatten(0, (2, 5)), expected.transpose(1, 2))


def test_extraction_of_other_patches_has_frames_of_equal_size():
    for patch in (1, 2, 4, 8):
        frames = FeatureExtraction(8, patch, 2)(torch.rand(1, 3, 16, 24))
        assert frames.shape == (1, patch**2 + 1, 8, 16 // patch, 24 // patch)


@torch.no_grad()
def test_enhancement_and_compensation_are_initially_identities():
    enhance, x = Enhancement(8, 5, 2), torch.randn(1, 40, 6, 7)
    assert torch.equal(enhance(x), x)
    nn.init.normal_(enhance.expand.weight)
    assert not torch.allclose(enhance(x), x)
    compensate, y = ErrorCompensation("learned", 8, 1), 3 * torch.randn(1, 8, 6, 7)
    assert torch.equal(compensate(y), y)
    nn.init.normal_(compensate.conv.weight)
    change = (compensate(y) - y).abs().max().item()
    assert change == pytest.approx(0.5, abs=1e-2)  # the largest quantisation error, for weights of any size


@torch.no_grad()
def test_initial_scale_equals_that_of_tinylic():
    x = torch.rand(1, 3, 64, 64)

    def rms(model: nn.Module) -> tuple[float, float]:
        y = model.g_a(model.extract(x) if isinstance(model, IBLIC) else x)
        return y.square().mean().sqrt().item(), model(x)["x_hat"].square().mean().sqrt().item()

    (y, x_hat), (plain_y, plain_x_hat) = (rms(model(**SMALL).eval()) for model in (IBLIC, TinyLIC))
    assert 0.5 < y / plain_y < 3
    assert 0.1 < x_hat / plain_x_hat < 3


# ---- quantisation errors ----


def test_series_is_the_sawtooth_truncated_after_five_terms():
    y = torch.linspace(-3.5, 3.5, 7001, dtype=torch.float64)
    plain = sum((-1) ** (k + 1) * torch.sin(2 * math.pi * k * y) / (math.pi * k) for k in range(1, 6))
    torch.testing.assert_close(rounding_error_series(y), plain, rtol=0, atol=1e-12)
    error = rounding_error_series(y) - (y - y.round())
    assert error.square().mean().sqrt().item() == pytest.approx(0.096, abs=1e-3)
    period = y[3000:4001]
    peak = rounding_error_series(period).argmax()
    assert (period[peak].item(), rounding_error_series(period[peak]).item()) == pytest.approx((0.417, 0.504), abs=1e-3)
    shifted = torch.tensor([0.3, 1000.3, -4095.7], dtype=torch.float32)
    torch.testing.assert_close(
        rounding_error_series(shifted), rounding_error_series(torch.full((3,), 0.3)), atol=2e-3, rtol=0
    )


def test_series_has_its_slope():
    y = torch.tensor([0.0, 2.0, -3.0, 0.5], requires_grad=True)
    fixed = ErrorCompensation("fixed", 1, -1)(y)
    slope = torch.autograd.grad(fixed.sum(), y)[0]
    torch.testing.assert_close(slope, torch.tensor([-1.0, -1, -1, 11]), rtol=0, atol=1e-4)


def test_fixed_compensation_changes_no_symbol():
    y = 20 * torch.rand(1, 4, 50, 50) - 10
    compensated = ErrorCompensation("fixed", 4, -1)(y)
    assert not torch.equal(compensated, y)
    assert torch.equal(compensated.round(), y.round())
    integers = y.round()
    torch.testing.assert_close(ErrorCompensation("fixed", 4, 1)(integers), integers)


@torch.no_grad()
def test_series_of_z_hat_is_constant_per_channel():
    model = small(qecm="fixed")
    z_hat = model.entropy_bottleneck.quantize(4 * torch.randn(1, 48, 3, 2))
    seen = []
    hook = model.restore_z.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    model._psi(z_hat)
    hook.remove()
    (inputs, restored) = seen[0]
    torch.testing.assert_close(restored, z_hat + rounding_error_series(z_hat), rtol=0, atol=1e-5)
    assert torch.equal(inputs[1], inputs[1][:, :, :1, :1].expand_as(inputs[1]))


def test_splitmix64_equals_unbounded_integer_arithmetic():
    def reference(index: int, seed: int) -> int:
        mask = 2**64 - 1
        state = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        return state ^ (state >> 31)

    assert reference(0, 0) == 0xE220A8397B1DCDAF  # first output of the published generator
    for seed in (0, 1, 2**40 + 7):
        mixed = splitmix64(torch.arange(1000), seed).tolist()
        assert [value % 2**64 for value in mixed] == [reference(index, seed) for index in range(1000)]


def test_noise_is_laplacian_and_clipped():
    y_hat = torch.zeros(2, 80, 40, 40)
    added = LaplaceNoise(0.05).eval()(y_hat)
    assert torch.equal(added[0], added[1])
    assert added.mean().item() == pytest.approx(0, abs=1e-3)
    assert added.abs().mean().item() == pytest.approx(0.05, rel=0.02)
    assert (added.abs() > 0.05 * math.log(10)).float().mean().item() == pytest.approx(0.1, rel=0.05)
    assert LaplaceNoise(1.0).eval()(y_hat).abs().max() == 0.5
    assert torch.equal(LaplaceNoise(1.0).train()(y_hat), y_hat)


# ---- the codec ----


@torch.no_grad()
def small(**options: object) -> IBLIC:
    """Return a small network with varied latents, entropy parameters and corrections, ready to code."""
    torch.manual_seed(0)
    model = build({"_target_": "lic_train.models.iblic.IBLIC", **SMALL, **options})
    for name, parameter in model.named_parameters():
        if name.startswith(("compensate", "restore", "enhance.expand")):
            parameter.add_(0.02 * torch.randn_like(parameter))
    spread(model.context)
    model.eval()
    model.update()
    return model


CASES = [
    *(({}, name) for name in PICTURES),
    ({"size": "tiny"}, "97x131"),
    ({"patch": 1, "levels": 1}, "64x64"),
    ({"patch": 4, "qecm": "fixed", "levels": 3}, "64x64"),
    ({"patch": 8, "qecm": "off", "fenm": False}, "64x64"),
    ({"noise": 0.05}, "64x64"),
    ({"noise_z": 0.05}, "64x64"),
    ({"noise_z": 0.05, "qecm": "fixed"}, "64x64"),
]


@pytest.mark.parametrize(("options", "name"), CASES)
def test_decoder_equals_the_evaluation_bit_exactly(options, name):
    assert_decoder_equals_the_evaluation(small(**options), PICTURES[name]())


@torch.no_grad()
def test_noise_does_not_affect_the_file():
    x = picture(64, 64)
    plain, noisy = small(), small(noise=0.05)
    coded = noisy.compress(x)
    assert plain.compress(x) == coded
    assert torch.equal(noisy.decompress(**coded)["x_hat"], noisy.decompress(**coded)["x_hat"])
    assert not torch.equal(plain(x)["x_hat"], noisy(x)["x_hat"])


@torch.no_grad()
def test_noise_on_z_changes_the_prediction_of_y_only():
    x = picture(64, 64)
    plain, noisy = small(), small(noise_z=0.05)
    (y, z), (noisy_y, noisy_z) = plain.compress(x)["strings"], noisy.compress(x)["strings"]
    assert z == noisy_z
    assert y != noisy_y
    assert torch.equal(plain.train()._psi(torch.ones(1, 48, 1, 1)), noisy.train()._psi(torch.ones(1, 48, 1, 1)))


@torch.no_grad()
def test_features_are_those_of_the_loss():
    model, x = small(), picture(64, 128)
    features = model(x)["features"]
    assert torch.equal(features["refined"], model.extract(x))
    assert features["enhanced"].shape == features["refined"].shape == (1, 8 * 5, 32, 64)
    assert "features" not in small(fenm=False)(x)


def test_every_parameter_receives_a_gradient():
    model, x = small(drop_path=0).train(), picture(128, 128)
    out = model(x)
    (bpp(out, x) + 435.7 * mse(out, x)).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The two hidden values of the gate may both be positive; its negative slope then has no gradient.
    assert silent <= {"entropy_bottleneck.quantiles", "extract.1.channel_gate.1.weight"}


def test_bfloat16_autocast():
    model, x = IBLIC(**SMALL, drop_path=0).train(), picture(64, 64)
    torch.manual_seed(1)
    plain = model(x)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out["likelihoods"]["y"].dtype == torch.float32
    assert bpp(out, x).item() == pytest.approx(bpp(plain, x).item(), rel=0.05)
    bpp(out, x).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
