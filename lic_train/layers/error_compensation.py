"""Compensation of the quantisation error by its Fourier series (QECM), and repeatable Laplacian noise.

S. Jiang et al., IB-LIC, https://arxiv.org/abs/2502.15188, equations (6) to (15).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lic_train.layers.interleaving import scale_init


def rounding_error_series(v: Tensor, terms: int = 5) -> Tensor:
    """Return the first ``terms`` terms of the Fourier series of v - round(v), the sawtooth of equation (8)."""
    v = v - v.detach().round()  # the series is periodic; the reduced argument keeps its digits
    return sum(-((-1) ** k) / (math.pi * k) * torch.sin(2 * math.pi * k * v) for k in range(1, terms + 1))


class ErrorCompensation(nn.Module):
    """QECM: Q_c before quantisation (``sign`` -1) or its inverse after it (+1), equations (10) to (13).

    ``fixed`` adds the signed series, ``learned`` a bounded correction computed from latent and series, ``off`` nothing.
    """

    def __init__(self, mode: str, channels: int, sign: int) -> None:
        super().__init__()
        self.mode, self.sign = mode, sign
        if mode == "learned":
            self.conv = nn.Conv2d(2 * channels, channels, 1)
            scale_init(self.conv, 0.0)

    def forward(self, v: Tensor, series: Tensor | None = None) -> Tensor:
        """Map (B, C', h', w') to the same shape; ``series`` replaces the series computed from v."""
        if self.mode == "off":
            return v
        series = rounding_error_series(v.float()) if series is None else series.expand_as(v)
        if self.mode == "fixed":
            return v + self.sign * series
        return v + 0.5 * torch.tanh(self.conv(torch.cat([v, series], dim=1)))


def splitmix64(index: Tensor, seed: int) -> Tensor:
    """Hash int64 counters to 64 uniform bits in integer arithmetic, identical on every machine. Keeps the shape."""

    def signed(value: int) -> int:
        return (value + 2**63) % 2**64 - 2**63

    def shifted(value: Tensor, bits: int) -> Tensor:
        return (value >> bits) & (2 ** (64 - bits) - 1)

    state = index * signed(0x9E3779B97F4A7C15) + signed(seed + 0x9E3779B97F4A7C15)
    state = (state ^ shifted(state, 30)) * signed(0xBF58476D1CE4E5B9)
    state = (state ^ shifted(state, 27)) * signed(0x94D049BB133111EB)
    return state ^ shifted(state, 31)


class LaplaceNoise(nn.Module):
    """Equation (14): zero-mean Laplacian noise of scale ``b``, clipped to half a step; the same in every evaluation."""

    def __init__(self, b: float, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        centred = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16 - 0.5
        quantiles = (-b * centred.sign() * torch.log1p(-2 * centred.abs())).clamp(-0.5, 0.5)
        self.table: Tensor
        # Rounded, so that the last digits of the logarithm do not affect the decoder.
        self.register_buffer("table", ((quantiles * 2**12).round() / 2**12).float(), persistent=False)

    def forward(self, y_hat: Tensor) -> Tensor:
        """Map (B, M, h, w) to (B, M, h, w); every image has the same noise. In training y_hat is unchanged."""
        if self.training:
            return y_hat
        counters = torch.arange(y_hat[0].numel(), device=y_hat.device)
        chosen = (splitmix64(counters, self.seed) >> 48) & 0xFFFF
        return y_hat + self.table[chosen].view(y_hat.shape[1:])
