"""Discretised Gaussian mixture on the integers: rate, quantiser and coding (Cheng et al. 2020, equations 6 to 8).

Layout: for y of shape (B, *rest), the K weights, means and scales are (B, K, *rest): the components are dimension 1. A
map y (B, M, h, w) has parameters (B, K, M, h, w), and a flat list y (n,) has (n, K).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from compressai.ops import LowerBound
from torch import Tensor, nn

from lic_train.entropy.gaussian import SCALE_MIN, to_symbols
from lic_train.entropy.mixture_coder import MixtureDecoder, MixtureEncoder
from lic_train.entropy.mixture_tables import Mixtures, quantize_mixtures
from lic_train.entropy.precision import in_float32, numbers, on_host
from lic_train.entropy.quantize import add_noise


class GaussianMixture(nn.Module):
    """Elements that are independent given their K weights (at least 0, sum 1), means and scales.

    y is rounded to integers, because several means do not define a single centre. Coding supports scales down to
    0.0069.

    Args:
        scale_min: lower bound of the scales; gradients that increase a scale pass through it.
        floor: lower bound of the likelihoods.
    """

    def __init__(self, scale_min: float = SCALE_MIN, floor: float = 1e-9) -> None:
        super().__init__()
        self.scale_min = scale_min
        self.lower_bound_scale = LowerBound(scale_min)
        self.likelihood_lower_bound = LowerBound(floor)

    def forward(self, y: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise y (noise in training, rounding to integers otherwise) and return y_hat and likelihoods."""
        y_hat = add_noise(y.float()) if self.training else torch.round(y.float())
        return y_hat, self.likelihood(y_hat, weights, means, scales)

    @in_float32
    def likelihood(self, y_hat: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        """Return the probability mass (B, *rest) of the unit interval around each value, at least ``floor``."""
        distance = (y_hat.unsqueeze(1) - means).abs()
        per_sigma = math.sqrt(0.5) / self.lower_bound_scale(scales)
        # On the side of the tail, where the difference of the two keeps its precision.
        upper, lower = (0.5 - distance) * per_sigma, (-0.5 - distance) * per_sigma
        mass = 0.5 * (torch.erfc(-upper) - torch.erfc(-lower))
        return self.likelihood_lower_bound((weights * mass).sum(dim=1))

    def encode(self, encoder: MixtureEncoder, y: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        """Append y to the string and return y_hat as the decoder computes it. Can be called once per pass.

        Raises:
            BitstreamError: y or a parameter is not finite.
        """
        y_on_host, *parameters = on_host(y, weights, means, scales)
        symbols = to_symbols(y_on_host)
        encoder.encode_mixtures(symbols, self._mixtures(encoder, *parameters))
        return torch.from_numpy(symbols).view(y.shape).to(means)

    def decode(self, decoder: MixtureDecoder, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        """Decode y_hat (B, *rest) for these parameters.

        Raises:
            BitstreamError: the string is damaged, or a parameter is not finite.
        """
        symbols = decoder.decode_mixtures(self._mixtures(decoder, *on_host(weights, means, scales)))
        return torch.from_numpy(symbols).view(means[:, 0].shape).to(means)

    def compress(self, y: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> bytes:
        """Encode y in one string."""
        encoder = MixtureEncoder()
        self.encode(encoder, y, weights, means, scales)
        return encoder.finish()

    def decompress(self, string: bytes, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        """Return y_hat (B, *rest) in float32.

        Raises:
            BitstreamError: the string is damaged.
        """
        decoder = MixtureDecoder(string)
        y_hat = self.decode(decoder, weights, means, scales)
        decoder.finish()
        return y_hat.float()

    def _mixtures(
        self, coder: MixtureEncoder | MixtureDecoder, weights: Tensor, means: Tensor, scales: Tensor
    ) -> Mixtures:
        # The value of the bound's buffer, which can be on another device than the parameters.
        bounded = np.maximum(_flat("scales", scales), np.float32(self.scale_min))
        return quantize_mixtures(coder.round, _flat("weights", weights), _flat("means", means), bounded)


def _flat(name: str, values: Tensor) -> np.ndarray:
    """Flatten (B, K, *rest) to float64 (K, n), in the element order of y."""
    components = values.movedim(1, 0)
    return numbers(name, components).reshape(len(components), -1)
