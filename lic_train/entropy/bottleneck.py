"""Fully factorised learned density.

Balle et al. 2018, "Variational image compression with a scale hyperprior", appendix 6.1.
"""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from compressai.ops import LowerBound
from torch import Tensor, nn

from lic_train.entropy.coder import SymbolDecoder, SymbolEncoder, Table
from lic_train.entropy.gaussian import to_symbols
from lic_train.entropy.precision import in_float32, planar
from lic_train.entropy.quantize import add_noise, round_ste
from lic_train.errors import CheckpointError

# Tails farther from the median than this number of symbols are escape-coded.
MAX_RADIUS = 2048


class EntropyBottleneck(nn.Module):
    """One monotone cumulative per channel. Parameters have the names of CompressAI 1.2.8, so its weights can be loaded.

    ``quantiles`` (C, 1, 3) are the lower tail, the median and the upper tail. They receive a gradient only from `loss`;
    `update` solves them by bisection.

    Args:
        channels: C.
        filters: inner widths of the cumulative.
        init_scale: approximate initial width of the cumulative.
        tail_mass: probability outside the outer quantiles.
        straight_through: z_hat is rounded also in training, with the gradient of the identity; only the likelihood
            uses noise.
    """

    def __init__(
        self,
        channels: int,
        filters: tuple[int, ...] = (3, 3, 3, 3),
        init_scale: float = 10.0,
        tail_mass: float = 1e-9,
        straight_through: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.straight_through = channels, straight_through
        widths = (1, *filters, 1)
        scale = init_scale ** (1 / (len(filters) + 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            init = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), init)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
        for width in filters:
            self.factors.append(nn.Parameter(torch.zeros(channels, width, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1))
        tail = math.log(2 / tail_mass - 1)
        self.targets = (-tail, 0.0, tail)
        self.likelihood_lower_bound = LowerBound(1e-9)
        self._tables: list[Table] = []
        self._made_from = 0

    @property
    def medians(self) -> Tensor:
        """Medians (1, C, 1, 1), without gradient."""
        return self.quantiles[:, :, 1].detach().view(1, -1, 1, 1)

    @in_float32
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise z, with noise in training and by rounding around the median otherwise, and compute likelihoods.

        Args:
            z: (B, C, h, w)

        Returns:
            z_hat and the likelihoods of its elements, both (B, C, h, w).
        """
        if not self.training:
            z_hat = self.quantize(z)
            return z_hat, self.likelihood(z_hat)
        # As in CompressAI, the noise is drawn in channel-first order, which is also the order in memory.
        noisy = add_noise(z.transpose(0, 1).contiguous(), dim=1).transpose(0, 1)
        return self.quantize(z) if self.straight_through else noisy, self.likelihood(noisy)

    def quantize(self, z: Tensor) -> Tensor:
        """Return ``round(z - median) + median``, as in the bitstream: (B, C, h, w) in row-major order.

        In training it is float32 with a straight-through gradient. Otherwise it is float64, in which it is exact and in
        which the networks that read it compute; see `lic_train.entropy.precision.repeatable`.
        """
        z = z.float()
        if self.training:
            return planar(round_ste(z, self.medians))
        return planar(torch.round(z - self.medians).double() + self.medians.double())

    @in_float32
    def likelihood(self, z_hat: Tensor) -> Tensor:
        """Return the probability mass (B, C, h, w) of the unit interval around each value, at least 1e-9."""
        batch, channels, height, width = z_hat.shape
        values = z_hat.transpose(0, 1).reshape(channels, 1, -1)
        mass = self._mass(values, *self._weights())
        return self.likelihood_lower_bound(mass.reshape(channels, batch, height, width).transpose(0, 1))

    def loss(self) -> Tensor:
        """Return the sum over channels of the three quantiles' distances from their targets, in logits. Scalar."""
        with torch.autocast(self.quantiles.device.type, enabled=False):
            frozen = [[weight.detach() for weight in group] for group in self._weights()]
            logits = self._logits(self.quantiles, *frozen)
            return (logits - logits.new_tensor(self.targets)).abs().sum()

    def _weights(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        return list(self.matrices), list(self.biases), list(self.factors)

    @staticmethod
    def _logits(values: Tensor, matrices: list[Tensor], biases: list[Tensor], factors: list[Tensor]) -> Tensor:
        """Return the logit of the cumulative at ``values`` (C, 1, n); it increases with them."""
        logits = values
        for layer, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            logits = F.softplus(matrix) @ logits + bias
            if layer < len(factors):
                logits = logits + torch.tanh(factors[layer]) * torch.tanh(logits)
        return logits

    @classmethod
    def _mass(cls, values: Tensor, *weights: list[Tensor]) -> Tensor:
        """Return the difference of the cumulative at +1/2 and -1/2, computed on the side where both are small."""
        lower, upper = cls._logits(values - 0.5, *weights), cls._logits(values + 0.5, *weights)
        sign = -torch.sign(lower + upper).detach()
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    @torch.no_grad()
    def update(self) -> None:
        """Solve ``quantiles`` by bisection and build one coding table per channel, in float64 on the CPU."""
        weights = tuple([weight.detach().double().cpu() for weight in group] for group in self._weights())
        quantiles = torch.cat([self._bisect(target, *weights) for target in self.targets], dim=2)
        self.quantiles.copy_(quantiles)
        low, median, high = self.quantiles[:, 0].double().cpu().unbind(1)
        below = (median - low).ceil().clamp(0, MAX_RADIUS).int()
        above = (high - median).ceil().clamp(0, MAX_RADIUS).int()
        offsets = torch.arange(-int(below.max()), int(above.max()) + 1, dtype=torch.float64)
        pmf = self._mass(median.view(-1, 1, 1) + offsets, *weights)[:, 0].numpy()
        first = pmf.shape[1] - 1 - int(above.max())
        self._tables = [
            Table.from_pmf(row[first - lo : first + hi + 1], -lo)
            for row, lo, hi in zip(pmf, below.tolist(), above.tolist(), strict=True)
        ]
        self._made_from = self._checksum()

    def _checksum(self) -> int:
        """Return the CRC-32 of all parameters that determine the tables."""
        values = [parameter.detach().cpu().contiguous().numpy().tobytes() for parameter in self.parameters()]
        return zlib.crc32(b"".join(values))

    def _bisect(self, target: float, *weights: list[Tensor]) -> Tensor:
        """Return where the logit of the cumulative crosses ``target``, (C, 1, 1), to 1e-5 within +-1e5."""
        low = torch.full((self.channels, 1, 1), -1e5, dtype=torch.float64)
        high = -low
        for _ in range(34):
            middle = (low + high) / 2
            below = self._logits(middle, *weights) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def compress(self, z: Tensor) -> bytes:
        """Encode z (1, C, h, w). Requires `update`."""
        encoder = SymbolEncoder()
        encoder.encode(to_symbols(z.float() - self.medians), self._indexes(z.shape[2] * z.shape[3]), self._tables)
        return encoder.finish()

    def decompress(self, string: bytes, shape: tuple[int, int]) -> Tensor:
        """Return z_hat (1, C, h, w) for ``shape`` (h, w). Requires `update`.

        Raises:
            BitstreamError: the string is damaged.
        """
        decoder = SymbolDecoder(string)
        symbols = decoder.decode(self._indexes(shape[0] * shape[1]), self._tables)
        decoder.finish()
        values = torch.from_numpy(symbols).view(1, self.channels, *shape)
        return values.to(self.medians.device).double() + self.medians.double()

    def _indexes(self, positions: int) -> np.ndarray:
        if not self._tables:
            raise RuntimeError("the coding tables are missing: call update() before compress() or decompress()")
        if self._checksum() != self._made_from:
            raise CheckpointError(
                "The coding tables are stale: the weights changed after update().",
                expected="coding tables of the present weights",
                got="tables of earlier weights",
                to_do="call update() again before compress() or decompress()",
            )
        return np.repeat(np.arange(self.channels), positions)
