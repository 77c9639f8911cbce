"""Conditional Gaussian on integers: rate, quantiser and coding with 64 shared tables (Balle et al. 2018, section 3).

Outside training the table index of a scale and the mean, in steps of 2^-8, are float64 values rounded to integers. The
coder rounds them (see `lic_train.entropy.close_calls`): for every call first all indexes, then all means.
"""

from __future__ import annotations

import functools
import math
import zlib

import numpy as np
import torch
from compressai.ops import LowerBound
from torch import Tensor, nn

from lic_train.entropy.coder import MAX_SYMBOL, BatchDecoder, Strings, SymbolDecoder, SymbolEncoder, Table, decoder_of
from lic_train.entropy.precision import in_float32, numbers, on_host
from lic_train.entropy.quantize import MAX_MEAN, STEPS_PER_UNIT, add_noise, on_grid, round_to
from lic_train.errors import BitstreamError, LicError

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 64
# A two-sided tail mass of 1e-9 corresponds to 6.11 standard deviations.
TAIL_SIGMAS = 6.11
# CRC-32 of the integers in `gaussian_tables`, by the range of their scales.
_TABLES_CRC = {(SCALE_MIN, SCALE_MAX): 0x6BF91099, (0.1, 20.0): 0x30B36A02}


def scale_table(smallest: float = SCALE_MIN, largest: float = SCALE_MAX) -> np.ndarray:
    """Return 64 float64 scales with logarithmic spacing."""
    return np.exp(np.linspace(math.log(smallest), math.log(largest), SCALE_LEVELS))


@functools.cache
def gaussian_tables(smallest: float = SCALE_MIN, largest: float = SCALE_MAX) -> tuple[Table, ...]:
    """Return one zero-mean coding table per entry of `scale_table`.

    Raises:
        LicError: the mathematical library of this machine yields other tables.
    """
    tables = tuple(_gaussian_table(scale) for scale in scale_table(smallest, largest))
    if (smallest, largest) in _TABLES_CRC:
        check_tables([np.append(table.weights, table.minimum) for table in tables], _TABLES_CRC[smallest, largest])
    return tables


