"""Conditional Gaussian on integers: rate, quantiser and coding with 64 shared tables (Balle et al. 2018, section 3)."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from compressai.ops import LowerBound
from torch import Tensor, nn

from lic_train.entropy.coder import MAX_SYMBOL, SymbolDecoder, SymbolEncoder, Table
from lic_train.entropy.precision import in_float32
from lic_train.entropy.quantize import add_noise, round_to
from lic_train.errors import BitstreamError

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 64
# A two-sided tail mass of 1e-9 corresponds to 6.11 standard deviations.
TAIL_SIGMAS = 6.11


def scale_table(smallest: float = SCALE_MIN, largest: float = SCALE_MAX) -> np.ndarray:
    """Return 64 float64 scales with logarithmic spacing."""
    return np.exp(np.linspace(math.log(smallest), math.log(largest), SCALE_LEVELS))


@functools.cache
def gaussian_tables(smallest: float = SCALE_MIN, largest: float = SCALE_MAX) -> tuple[Table, ...]:
    """Return one zero-mean coding table per entry of `scale_table`."""
    return tuple(_gaussian_table(scale) for scale in scale_table(smallest, largest))


def _gaussian_table(scale: float) -> Table:
    radius = math.ceil(scale * TAIL_SIGMAS)
    # Upper tail at k - 1/2 for k = 0 .. radius + 1; differences of small numbers keep their precision.
    tail = np.array([0.5 * math.erfc((k - 0.5) / scale / math.sqrt(2)) for k in range(radius + 2)])
    side = tail[:-1] - tail[1:]
    return Table.from_pmf(np.concatenate([side[:0:-1], side]), -radius)


def to_symbols(values: Tensor) -> np.ndarray:
    """Round to int32 symbols (n,), in memory order.

    Raises:
        BitstreamError: a value is not finite or too large to be a latent.
    """
    flat = torch.round(values).reshape(-1).cpu()
    if not bool((flat.abs() <= MAX_SYMBOL).all()):
        raise BitstreamError(
            "The latent has invalid values: the weights or the image are damaged.",
            expected=f"finite values within +-{MAX_SYMBOL}",
            got="values that are not finite or beyond it",
        )
    return flat.to(torch.int32).numpy()


class GaussianConditional(nn.Module):
    """Elements that are independent given their scale (bounded below by 0.11) and mean; all shapes are equal.

    Args:
        table_range: smallest and largest scale of the coding tables.
    """

    def __init__(self, table_range: tuple[float, float] = (SCALE_MIN, SCALE_MAX)) -> None:
        super().__init__()
        self.table_range = table_range
        self.lower_bound_scale = LowerBound(SCALE_MIN)
        self.likelihood_lower_bound = LowerBound(1e-9)
        table = scale_table(*table_range)
        self._boundaries: Tensor
        self.register_buffer("_boundaries", torch.from_numpy(np.sqrt(table[1:] * table[:-1])).float(), persistent=False)

    @in_float32
    def forward(self, y: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Quantise y (noise in training, rounding around the mean otherwise) and return y_hat and likelihoods."""
        means = torch.zeros_like(y) if means is None else means
        y_hat = add_noise(y) if self.training else round_to(y, means)
        return y_hat, self.likelihood(y_hat, scales, means)

    @in_float32
    def likelihood(self, y_hat: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return the probability mass of the unit interval around each value, at least 1e-9."""
        distance = (y_hat - means).abs()
        per_sigma = math.sqrt(0.5) / self.lower_bound_scale(scales)
        upper, lower = (0.5 - distance) * per_sigma, (-0.5 - distance) * per_sigma
        return self.likelihood_lower_bound(0.5 * (torch.erfc(-upper) - torch.erfc(-lower)))

    def encode(self, encoder: SymbolEncoder, y: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Append y to the string and return y_hat as the decoder computes it."""
        symbols = to_symbols(y - means)
        encoder.encode(symbols, self._indexes(scales), gaussian_tables(*self.table_range))
        return torch.from_numpy(symbols).view(y.shape).to(means) + means

    def decode(self, decoder: SymbolDecoder, scales: Tensor, means: Tensor) -> Tensor:
        """Decode y_hat for these parameters."""
        symbols = decoder.decode(self._indexes(scales), gaussian_tables(*self.table_range))
        return torch.from_numpy(symbols).view(means.shape).to(means) + means

    def compress(self, y: Tensor, scales: Tensor, means: Tensor | None = None) -> bytes:
        """Encode y in one string."""
        encoder = SymbolEncoder()
        self.encode(encoder, y, scales, torch.zeros_like(y) if means is None else means)
        return encoder.finish()

    def decompress(self, string: bytes, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """Return y_hat in the shape of ``scales``.

        Raises:
            BitstreamError: the string is damaged.
        """
        decoder = SymbolDecoder(string)
        y_hat = self.decode(decoder, scales, torch.zeros_like(scales) if means is None else means)
        decoder.finish()
        return y_hat

    def _indexes(self, scales: Tensor) -> np.ndarray:
        """Return the index (n,) of the table whose scale is nearest in the logarithm."""
        if not bool(scales.isfinite().all()):
            raise BitstreamError(
                "The predicted scales are not finite.",
                expected="finite scales",
                to_do="check the weights of the network, which are damaged",
            )
        return torch.bucketize(scales.reshape(-1).float(), self._boundaries).cpu().numpy()


class MeanScaleContext(nn.Module):
    """Entropy model of a Gaussian y; psi (B, 2M, h, w) is the concatenation of its scales and means."""

    def __init__(self) -> None:
        super().__init__()
        self.gaussian_conditional = GaussianConditional()

    def forward(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and its likelihoods, both (B, M, h, w)."""
        return self.gaussian_conditional(y, *psi.chunk(2, dim=1))

    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Encode y (1, M, h, w)."""
        return self.gaussian_conditional.compress(y, *psi.chunk(2, dim=1))

    def decompress(self, string: bytes, psi: Tensor) -> Tensor:
        """Return y_hat (1, M, h, w)."""
        return self.gaussian_conditional.decompress(string, *psi.chunk(2, dim=1))
