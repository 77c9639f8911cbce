"""The Gaussian mixture, compared with slow float64 references: likelihood, tables, code length, and invalid inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lic_train.entropy.coder import MAX_SYMBOL
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.mixture import GaussianMixture
from lic_train.entropy.mixture_coder import MixtureDecoder, MixtureEncoder
from lic_train.entropy.mixture_tables import CHUNK_CELLS, TOTAL, Mixtures, quantize_mixtures
from lic_train.errors import BitstreamError


def draw(n, K=3, typical=0.5, seed=0):
    """Return flat mixtures (n, K) like those of a trained head and samples y (n,); scales span two decades."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    scales = typical * torch.exp(normal(n, 1) + 0.5 * normal(n, K))
    means = 1.5 * scales * normal(n, K)
    weights = torch.softmax(1.5 * normal(n, K), dim=1)
    chosen = torch.multinomial(weights, 1, generator=generator)
    y = means.gather(1, chosen) + scales.clamp(min=0.11).gather(1, chosen) * normal(n, 1)
    return y[:, 0], weights, means, scales


def tail(x):
    """Return the upper tail of the standard normal."""
    return 0.5 * math.erfc(x / math.sqrt(2))


def interval(low, high, mean, scale):
    """Return the mass of N(mean, scale) in [low, high], computed on the side where it is small."""
    a, b = (low - mean) / scale, (high - mean) / scale
    return tail(a) - tail(b) if a + b > 0 else tail(-b) - tail(-a)


def reference(value, weights, means, scales):
    """Return the mixture's mass around any value, as a plain float."""
    parts = zip(weights, means, scales, strict=True)
    return sum(w * interval(value - 0.5, value + 0.5, m, max(s, 0.11)) for w, m, s in parts)


@pytest.fixture
def mixture():
    return GaussianMixture().eval()


# ---- likelihood ----


@pytest.mark.parametrize("K", [1, 2, 3, 4])
def test_likelihood_equals_the_reference(mixture, K):
    y, weights, means, scales = draw(300, K, seed=K)
    expected = [
        max(reference(*row), 1e-9)
        for row in zip(y.tolist(), weights.tolist(), means.tolist(), scales.tolist(), strict=True)
    ]
    likelihood = mixture.likelihood(y, weights, means, scales)
    np.testing.assert_allclose(likelihood.numpy(), expected, rtol=2e-4, atol=3e-7)


def test_likelihood_sums_to_one_over_the_integers(mixture):
    generator = torch.Generator().manual_seed(0)
    means = 100 * torch.rand(50, 3, generator=generator) - 50
    scales = 20 * torch.rand(50, 3, generator=generator)
    weights = torch.rand(50, 3, generator=generator).softmax(dim=1)
    values = torch.arange(-200.0, 201).repeat(50, 1)
    total = mixture.likelihood(values, *(p[:, :, None].expand(-1, -1, 401) for p in (weights, means, scales))).sum(
        dim=1
    )
    torch.testing.assert_close(total, torch.ones(50), rtol=0, atol=1e-4)


def test_one_component_equals_the_gaussian(mixture):
    y, _, means, scales = draw(1000, K=1)
    single = GaussianConditional().likelihood(y, scales[:, 0], means[:, 0])
    torch.testing.assert_close(mixture.likelihood(y, torch.ones(1000, 1), means, scales), single, rtol=0, atol=1e-6)


def test_bounds_of_scale_and_likelihood(mixture):
    ones = torch.ones(2, 1)
    low = mixture.likelihood(torch.tensor([0.6, 1000.0]), ones, torch.zeros(2, 1), torch.tensor([[1e-6], [-3.0]]))
    assert low[0].item() == pytest.approx(reference(0.6, [1], [0], [0.11]), rel=1e-4)
    assert low[1].item() == pytest.approx(1e-9)


