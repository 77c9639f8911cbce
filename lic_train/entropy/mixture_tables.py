"""Probability tables of Gaussian mixtures, one per element, identical in encoder and decoder.

Weights, means and scales are first rounded to grids by the coder (see `lic_train.entropy.close_calls`): for every call
the levels of the scales, then the means, then the cumulative weights, component-major. Everything after that uses
integer arithmetic and one table of the normal cumulative. The grids cost about 1e-4 bits per element.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lic_train.entropy.close_calls import Steps
from lic_train.entropy.gaussian import check_tables
from lic_train.errors import BitstreamError

# Rounds float64 (n,), in steps per unit, to int64 (n,).
Round = Callable[[np.ndarray, Steps], np.ndarray]

# Probabilities of the coder have 24 bits. The last slot of a table, the escape, has what the symbols leave, at least
# 2^-17. This costs 1e-5 bits per symbol and keeps outliers below 30 bits, the estimate from the likelihood's floor.
TOTAL = 1 << 24
MASS = TOTAL - (1 << 7)
WEIGHT_BITS = 12
# Scales: 16 per octave, including the unit, from 0.0069 to 268.
SCALE_UNIT = 0.11
LEVELS_PER_OCTAVE, LOWEST_LEVEL, HIGHEST_LEVEL = 16, -64, 180
# Means: at least 16 steps per standard deviation, and never coarser than integers.
STEPS_PER_SIGMA = 16
MAX_MEAN = 2.0**20
# Beyond this number of standard deviations the cumulative rounds to 0 or MASS.
TAIL_SIGMAS = 5.5
MAX_WIDTH = 2048
# Table entries built per step: a few MB, independent of the picture.
CHUNK_CELLS = 1 << 16
# CRC-32 of the integers in `normal_tables`.
_TABLES_CRC = 0xE6C0914B


def scale_grid() -> np.ndarray:
    """Return the 245 float64 scales of the tables in increasing order."""
    return SCALE_UNIT * np.exp2(np.arange(LOWEST_LEVEL, HIGHEST_LEVEL + 1) / LEVELS_PER_OCTAVE)


@dataclass(frozen=True)
class NormalTables:
    """Cumulatives: ``values[centre[l] + t]`` is level l's at ``t * 2^-bits[l]``, for ``|t| <= radius[l]``."""

    bits: np.ndarray
    radius: np.ndarray
    centre: np.ndarray
    values: np.ndarray


@functools.cache
def normal_tables() -> NormalTables:
    """Return the cumulatives of all levels in units of 1 / MASS; built once per process, 0.1 M entries.

    Raises:
        LicError: the mathematical library of this machine yields other tables.
    """
    grid = scale_grid()
    bits = np.maximum(np.ceil(np.log2(STEPS_PER_SIGMA / grid)), 0).astype(np.int64)
    radius = np.ceil(TAIL_SIGMAS * grid * np.exp2(bits)).astype(np.int64)
    lengths = 2 * radius + 1
    centre = np.cumsum(lengths) - lengths + radius
    upper = [_upper_half(scale * 2.0**bit, int(last)) for scale, bit, last in zip(grid, bits, radius, strict=True)]
    values = np.concatenate([np.concatenate([MASS - half[:0:-1], half]) for half in upper])
    check_tables([bits, radius, values], _TABLES_CRC)
    return NormalTables(bits, radius, centre, values)


def _upper_half(scale: float, radius: int) -> np.ndarray:
    """Return the int64 cumulative (radius + 1,) at 0, 1, .. radius; the lower half is its mirror image."""
    half = [MASS - round(MASS * 0.5 * math.erfc(t / scale / math.sqrt(2))) for t in range(radius + 1)]
    return np.array(half, dtype=np.int64)


