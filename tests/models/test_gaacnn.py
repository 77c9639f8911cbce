"""GAACNN: the numbers of its specification, its blocks compared with literal implementations, its bitstream."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from lic_train.complexity.count import multiply_adds
from lic_train.models.base import build
from lic_train.models.gaacnn import ACNN, GAACNN, AsymmetricConv, CoordinateAttention, Link, universal
from lic_train.recipes.losses import bpp, mse

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"M": 8, "N": 6, "widths": [6, 8]}
# Parameters and GMAC at 256x256, with three convolutions per asymmetric block and trainable mean shifts.
PARTS = {
    192: {
        "g_a": (24_046_642, 102.81),
        "h_a": (14_991_156, 0.96),
        "h_s": (16_319_090, 0.98),
        "p_net": (2_655_744, 0.68),
        "g_s": (27_332_917, 104.77),
    },
    320: {
        "g_a": (59_571_268, 165.73),
        "h_a": (41_372_992, 2.66),
        "h_s": (45_060_862, 2.72),
        "p_net": (7_375_360, 1.89),
        "g_s": (67_953_479, 170.69),
    },
}
CONTEXT = {192: (702_537, (0.17, 1.57, 0.33)), 320: (1_882_313, (0.47, 2.62, 0.55))}
# Tensors of this mode have shapes but no memory.
FAKE = FakeTensorMode()
TOTAL = {192: 86_053_590, 320: 223_221_778}


pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


def small(seed: int = 0, **options: object) -> GAACNN:
    """Return a small network with links of nonzero weight, ready to code."""
    torch.manual_seed(seed)
    model = build({"_target_": "lic_train.models.gaacnn.GAACNN", **SMALL, **options})
    with torch.no_grad():
        for link in (module for module in model.modules() if isinstance(module, Link)):
            link.beta.fill_(1.3)
            link.gamma.fill_(0.4)
        model.context.entropy_parameters[-1].bias[2::3] = 1.0  # scales suitable for an untrained latent
    model.eval()
    model.update()
    return model


def picture(height: int = 64, width: int = 64) -> torch.Tensor:
    """Return smooth colours with some noise, (1, 3, height, width)."""
    rows, columns = torch.linspace(0, 5, height)[:, None], torch.linspace(0, 7, width)
    waves = torch.stack([torch.sin(rows + k) * torch.cos(columns * (k + 1)) for k in range(3)])
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))
    return (0.5 + 0.3 * waves + 0.2 * (noise - 0.5))[None]


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gmac(module: torch.nn.Module, *shapes: tuple[int, ...]) -> float:
    return multiply_adds(module, *shapes)[""] / 1e9


@pytest.fixture(scope="module", params=[192, 320])
def full(request) -> GAACNN:
    """Network of the paper's width, without memory."""
    with FAKE:
        return GAACNN(M=request.param, mean_shift="trainable", reparameterize=False).eval()


def width_of(model: GAACNN) -> int:
    return model.g_a.skip.out_channels


def test_parameters(full) -> None:
    M = width_of(full)
    assert {name: count(getattr(full, name)) for name in PARTS[M]} == {name: n for name, (n, _) in PARTS[M].items()}
    assert count(full.context) == CONTEXT[M][0]
    assert sum(parameter.numel() for parameter in full.net_parameters()) == TOTAL[M]


@pytest.mark.parametrize("M", [192, 320])
def test_constant_mean_shifts_save_24_parameters(M) -> None:
    with FAKE:
        assert sum(parameter.numel() for parameter in GAACNN(M=M).net_parameters()) == TOTAL[M] - 24


def test_multiplications(full) -> None:
    M = width_of(full)
    shapes = {"g_a": (3, 256, 256), "h_a": (M, 16, 16), "h_s": (128, 4, 4), "p_net": (M, 16, 16), "g_s": (M, 16, 16)}
    with FAKE:
        for name, shape in shapes.items():
            assert gmac(getattr(full, name), (1, *shape)) == pytest.approx(PARTS[M][name][1], abs=0.0051), name
        context = full.context
        hyper = gmac(context.hyper, (1, 2 * M, 16, 16))
        # The specification counts all 11 depths of the kernel; only the 6 visible ones are computed.
        masked = gmac(context.context_prediction, (1, M, 16, 16)) * 11 / 6
        pointwise = gmac(context.entropy_parameters, (M, 25, 16, 16))
    assert (hyper, masked, pointwise) == pytest.approx(CONTEXT[M][1], abs=0.0051)


def test_folding_saves_two_fifths_of_the_blocks() -> None:
    with FAKE:
        plain, folded = (gmac(AsymmetricConv(64, fold), (1, 64, 32, 32)) for fold in (False, True))
    assert folded == pytest.approx(0.6 * plain)