def test_gradients_pass_through_the_bounds():
    mixture = GaussianMixture()
    y = torch.tensor([3.0, 500.0])
    weights = torch.full((2, 2), 0.5, requires_grad=True)
    means = torch.tensor([[0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    scales = torch.tensor([[0.01, 0.01], [1.0, 1.0]], requires_grad=True)
    (-mixture.likelihood(y, weights, means, scales).log().sum()).backward()
    assert bool((scales.grad[0] <= 0).all())
    assert bool((scales.grad[0] < 0).any()), "a scale below its bound must be able to increase"
    assert all(bool(p.grad.isfinite().all()) for p in (weights, means, scales))


def test_training_adds_noise_and_evaluation_rounds(mixture):
    y, *params = draw(2000)
    y_hat, likelihood = mixture(y, *params)
    assert torch.equal(y_hat, y.round())
    assert torch.equal(likelihood, mixture.likelihood(y.round(), *params))
    noisy, _ = mixture.train()(y, *params)
    assert float((noisy - y).abs().max()) <= 0.5
    assert float((noisy - y).std()) == pytest.approx(math.sqrt(1 / 12), rel=0.05)


def test_maps_and_lists_have_the_same_result(mixture):
    y, *params = draw(2 * 5 * 3 * 4)

    def as_maps(values):
        return values.view(2, 5, 3, 4, -1).movedim(-1, 1)

    maps = [as_maps(p) for p in params]
    likelihood = mixture.likelihood(y.view(2, 5, 3, 4), *maps)
    torch.testing.assert_close(likelihood.flatten(), mixture.likelihood(y, *params), rtol=0, atol=0)
    assert mixture.compress(y.view(2, 5, 3, 4), *maps) == mixture.compress(y, *params)
    assert torch.equal(mixture.decompress(mixture.compress(y, *params), *maps), y.round().view(2, 5, 3, 4))


def test_float32_under_autocast(mixture):
    y, *params = draw(100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixture.likelihood(y, *params)
    assert torch.equal(inside, mixture.likelihood(y, *params))


# ---- tables ----


def nearest(values, steps):
    """Round without a record of close calls."""
    return np.rint(values * steps).astype(np.int64)


def grid(weights, means, scales):
    """Return the rounded parameters of one mixture according to the module's documentation."""
    edges = [round(2**12 * sum(weights[: k + 1]) / sum(weights)) for k in range(len(weights))]
    rounded_weights = [(b - a) / 2**12 for a, b in zip([0, *edges[:-1]], edges, strict=True)]
    rounded_scales = [0.11 * 2 ** (round(16 * math.log2(s / 0.11)) / 16) for s in scales]
    steps = [2.0 ** -max(math.ceil(math.log2(16 / s)), 0) for s in rounded_scales]
    rounded_means = [step * round((m + 0.5) / step) - 0.5 for m, step in zip(means, steps, strict=True)]
    return rounded_weights, rounded_means, rounded_scales


def test_tables_match_the_rounded_parameters():
    _, weights, means, scales = draw(60, typical=2.0)
    scales = scales.clamp(0.11, 200)
    rows = quantize_mixtures(nearest, *(p.T.double().numpy() for p in (weights, means, scales)))
    for positions, chunk in rows.chunks():
        for position, first, row in zip(positions, chunk.first, chunk.rows(), strict=True):
            params = grid(*(p[position].tolist() for p in (weights, means, scales)))
            expected = [
                sum(w * interval(v - 0.5, v + 0.5, m, s) for w, m, s in zip(*params, strict=True))
                for v in range(first, first + len(row) - 1)
            ]
            # Cumulatives are rounded to 2^-24 below 1 - 2^-17, once in the table of the normal and once in the sum.
            np.testing.assert_allclose(row[:-1] / TOTAL, np.array(expected) * (1 - 2.0**-17), rtol=0, atol=4 / TOTAL)
            assert row.sum(dtype=np.float64) == TOTAL
            assert row[-1] / TOTAL == pytest.approx(1 - (1 - 2.0**-17) * sum(expected), abs=4 / TOTAL)


@pytest.mark.parametrize("typical", [0.1, 1.0, 5.0])
def test_rounding_the_parameters_costs_few_bits(typical):
    """Expected length under the table minus the entropy, in bits, with float64 references of the exact parameters."""
    _, weights, means, scales = draw(50, typical=typical, seed=3)
    tables = quantize_mixtures(nearest, *(p.T.double().numpy() for p in (weights, means, scales.clamp(min=0.11))))
    losses, entropies = [], []
    for positions, chunk in tables.chunks():
        for position, first, row in zip(positions, chunk.first, chunk.rows(), strict=True):
            exact = [
                reference(v, *(p[position].tolist() for p in (weights, means, scales)))
                for v in range(first, first + len(row) - 1)
            ]
            # The coder assigns at least one count to every slot.
            pairs = [(p, max(q, 1) / TOTAL) for p, q in zip(exact, row[:-1], strict=True) if p > 1e-9]
            losses.append(sum(p * math.log2(p / q) for p, q in pairs))
            entropies.append(-sum(p * math.log2(p) for p, _ in pairs))
    assert np.mean(losses) < 2e-4 * np.mean(entropies)
    assert max(losses) < 1e-3


def test_tables_in_memory_stay_small():
    n = 400
    scales = np.linspace(0.1, 300, 3 * n).reshape(3, n)
    tables = quantize_mixtures(nearest, np.full((3, n), 1 / 3), np.zeros((3, n)), scales)
    chunks = list(tables.chunks())
    assert sorted(np.concatenate([positions for positions, _ in chunks])) == list(range(n))
    assert all(chunk.rows().size <= CHUNK_CELLS for _, chunk in chunks)
    assert max(tables.width) > 1000


def test_chunk_rows_equal_the_rows_of_its_members():
    _, *params = draw(200, typical=3.0)
    tables = quantize_mixtures(nearest, *(p.T.double().numpy() for p in params))
    for position in range(0, 200, 17):
        alone = tables[np.array([position])]
        assert isinstance(alone, Mixtures)
        for positions, chunk in tables.chunks():
            for row in chunk.rows()[positions == position]:
                size = alone.width[0]
                np.testing.assert_array_equal(row[:size], alone.rows()[0, :size])


# ---- coding ----


@pytest.mark.parametrize("typical", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("K", [1, 3])
def test_string_length_is_the_ideal_length(mixture, typical, K):
    y, *params = draw(40_000, K, typical, seed=1)
    # With the digits of float64, as in a codec; values of float32 are often exactly on a boundary.
    params = [p.double() * (1 + 1e-8 * torch.rand(p.shape, dtype=torch.float64)) for p in params]
    ideal = -float(mixture(y, *params)[1].double().log2().sum()) / 8
    string = mixture.compress(y, *params)
    assert torch.equal(mixture.decompress(string, *params), y.round())
    # In addition: a checksum, the coder's last two words, and the record of close calls.
    assert -0.001 * ideal < len(string) - ideal < 0.001 * ideal + 16


def test_passes_of_any_size_share_a_string(mixture):
    y, *params = draw(3000, typical=1.0)
    sizes = [1, 0, 41, 500, 2, 2456]
    encoder = MixtureEncoder()
    passes = [[part.split(sizes)[step] for part in (y, *params)] for step in range(len(sizes))]
    coded = [mixture.encode(encoder, *part) for part in passes]
    string = encoder.finish()
    decoder = MixtureDecoder(string)
    decoded = [mixture.decode(decoder, *part[1:]) for part in passes]
    decoder.finish()
    assert torch.equal(torch.cat(decoded), y.round())
    assert torch.equal(torch.cat(coded), y.round())


@pytest.mark.parametrize("n", [0, 1])
def test_very_few_symbols_round_trip(mixture, n):
    y, *params = draw(n)
    assert torch.equal(mixture.decompress(mixture.compress(y, *params), *params), y.round())


def test_latent_of_zeros_has_almost_no_cost(mixture):
    shape = (1, 3, 192, 8, 8)
    params = torch.full(shape, 1 / 3), torch.zeros(shape), torch.full(shape, 0.01)
    string = mixture.compress(torch.zeros(1, 192, 8, 8), *params)
    assert len(string) <= 12
    assert not mixture.decompress(string, *params).any()


def test_outliers_are_escaped_at_the_cost_of_the_floor(mixture):
    y, *params = draw(2000, typical=0.3)
    inside = len(mixture.compress(y, *params))
    y[::100] = torch.tensor([MAX_SYMBOL, -MAX_SYMBOL, 1e4, -1e4, 50.0]).repeat(4)
    string = mixture.compress(y, *params)
    assert torch.equal(mixture.decompress(string, *params), y.round())
    assert len(string) < inside + 20 * 10, "more than 80 bits for an outlier"


def test_extreme_parameters_are_clamped_identically(mixture):
    y = torch.tensor([0.0, 7.0, -100_000.0, 100_000.0, 2.0, 900.0])
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [1e-30, 1e-30], [3.0, 5.0]])
    means = torch.tensor([[1e30, -1e30], [7.0, 1e9], [-1e5, 1e5], [-1e5, 1e5], [0.0, 3.0], [-900.0, 900.0]])
    scales = torch.tensor([[1e30, 1e-30], [1e-6, 1e6], [1.0, 1.0], [1.0, 1.0], [0.0, -5.0], [500.0, 500.0]])
    assert torch.equal(mixture.decompress(mixture.compress(y, weights, means, scales), weights, means, scales), y)


@pytest.mark.parametrize("name", ["y", "weights", "means", "scales"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_raise(mixture, name, value):
    values = dict(zip(("y", "weights", "means", "scales"), draw(50), strict=True))
    values[name].view(-1)[3] = value
    with pytest.raises(BitstreamError, match="not finite"):
        mixture.compress(*values.values())


@pytest.mark.parametrize("weights", [[-0.5, 1.5], [0.0, 0.0]])
def test_invalid_weights_raise(mixture, weights):
    with pytest.raises(BitstreamError, match="weights of at least 0"):
        mixture.compress(torch.zeros(1), torch.tensor([weights]), torch.zeros(1, 2), torch.ones(1, 2))


def test_damage_raises(mixture):
    y, *params = draw(200, typical=1.0)
    string = mixture.compress(y, *params)
    noticed = 0
    for position in range(len(string)):
        damaged = bytearray(string)
        damaged[position] ^= 0x41
        try:
            # The last bits after the last symbol may have no effect.
            assert torch.equal(mixture.decompress(bytes(damaged), *params), y.round())
        except BitstreamError:
            noticed += 1
    assert noticed >= len(string) - 8
    with pytest.raises(BitstreamError):
        mixture.decompress(string[:-1], *params)


def test_other_parameters_raise(mixture):
    y, weights, means, scales = draw(500, typical=1.0)
    string = mixture.compress(y, weights, means, scales)
    with pytest.raises(BitstreamError):
        mixture.decompress(string, weights, means, scales * 1.5)