@dataclass(frozen=True)
class Mixtures:
    """n mixtures of K components on the grids, all int64.

    The cumulative of component k at the lower edge of symbol v is ``(v << bits) - shift[k]`` entries from the centre of
    its level. Symbols ``first .. first + width - 1`` have a slot each, the others are escaped.
    """

    weight: np.ndarray  # (K, n), sums to 2^12 over k
    shift: np.ndarray  # (K, n)
    level: np.ndarray  # (K, n)
    first: np.ndarray  # (n,)
    width: np.ndarray  # (n,)

    def __getitem__(self, positions: np.ndarray) -> Mixtures:
        """Return the mixtures at ``positions``."""
        fields = (self.weight, self.shift, self.level, self.first, self.width)
        return Mixtures(*(values[..., positions] for values in fields))

    def chunks(self) -> Iterator[tuple[np.ndarray, Mixtures]]:
        """Yield (positions, their mixtures), widest first, in chunks whose rectangular tables stay small."""
        order = np.argsort(-self.width, kind="stable")
        start = 0
        while start < len(order):
            count = max(1, CHUNK_CELLS // (int(self.width[order[start]]) + 1))
            positions = order[start : start + count]
            yield positions, self[positions]
            start += count

    def rows(self) -> np.ndarray:
        """Return float32 integers (n, widest + 1) that sum to TOTAL: the symbols from ``first`` on, the escape last."""
        tables = normal_tables()
        bits, radius = tables.bits[self.level], tables.radius[self.level][..., None]
        entries = np.arange(int(self.width.max()) + 1) << bits[..., None]  # (K, n, edges)
        entries += ((self.first << bits) - self.shift)[..., None]
        np.clip(entries, -radius, radius, out=entries)
        entries += tables.centre[self.level][..., None]
        mass = (self.weight[..., None] * tables.values[entries]).sum(axis=0) >> WEIGHT_BITS
        rows = np.empty(mass.shape, dtype=np.float32)
        np.subtract(mass[:, 1:], mass[:, :-1], out=rows[:, :-1], casting="unsafe")
        rows[:, -1] = TOTAL - (mass[:, -1] - mass[:, 0])
        return rows


def quantize_mixtures(round_: Round, weights: np.ndarray, means: np.ndarray, scales: np.ndarray) -> Mixtures:
    """Round the parameters, each finite float64 (K, n), to the grids with ``round_``.

    Means are clamped to +-2^20, scales to the ends of the grid.

    Raises:
        BitstreamError: the weights are not valid.
    """
    _check(weights)
    tables = normal_tables()
    ends = (SCALE_UNIT * 2.0 ** (end / LEVELS_PER_OCTAVE) for end in (LOWEST_LEVEL, HIGHEST_LEVEL))
    octaves = np.log2(np.clip(scales, *ends) / SCALE_UNIT)
    level = round_(octaves.reshape(-1), LEVELS_PER_OCTAVE).reshape(scales.shape) - LOWEST_LEVEL
    bits = tables.bits[level]
    centred = np.clip(means, -MAX_MEAN, MAX_MEAN) + 0.5
    shift = round_(centred.reshape(-1), np.exp2(bits.reshape(-1))).reshape(means.shape)
    weight = _quantize_weights(round_, weights)
    return Mixtures(weight, shift, level, *_support(weight, shift, bits, tables.radius[level]))


def _check(weights: np.ndarray) -> None:
    if weights.size and (weights.min() < 0 or weights.sum(axis=0).min() <= 0):
        raise BitstreamError(
            "The weights of a mixture are not valid.",
            expected="weights of at least 0 that are not all 0",
            got=f"values from {weights.min():g}",
            to_do="normalise them in the head of the model",
        )


def _quantize_weights(round_: Round, weights: np.ndarray) -> np.ndarray:
    """Return integers (K, n) that sum to 2^12 over K: differences of the rounded cumulative weights."""
    cumulative = np.cumsum(weights, axis=0)
    inner = cumulative[:-1] / cumulative[-1]
    below = round_(inner.reshape(-1), 1 << WEIGHT_BITS).reshape(inner.shape)
    return np.diff(below, axis=0, prepend=0, append=1 << WEIGHT_BITS)


def _support(
    weight: np.ndarray, shift: np.ndarray, bits: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return first symbol and number of symbols, (n,), of the components; at most MAX_WIDTH, around the heaviest."""
    heaviest = weight.argmax(axis=0)[None]
    middle = np.take_along_axis(shift >> bits, heaviest, axis=0)[0]
    seen = weight > 0
    first = np.where(seen, (shift - radius) >> bits, middle).min(axis=0)
    last = np.where(seen, -((-shift - radius) >> bits) - 1, middle).max(axis=0)
    first = np.maximum(first, middle - MAX_WIDTH // 2)
    last = np.minimum(last, middle + MAX_WIDTH // 2 - 1)
    return first, last - first + 1