def check_tables(integers: list[np.ndarray], expected: int) -> None:
    """Compare the CRC-32 of the tables of a density that all models share.

    Raises:
        LicError: they differ.
    """
    found = zlib.crc32(b"".join(values.astype("<i4").tobytes() for values in integers))
    if found != expected:
        raise LicError(
            "The mathematical library of this machine yields other coding tables.",
            expected=f"tables with CRC-32 {expected:08x}",
            got=f"CRC-32 {found:08x}",
            to_do="use another build of Python: its math.erfc is not accurate to the last digits",
        )


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
        distortion_weight: see `choose`.
    """

    def __init__(
        self, table_range: tuple[float, float] = (SCALE_MIN, SCALE_MAX), distortion_weight: float | None = None
    ) -> None:
        super().__init__()
        self.table_range, self.distortion_weight = table_range, distortion_weight
        self.lower_bound_scale = LowerBound(SCALE_MIN)
        self.likelihood_lower_bound = LowerBound(1e-9)

    def forward(self, y: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y_hat of `quantise` in float32, and its likelihoods; means None are 0."""
        y_hat, means = self.quantise(y, torch.zeros_like(scales) if means is None else means)
        return y_hat.float(), self.likelihood(y_hat, scales, means)

    def quantise(self, y: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and the means of its density.

        Training adds noise to y. Otherwise y is rounded around its mean on the grid, and y_hat has the dtype of the
        means: in float64 it is the same number on every machine.
        """
        y = y.float()
        if self.training:
            return add_noise(y), means
        means = on_grid(means)
        return round_to(y, means), means

    def choose(self, y: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return the values near y that the encoder codes, in float64; rounding around the means does not change them.

        Rate-distortion optimised quantisation, as in the encoders of video standards: the symbol k nearest to y - mean,
        or its neighbour towards zero if ``bits + distortion_weight * squared error`` is smaller for it; the mean is on
        its grid. Without a weight y is returned as it is. The decoder is not concerned.
        """
        if self.distortion_weight is None:
            return y
        means = on_grid(means)
        residual = y.double() - means
        symbol = residual.round()
        k = symbol.abs()
        saved_bits = self._bits(k, scales) - self._bits(k - 1, scales)
        added_error = 2 * (residual.abs() - k) + 1  # (r - (k - 1))^2 - (r - k)^2
        smaller = (k > 0) & (saved_bits > self.distortion_weight * added_error)
        return means + torch.where(smaller, symbol - symbol.sign(), symbol)

    def _bits(self, k: Tensor, scales: Tensor) -> Tensor:
        """Return the bits of symbols k (float64), as `likelihood` in float64."""
        return -self._mass(k, scales.double()).clamp(min=1e-9).log2()

    def _mass(self, distance: Tensor, scales: Tensor) -> Tensor:
        """Return the probability mass of the unit interval at a distance from the mean."""
        per_sigma = math.sqrt(0.5) / self.lower_bound_scale(scales)
        return 0.5 * (torch.erfc((distance - 0.5) * per_sigma) - torch.erfc((distance + 0.5) * per_sigma))

    @in_float32
    def likelihood(self, y_hat: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return the probability mass of the unit interval around each value, at least 1e-9."""
        return self.likelihood_lower_bound(self._mass((y_hat - means).abs(), scales))

    def encode(self, encoder: SymbolEncoder, y: Tensor, scales: Tensor, means: Tensor | None) -> Tensor:
        """Append y to the string and return y_hat as the decoder computes it; means None are 0."""
        device = y.device
        y, *parameters = on_host(y, scales) if means is None else on_host(y, scales, means)
        indexes, means = self._decide(encoder, *parameters)
        symbols = to_symbols(y - means)
        encoder.encode(symbols, indexes, gaussian_tables(*self.table_range))
        return (torch.from_numpy(symbols).view(y.shape).to(means) + means).to(device)

    def decode(self, decoder: SymbolDecoder | BatchDecoder, scales: Tensor, means: Tensor | None) -> Tensor:
        """Decode y_hat for these parameters; means None are 0."""
        device = scales.device
        indexes, means = self._decide(decoder, *(on_host(scales) if means is None else on_host(scales, means)))
        symbols = decoder.decode(indexes, gaussian_tables(*self.table_range))
        return (torch.from_numpy(symbols).view(scales.shape).to(means) + means).to(device)

    def compress(self, y: Tensor, scales: Tensor, means: Tensor | None = None) -> bytes:
        """Encode y in one string."""
        encoder = SymbolEncoder()
        self.encode(encoder, y, scales, means)
        return encoder.finish()

    def decompress(self, string: Strings, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """Return y_hat, float32 in the shape of ``scales``, from one string or from one per picture of the batch.

        Raises:
            BitstreamError: the string is damaged.
        """
        decoder = decoder_of(string)
        y_hat = self.decode(decoder, scales, means)
        decoder.finish()
        return y_hat.float()

    def _decide(
        self, coder: SymbolEncoder | SymbolDecoder | BatchDecoder, scales: Tensor, means: Tensor | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """Return the index (n,) of the table whose scale is nearest in the logarithm, and the mean on its grid."""
        smallest, largest = self.table_range
        bounded = numbers("scales", scales).clip(smallest, largest)
        steps_per_log = (SCALE_LEVELS - 1) / (math.log(largest) - math.log(smallest))
        indexes = coder.round(np.log(bounded) - math.log(smallest), steps_per_log)
        if means is None:
            return indexes, scales.new_zeros(())
        steps = coder.round(numbers("means", means).clip(-MAX_MEAN, MAX_MEAN), STEPS_PER_UNIT)
        return indexes, torch.from_numpy(steps / STEPS_PER_UNIT).view(means.shape)


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

    def decompress(self, string: Strings, psi: Tensor) -> Tensor:
        """Return y_hat (B, M, h, w)."""
        return self.gaussian_conditional.decompress(string, *psi.chunk(2, dim=1))
