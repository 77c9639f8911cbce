"""Metrics against plain numpy implementations and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_msssim
import torch

from lic_train.rd.metrics import bits_map, bpp, ms_ssim, ms_ssim_db, psnr, to_8bit
from tests.tiny import picture


def pair(height: int, width: int, seed: int = 0):
    """Return a float picture and a distorted one that exceeds [0, 1] in places."""
    x = picture(height, width, seed).float() / 255
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1)) * 0.1
    return x, x * 0.9 + 0.08 + noise


def eight_bit(x: torch.Tensor) -> np.ndarray:
    return np.round(np.clip(x.double().numpy(), 0, 1) * 255)


def test_psnr_of_8_bit_pictures():
    pairs = [pair(31, 45, seed) for seed in (0, 5)]
    expected = [10 * np.log10(255**2 / np.mean((eight_bit(x) - eight_bit(y)) ** 2)) for x, y in pairs]
    x, x_hat = (torch.stack(side) for side in zip(*pairs, strict=True))
    assert psnr(x, x_hat).tolist() == pytest.approx(expected, abs=1e-4)
    assert float(psnr(x[0], x_hat[0])) == pytest.approx(expected[0], abs=1e-4)


def test_psnr_after_rounding_and_clamping():
    x = torch.full((3, 8, 8), 1.0)
    assert float(psnr(x, x + 0.7)) == np.inf
    assert float(psnr(x, x - 0.49 / 255)) == np.inf
    assert float(psnr(x, x - 0.51 / 255)) == pytest.approx(20 * np.log10(255), abs=1e-4)


def slow_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang, Simoncelli and Bovik 2003: mean over channels of the product over five scales. Arrays (3, H, W), 0..255."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def blur(picture: np.ndarray) -> np.ndarray:
        rows = np.stack([np.convolve(row, taps, "valid") for row in picture])
        return np.stack([np.convolve(column, taps, "valid") for column in rows.T]).T

    channels = []
    for a, b in zip(x, y, strict=True):
        product = 1.0
        for scale, weight in enumerate(weights):
            mean_a, mean_b = blur(a), blur(b)
            var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
            structure = (2 * (blur(a * b) - mean_a * mean_b) + c2) / (var_a + var_b + c2)
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            last = scale == len(weights) - 1
            product *= np.mean(structure * luminance if last else structure) ** weight
            a, b = (
                (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2).mean(axis=(1, 3)) for z in (a, b))
                if not last
                else (a, b)
            )
        channels.append(product)
    return float(np.mean(channels))


def test_ms_ssim_matches_the_published_formula():
    x, x_hat = pair(176, 192)
    expected = slow_ms_ssim(eight_bit(x), eight_bit(x_hat))
    assert 0.3 < expected < 0.99
    assert float(ms_ssim(x, x_hat)) == pytest.approx(expected, abs=2e-5)
    assert ms_ssim(torch.stack([x, x]), torch.stack([x_hat, x])).tolist() == pytest.approx([expected, 1], abs=2e-5)


@pytest.mark.parametrize("strip", [1, 3000, 2**24])
def test_ms_ssim_in_strips_is_that_of_the_library(strip, monkeypatch):
    monkeypatch.setattr("lic_train.rd.metrics._STRIP", strip)
    x, x_hat = pair(161, 183)
    expected = pytorch_msssim.ms_ssim(to_8bit(x)[None], to_8bit(x_hat)[None], data_range=255)
    assert float(ms_ssim(x, x_hat)) == pytest.approx(float(expected), abs=0 if strip == 2**24 else 1e-6)


def test_ms_ssim_requires_161_pixels():
    assert ms_ssim(*pair(160, 300)) is None
    assert ms_ssim(*pair(300, 160)) is None
    assert ms_ssim(*pair(161, 161)) is not None


def test_ms_ssim_db():
    assert ms_ssim_db(torch.tensor([0.9, 0.99, 0.0, 1.0])).tolist() == pytest.approx([10, 20, 0, np.inf], abs=1e-4)


def some_likelihoods() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.rand(shape, generator=generator) * 0.9 + 0.05 for shape in ((1, 5, 4, 6), (1, 2, 1, 2))]
    return {"y": draw[0], "z": draw[1]}


def test_bpp_sums_all_likelihoods():
    likelihoods = some_likelihoods()
    expected = sum(-np.log2(value.double().numpy()).sum() for value in likelihoods.values())
    assert float(bpp(likelihoods, 1000)) == pytest.approx(expected / 1000, rel=1e-5)


def test_bits_map_spreads_bits_over_the_area_of_each_latent():
    likelihoods = some_likelihoods()
    got = bits_map(likelihoods, (16, 48)).numpy()
    bits = {name: -np.log2(value[0].double().numpy()).sum(axis=0) for name, value in likelihoods.items()}
    expected = np.zeros((16, 48))
    for row in range(16):
        for column in range(48):
            expected[row, column] = bits["y"][row // 4, column // 8] / 32 + bits["z"][0, column // 24] / (16 * 24)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got.sum() == pytest.approx(float(bpp(likelihoods, 1)), rel=1e-5)


@pytest.mark.parametrize("size", [(15, 48), (16, 50)])
def test_bits_map_with_other_sides_raises(size):
    with pytest.raises(ValueError, match="dividing"):
        bits_map(some_likelihoods(), size)


def test_bits_map_of_a_batch_raises():
    with pytest.raises(ValueError, match="y: expected"):
        bits_map({"y": torch.rand(2, 3, 4, 4)}, (16, 16))
