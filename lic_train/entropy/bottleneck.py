"""Fully factorised learned density.

Balle et al. 2018, "Variational image compression with a scale hyperprior", appendix 6.1.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from compressai.ops import LowerBound
from torch import Tensor, nn

from lic_train.entropy.coder import WEIGHT_BITS, Strings, SymbolEncoder, Table, decoder_of
from lic_train.entropy.gaussian import to_symbols
from lic_train.entropy.precision import exactly, in_float32, planar
from lic_train.entropy.quantize import add_noise, round_ste
from lic_train.errors import CheckpointError

# Tails farther from the median than this number of symbols are escape-coded.
MAX_RADIUS = 2048
# Bound of the bisection, and so of solved quantiles.
MAX_QUANTILE = 1e5


class EntropyBottleneck(nn.Module):
    """One monotone cumulative per channel. Parameters have the names of CompressAI 1.2.8, so its weights can be loaded.

    ``quantiles`` (C, 1, 3) are the lower tail, the median and the upper tail. They receive a gradient only from `loss`;
    `update` solves them by bisection. Solved quantiles and integer tables travel with the weights, because a last-digit
    difference between mathematical libraries must not reach the coder: see `coding_tables`.

    Args:
        channels: C.
        filters: inner widths of the cumulative.
        init_scale: approximate initial width of the cumulative.
        tail_mass: probability outside the outer quantiles.
        straight_through: z_hat is rounded also in training, with the gradient of the identity; only the likelihood
            uses noise.
    """

    _targets: Tensor

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
        # On the device: creating a tensor from numbers in every step would wait for it.
        self.register_buffer("_targets", torch.tensor(self.targets), persistent=False)
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
            return (logits - self._targets).abs().sum()

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
        # torch.sign would be 0 at the centre of a symmetric density, and the mass too.
        sign = torch.where(lower + upper > 0, -1.0, 1.0)
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    def update(self, keep_medians: bool = False) -> None:
        """Solve ``quantiles`` by bisection and build one coding table per channel, in float64 on the CPU.

        With ``keep_medians`` the medians are kept and only the tails are solved.
        """
        self.use_tables(self._solve(keep_medians))

    def coding_tables(self) -> dict[str, Tensor]:
        """Return everything that coding needs besides the weights, without changing the module.

        The present tables if they belong to the present weights, otherwise those that `update` would build: solved
        ``quantiles`` (C, 1, 3), float32; and int32 ``minimum`` (C,), ``size`` (C,) and ``weights`` (sum of size + 1,)
        of the tables, channel after channel (see `Table`).
        """
        if not self.is_ready:
            return self._solve(keep_medians=False)
        return {
            "quantiles": self.quantiles.detach().cpu().clone(),
            "minimum": torch.tensor([table.minimum for table in self._tables], dtype=torch.int32),
            "size": torch.tensor([table.size for table in self._tables], dtype=torch.int32),
            "weights": torch.from_numpy(np.concatenate([table.weights for table in self._tables])),
        }

    @torch.no_grad()
    def use_tables(self, tables: Mapping[str, Tensor]) -> None:
        """Take over what `coding_tables` returned for the present weights, instead of `update`.

        Raises:
            CheckpointError: the tables are not valid.
        """
        _check_tables(tables, self.channels)
        self.quantiles.copy_(tables["quantiles"])
        ends = np.cumsum(tables["size"].numpy() + 1)
        rows = np.split(tables["weights"].numpy(), ends[:-1])
        self._tables = [Table(low, row) for low, row in zip(tables["minimum"].tolist(), rows, strict=True)]
        self._made_from = self._checksum()

    @property
    def is_ready(self) -> bool:
        """Whether there are coding tables that belong to the present weights."""
        return bool(self._tables) and self._checksum() == self._made_from

    @torch.no_grad()
    def _solve(self, keep_medians: bool) -> dict[str, Tensor]:
        """Return the tables of the present weights; see `coding_tables`."""
        weights = tuple([exactly(weight) for weight in group] for group in self._weights())
        quantiles = torch.cat([self._bisect(target, *weights) for target in self.targets], dim=2).float()
        if keep_medians:
            quantiles[:, :, 1] = self.quantiles[:, :, 1]
        low, median, high = quantiles[:, 0].double().unbind(1)
        below = (median - low).ceil().clamp(0, MAX_RADIUS).int()
        above = (high - median).ceil().clamp(0, MAX_RADIUS).int()
        offsets = torch.arange(-int(below.max()), int(above.max()) + 1, dtype=torch.float64)
        # A diverged network is saved with some tables, too; it cannot be loaded.
        pmf = self._mass(median.view(-1, 1, 1) + offsets, *weights)[:, 0].nan_to_num().numpy()
        first = pmf.shape[1] - 1 - int(above.max())
        rows = [
            Table.from_pmf(row[first - lo : first + hi + 1], -lo).weights
            for row, lo, hi in zip(pmf, below.tolist(), above.tolist(), strict=True)
        ]
        packed = torch.from_numpy(np.concatenate(rows))
        return {"quantiles": quantiles, "minimum": -below, "size": below + above + 1, "weights": packed}

    def _checksum(self) -> int:
        """Return the CRC-32 of all parameters that determine the tables."""
        values = [parameter.detach().cpu().contiguous().numpy().tobytes() for parameter in self.parameters()]
        return zlib.crc32(b"".join(values))

    def _bisect(self, target: float, *weights: list[Tensor]) -> Tensor:
        """Return where the logit of the cumulative crosses ``target``, (C, 1, 1), to 1e-5 within +-1e5."""
        low = torch.full((self.channels, 1, 1), -MAX_QUANTILE, dtype=torch.float64)
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

    def decompress(self, string: Strings, shape: tuple[int, int]) -> Tensor:
        """Return z_hat (B, C, h, w) for ``shape`` (h, w). Requires `update`.

        Raises:
            BitstreamError: the string is damaged.
        """
        decoder = decoder_of(string)
        symbols = decoder.decode(np.tile(self._indexes(shape[0] * shape[1]), decoder.pictures), self._tables)
        decoder.finish()
        values = torch.from_numpy(symbols).view(decoder.pictures, self.channels, *shape)
        return values.to(self.medians.device).double() + self.medians.double()

    def _indexes(self, positions: int) -> np.ndarray:
        if not self._tables:
            raise RuntimeError("the coding tables are missing: call update() before compress() or decompress()")
        if not self.is_ready:
            raise CheckpointError(
                "The coding tables are stale: the weights changed after update().",
                expected="coding tables of the present weights",
                got="tables of earlier weights",
                to_do="call update() again before compress() or decompress()",
            )
        return np.repeat(np.arange(self.channels), positions)


def _check_tables(tables: Mapping[str, Tensor], channels: int) -> None:
    """Check tables from a file, which can be hostile."""
    expected = {"quantiles": torch.float32, "minimum": torch.int32, "size": torch.int32, "weights": torch.int32}
    found = {name: table.dtype for name, table in tables.items()}
    if found != expected:
        raise _invalid(f"{', '.join(expected)}", str(found))
    quantiles, minimum, size, weights = (tables[name] for name in expected)
    if quantiles.shape != (channels, 1, 3) or minimum.shape != (channels,) or size.shape != (channels,):
        raise _invalid(f"tables of {channels} channels", f"shapes {[tuple(table.shape) for table in tables.values()]}")
    if not bool((quantiles.abs() <= MAX_QUANTILE).all()):
        raise _invalid(f"finite quantiles within +-{MAX_QUANTILE:g}", "other quantiles")
    if not bool(((minimum <= 0) & (minimum >= -MAX_RADIUS) & (size > -minimum) & (size <= 2 * MAX_RADIUS + 1)).all()):
        raise _invalid(f"tables around 0 of at most {2 * MAX_RADIUS + 1} symbols", "other ranges")
    ends = np.cumsum(size.numpy() + 1)
    if weights.shape != (ends[-1],) or int(weights.min()) < 0:
        raise _invalid(f"{ends[-1]} weights of at least 0", f"{tuple(weights.shape)} weights")
    sums = np.add.reduceat(weights.numpy().astype(np.int64), ends - size.numpy() - 1)
    if sums.min() <= 0 or sums.max() > 1 << WEIGHT_BITS + 1:
        raise _invalid("weights whose sum is about 1", f"sums from {sums.min()} to {sums.max()} times 2^-{WEIGHT_BITS}")


def _invalid(expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        "The stored coding tables of a factorised density are not valid.",
        expected=expected,
        got=got,
        to_do="copy or export the file again",
    )
