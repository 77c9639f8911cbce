"""Entropy models and coder, compared with CompressAI's formulas and slow references."""

from __future__ import annotations

import math

import compressai.entropy_models
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lic_train.entropy.autoregressive import CausalConv2d, SerialContext
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.coder import SymbolDecoder, SymbolEncoder, Table
from lic_train.entropy.gaussian import GaussianConditional, gaussian_tables, scale_table
from lic_train.entropy.quantize import on_grid
from lic_train.errors import BitstreamError


def peaked_table(minimum: int, size: int) -> Table:
    pmf = np.exp(-0.5 * ((np.arange(size) - size / 2) / (size / 6 + 0.3)) ** 2)
    return Table.from_pmf(pmf / pmf.sum() * 0.999, minimum)


TABLES = [peaked_table(-5, 11), peaked_table(0, 1), peaked_table(-300, 601)]


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
def test_symbols_round_trip_with_escapes_on_both_sides(count):
    rng = np.random.default_rng(count)
    symbols = (rng.standard_cauchy(count) * 40).clip(-(2**24), 2**24).astype(np.int32)
    symbols[:2] = [2**24, -(2**24)][:count]
    indexes = rng.integers(0, 3, count)
    encoder = SymbolEncoder()
    encoder.encode(symbols[: count // 2], indexes[: count // 2], TABLES)
    encoder.encode(symbols[count // 2 :], indexes[count // 2 :], TABLES)
    decoder = SymbolDecoder(encoder.finish())
    first = decoder.decode(indexes[: count // 2], TABLES)
    second = decoder.decode(indexes[count // 2 :], TABLES)
    decoder.finish()
    np.testing.assert_array_equal(np.concatenate([first, second]), symbols)


def test_string_length_equals_the_information():
    rng = np.random.default_rng(0)
    scale = 3.0
    table = gaussian_tables()[int(np.abs(scale_table() - scale).argmin())]
    symbols = np.round(rng.normal(0, scale, 100_000)).astype(np.int32)
    encoder = SymbolEncoder()
    encoder.encode(symbols, np.zeros(len(symbols), dtype=int), [table])
    probability = np.diff([0.5 * math.erf((k - 0.5) / scale / 2**0.5) for k in range(21)])
    ideal = -np.log2(probability[np.abs(symbols)]).sum() / 8
    assert len(encoder.finish()) == pytest.approx(ideal, rel=2e-3)


def test_damaged_strings_raise():
    rng = np.random.default_rng(1)
    symbols = rng.integers(-5, 6, 400).astype(np.int32)
    indexes = np.zeros(400, dtype=int)
    encoder = SymbolEncoder()
    encoder.encode(symbols, indexes, TABLES)
    string = encoder.finish()

    def decode(data: bytes) -> None:
        decoder = SymbolDecoder(data)
        decoder.decode(indexes, TABLES)
        decoder.finish()

    decode(string)
    for position in range(len(string)):
        broken = bytearray(string)
        broken[position] ^= 0x55
        try:
            decode(bytes(broken))
        except BitstreamError:
            continue
        # Bits after the last symbol may have no effect; the checksum then confirms that the symbols are correct.
        assert position >= len(string) - 8
    for length in range(len(string)):
        with pytest.raises(BitstreamError):
            decode(string[:length])


def reference_bottleneck(channels: int) -> tuple[EntropyBottleneck, compressai.entropy_models.EntropyBottleneck]:
    torch.manual_seed(3)
    theirs = compressai.entropy_models.EntropyBottleneck(channels)
    with torch.no_grad():
        for parameter in [*theirs.matrices, *theirs.biases, *theirs.factors]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = EntropyBottleneck(channels)
    weights = {key: value for key, value in theirs.state_dict().items() if key in ours.state_dict()}
    ours.load_state_dict(weights)
    return ours, theirs


def test_bottleneck_equals_compressais():
    ours, theirs = reference_bottleneck(6)
    assert sum(p.numel() for p in ours.parameters()) == 61 * 6
    z = 4 * torch.randn(2, 6, 5, 7)
    torch.manual_seed(0)
    z_hat, likelihoods = ours.train()(z)
    torch.manual_seed(0)
    expected_z_hat, expected = theirs.train()(z)
    torch.testing.assert_close(z_hat, expected_z_hat, rtol=0, atol=0)
    # CompressAI subtracts sigmoids near 1 and so loses the digits below float32's step of 6e-8.
    torch.testing.assert_close(likelihoods, expected, rtol=1e-5, atol=3e-7)
    torch.testing.assert_close(ours.loss(), theirs.loss())


def test_centre_of_a_symmetric_density_has_its_probability():
    bottleneck = EntropyBottleneck(2).eval()
    for biases in bottleneck.biases:
        torch.nn.init.zeros_(biases)
    bottleneck.update()
    likelihoods = bottleneck.likelihood(torch.tensor([-1e-3, 0.0, 1e-3]).expand(1, 2, 1, 3))
    torch.testing.assert_close(likelihoods[..., 1], likelihoods[..., 0], rtol=1e-3, atol=0)
    # logits(z) = z / 10 at the initial scale of 10, and the slope of the sigmoid is 1/4.
    torch.testing.assert_close(likelihoods, torch.full_like(likelihoods, 0.025), rtol=1e-3, atol=0)
    z = torch.zeros(1, 2, 30, 30)
    assert len(bottleneck.compress(z)) * 8 == pytest.approx(-float(bottleneck.likelihood(z).log2().sum()), rel=0.02)


def test_bisection_finds_the_quantiles_of_compressai():
    ours, theirs = reference_bottleneck(6)
    ours.update()
    theirs.update(force=True, update_quantiles=True)
    torch.testing.assert_close(ours.quantiles, theirs.quantiles, rtol=2e-4, atol=2e-3)
    assert ours.loss().item() < 1e-2


def test_initialisation_equals_compressais():
    torch.manual_seed(5)
    ours = EntropyBottleneck(4)
    torch.manual_seed(5)
    theirs = compressai.entropy_models.EntropyBottleneck(4)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key], rtol=1e-6, atol=1e-6)


def test_gaussian_equals_compressais():
    torch.manual_seed(0)
    y, scales, means = 5 * torch.randn(2, 3, 4, 4), 4 * torch.rand(2, 3, 4, 4) - 0.5, torch.randn(2, 3, 4, 4)
    means = (256 * means).round() / 256
    ours, theirs = GaussianConditional().eval(), compressai.entropy_models.GaussianConditional(None).eval()
    for actual, expected in zip(ours(y, scales, means), theirs(y, scales, means), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-9)


def test_encoder_chooses_the_cheaper_of_two_symbols():
    torch.manual_seed(0)
    y = 4 * torch.randn(2000, dtype=torch.float64)
    scales, means = 0.2 + 3 * torch.rand(2000, dtype=torch.float64), on_grid(torch.randn(2000, dtype=torch.float64))

    def cost(k: int, y: float, scale: float, mean: float) -> float:
        upper, lower = (0.5 * math.erfc((abs(k) - side) / scale / 2**0.5) for side in (0.5, -0.5))
        return -math.log2(max(upper - lower, 1e-9)) + 20 * (y - mean - k) ** 2

    expected = []
    for element in zip(y.tolist(), scales.tolist(), means.tolist(), strict=True):
        nearest = round(element[0] - element[2])
        inner = nearest - (nearest > 0) + (nearest < 0)
        expected.append(min((nearest, inner), key=lambda k, element=element: cost(k, *element)))
    chosen = GaussianConditional(distortion_weight=20.0).eval().choose(y, scales, means)
    symbols = torch.round(chosen - means)
    assert symbols.tolist() == expected
    assert 0.02 < (symbols != torch.round(y - means)).double().mean() < 0.5
    assert GaussianConditional().eval().choose(y, scales, means) is y


def test_entropy_models_compute_in_float32_under_autocast():
    y = 3 * torch.randn(1, 3, 8, 8)
    gaussian, bottleneck = GaussianConditional().eval(), EntropyBottleneck(3).eval()
    plain = gaussian(y, y.abs(), y * 0.1), bottleneck(y)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gaussian(y, y.abs(), y * 0.1), bottleneck(y)
    for a, b in zip((*plain[0], *plain[1]), (*mixed[0], *mixed[1]), strict=True):
        assert b.dtype == a.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def serial_reference(context: SerialContext, y: torch.Tensor, psi: torch.Tensor) -> torch.Tensor:
    """Reference: position by position in raster order, with ordinary convolutions."""
    y_hat = torch.zeros_like(y)
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            phi = context.context_prediction(y_hat)
            _, means = context.entropy_parameters(torch.cat([psi, phi], dim=1)).chunk(2, dim=1)
            here = (..., row, column)
            mean = torch.round(256 * means[here]) / 256
            y_hat[here] = torch.round(y[here] - mean) + mean
    return y_hat


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 2), (6, 9)])
def test_wavefront_equals_raster_order(size):
    torch.manual_seed(0)
    context = SerialContext(6).eval()
    y, psi = 4 * torch.randn(2, 6, *size), torch.randn(2, 12, *size)
    with torch.no_grad():
        y_hat, likelihoods = context(y, psi.double())
        expected = serial_reference(context, y, psi)
        torch.testing.assert_close(y_hat, expected, rtol=1e-5, atol=1e-5)
        phi = context.context_prediction(expected)
        scales, means = context.entropy_parameters(torch.cat([psi, phi], dim=1)).chunk(2, dim=1)
        means = (256 * means).round() / 256
        torch.testing.assert_close(
            likelihoods, context.gaussian_conditional.likelihood(expected, scales, means), rtol=1e-3, atol=1e-6
        )


def test_wavefront_decodes_bit_identically():
    torch.manual_seed(0)
    context = SerialContext(6).eval()
    y, psi = 6 * torch.randn(1, 6, 8, 12), torch.randn(1, 12, 8, 12).double()
    with torch.no_grad():
        y_hat, _ = context(y, psi)
    torch.testing.assert_close(context.decompress(context.compress(y, psi), psi), y_hat, rtol=0, atol=0)


def test_decoder_with_other_parameters_raises():
    torch.manual_seed(0)
    context = SerialContext(6).eval()
    y, psi = 6 * torch.randn(1, 6, 8, 12), torch.randn(1, 12, 8, 12).double()
    string = context.compress(y, psi)
    with pytest.raises(BitstreamError, match="this machine"):
        context.decompress(string, 1.5 * psi)


def test_causal_convolution_has_twelve_taps():
    conv = CausalConv2d(1, 1)
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.bias.zero_()
    impulse = F.pad(torch.ones(1, 1, 1, 1), (4, 4, 4, 4))
    seen_from = conv(impulse)[0, 0].nonzero() - 4
    # A position depends on the impulse if it is earlier in raster order, at most two rows and columns away.
    expected = {(r, c) for r in range(3) for c in range(-2, 3) if r > 0 or c > 0}
    assert {tuple(offset) for offset in seen_from.tolist()} == expected


def test_nan_raises():
    with pytest.raises(BitstreamError, match="not finite"):
        GaussianConditional().compress(torch.tensor([[[[math.nan]]]]), torch.ones(1, 1, 1, 1))