def test_folded_block_equals_three_convolutions() -> None:
    torch.manual_seed(0)
    block, x = AsymmetricConv(12), torch.randn(2, 12, 9, 7)
    apart = block.column(x) + block.row(x) + block.square(x)
    torch.testing.assert_close(block(x), apart, rtol=0, atol=1e-5)
    weights = list(block.parameters())
    for a, b in zip(
        torch.autograd.grad(block(x).sum(), weights), torch.autograd.grad(apart.sum(), weights), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_folded_model_equals_the_unfolded_model() -> None:
    folded, plain = small(), small(reparameterize=False)
    plain.load_state_dict(folded.state_dict())
    y = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(folded.g_a(picture()), plain.g_a(picture()), rtol=0, atol=1e-5)
        torch.testing.assert_close(folded.g_s(y), plain.g_s(y), rtol=0, atol=1e-5)


def test_coordinate_attention_equals_loops_over_rows_and_columns() -> None:
    torch.manual_seed(0)
    block, x = CoordinateAttention(9).eval(), torch.randn(1, 9, 5, 3)
    assert block.reduce[0].out_channels == 8
    assert CoordinateAttention(320).reduce[0].out_channels == 10

    def factor(last: torch.nn.Conv2d, mean: torch.Tensor) -> torch.Tensor:
        t = block.reduce[1](block.reduce[0](mean.view(1, 9, 1, 1)))
        return last(t * F.relu6(t + 3) / 6).sigmoid().flatten()

    with torch.no_grad():
        out = block(x)[0]
        for r in range(5):
            for q in range(3):
                rows = factor(block.rows, x[0, :, r].mean(dim=1))
                columns = factor(block.columns, x[0, :, :, q].mean(dim=1))
                torch.testing.assert_close(out[:, r, q], x[0, :, r, q] * rows * columns)


def test_relu_alias_equals_an_in_place_relu(monkeypatch) -> None:
    aliased, raw = small(acnn_skip="relu_alias"), small()
    raw.load_state_dict(aliased.state_dict())
    with torch.no_grad():
        y, z = aliased.g_a(picture()), aliased.h_a(aliased.g_a(picture()))
        raw_y = raw.g_a(picture())
        out = aliased.g_s(y)

        def in_place(self: ACNN, x: torch.Tensor) -> torch.Tensor:
            t1 = self.blocks[0](x.relu_())
            t2 = self.blocks[1](F.relu(t1))
            return x + t1 + t2 + self.blocks[2](F.relu(t2))

        monkeypatch.setattr(ACNN, "forward", in_place)
        literal_y = raw.g_a(picture())
        literal_z = raw.h_a(literal_y)  # also rectifies y
        literal_out = raw.g_s(literal_y)
    torch.testing.assert_close(y, literal_y)
    torch.testing.assert_close(z, literal_z)
    torch.testing.assert_close(out, literal_out)
    assert (y >= 0).all()
    assert (raw_y < 0).any()


def test_links_are_initially_inactive() -> None:
    assert torch.equal(Link()(torch.arange(3.0), torch.ones(3)), torch.arange(3.0))
    assert sum(isinstance(module, Link) for module in small().modules()) == 9


def test_universal_quantiser() -> None:
    torch.manual_seed(0)
    values = torch.randn(2000, requires_grad=True)
    assert torch.equal(universal(values, 0.0), values.round())
    errors = (universal(values, 1.0) - values).abs().detach()
    assert errors.max() <= 0.5 + 1e-6
    assert errors.mean() == pytest.approx(0.25, abs=0.02)  # uniform for every value
    assert torch.equal(torch.autograd.grad(universal(values, 1.0).sum(), values)[0], torch.ones_like(values))


def assert_round_trip(model: GAACNN, x: torch.Tensor) -> dict:
    with torch.no_grad():
        out = model(x)
        coded = model.compress(x)
        decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
    torch.testing.assert_close(decoded, out["x_hat"].clamp(0, 1), rtol=0, atol=1e-5)
    return {**coded, "bits": bpp(out, x).item() * x.shape[2] * x.shape[3]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"acnn_skip": "relu_alias", "adjacency": "rownorm", "scale_param": "softplus"},
        {"stem": "figure", "hyper_order": "figure", "adjacency": "full", "reparameterize": False},
    ],
)
def test_round_trip(options) -> None:
    x = F.pad(picture(97, 131), (0, 61, 0, 31), mode="replicate")
    coded = assert_round_trip(small(**options), x)
    assert 8 * sum(map(len, coded["strings"])) == pytest.approx(coded["bits"] + 128, rel=0.02)


def test_memory_format_does_not_affect_the_bitstream() -> None:
    with torch.no_grad():
        coded = small().to(memory_format=torch.channels_last).compress(picture())
        decoded = small().decompress(coded["strings"], coded["shape"])["x_hat"]
        expected = small()(picture())["x_hat"].clamp(0, 1)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)


def test_coding_in_training_mode_raises() -> None:
    with pytest.raises(AssertionError, match="eval"):
        small().train().compress(picture())


def test_every_parameter_receives_a_gradient_with_the_other_options() -> None:
    model, x = small(mean_shift="trainable", reparameterize=False).train(), picture()
    model.use_quantizer("noise")
    out = model(x)
    (bpp(out, x) + 650 * mse(out, x)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["entropy_bottleneck.quantiles"]


@pytest.mark.parametrize("option", ["acnn_skip", "stem", "hyper_order", "adjacency", "mean_shift", "scale_param"])
def test_unknown_options_raise(option) -> None:
    with pytest.raises(ValueError, match=f"{option}: expected .* or .*, got 'wrong'"):
        GAACNN(**SMALL, **{option: "wrong"})
