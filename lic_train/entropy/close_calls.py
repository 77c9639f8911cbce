"""Rounding on which encoder and decoder agree although their values differ in the last digits.

Everything that selects a probability or a reconstruction point is a float64 value that is rounded to an integer. Two
machines compute values that differ by about 1e-15; they round differently only near a boundary between two integers.
The encoder records such close calls, their position in the sequence of all rounded values and their side, and the
decoder follows the record. A decoder is exact if none of its values x differs from the encoder's by more than
``DIFFERENCE * max(1, |x|)``.

A record is a sequence of LEB128 numbers, one per close call: twice the distance to the position of the close call
before it (the first: to -1), plus 1 if the value was rounded up. A 0 ends the record. A string without close calls has
none (see `lic_train.entropy.coder`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lic_train.errors import BitstreamError

# 100,000 times the largest difference that was measured between two sets of float64 kernels.
DIFFERENCE = 2.5e-10
# Limit of the margin, in steps of the grid.
LARGEST_MARGIN = 0.2
# A decoder whose value at a recorded position is farther from a boundary is not the decoder of this string.
TOLERANCE = 0.25
# The record of an encoder without close calls.
NO_CLOSE_CALLS = b"\0"
# Positions fit in 62 bits: 9 groups of 7.
_LONGEST = 9

# Steps of a grid per unit: one number, or one for each value.
Steps = float | np.ndarray


class CloseCallWriter:
    """Rounding of an encoder, with the record of its close calls."""

    def __init__(self) -> None:
        self._seen, self._last = 0, -1
        self._record = bytearray()

    def round(self, values: np.ndarray, steps: Steps) -> np.ndarray:
        """Round finite float64 ``values * steps`` (n,) to the nearest int64 and record the close calls."""
        scaled = values * steps
        nearest = np.rint(scaled)
        offset = scaled - nearest
        margin = np.minimum(np.maximum(np.abs(scaled), steps) * DIFFERENCE, LARGEST_MARGIN)
        for index in np.flatnonzero(np.abs(offset) > 0.5 - margin):
            self._add(self._seen + int(index), rounded_up=offset[index] < 0)
        self._seen += len(values)
        return nearest.astype(np.int64)

    def _add(self, position: int, rounded_up: bool) -> None:
        number = 2 * (position - self._last) + rounded_up
        self._last = position
        while number > 0x7F:
            self._record.append(number & 0x7F | 0x80)
            number >>= 7
        self._record.append(number)

    def finish(self) -> bytes:
        """Return the record."""
        return bytes(self._record) + b"\0"


class CloseCallReader:
    """Rounding of a decoder, which follows the record at the beginning of ``data``.

    ``size`` is the number of bytes of the record.

    Raises:
        BitstreamError: the record is cut short, or a number is not valid.
    """

    def __init__(self, data: bytes) -> None:
        positions, sides, self.size = _parse(data)
        self._positions = np.cumsum(np.array(positions, dtype=np.int64)) - 1
        self._sides = np.array(sides, dtype=np.int64)
        self._seen = self._used = 0

    def round(self, values: np.ndarray, steps: Steps) -> np.ndarray:
        """Round finite float64 ``values * steps`` (n,) to int64 as the encoder did.

        Raises:
            BitstreamError: a value at a recorded position is not near a boundary.
        """
        scaled = values * steps
        nearest = np.rint(scaled).astype(np.int64)
        end = int(np.searchsorted(self._positions, self._seen + len(values)))
        if end > self._used:
            at = self._positions[self._used : end] - self._seen
            below = np.floor(scaled[at])
            if np.abs(scaled[at] - below - 0.5).max() > TOLERANCE:
                raise _invalid("a position whose value is not near a boundary")
            nearest[at] = below.astype(np.int64) + self._sides[self._used : end]
            self._used = end
        self._seen += len(values)
        return nearest

    def finish(self) -> None:
        """Check that the whole record was used.

        Raises:
            BitstreamError: the record has positions after the last value.
        """
        if self._used < len(self._positions):
            raise _invalid("a position after the last value")


def _parse(data: bytes) -> tuple[list[int], list[int], int]:
    """Return distances, sides and the number of bytes of the record that ``data`` begins with."""
    distances: list[int] = []
    sides: list[int] = []
    numbers, size, total = iter(data), 0, 0
    while True:
        number, length = _number(numbers)
        size += length
        if number == 0:
            return distances, sides, size
        distances.append(number >> 1)
        sides.append(number & 1)
        total += number >> 1
        if number == 1 or total > 1 << 62:
            raise _invalid("positions that do not increase or are too large")


def _number(data: Iterable[int]) -> tuple[int, int]:
    """Return the next number of ``data`` and its number of bytes."""
    number = 0
    for length, byte in enumerate(data):
        number |= (byte & 0x7F) << 7 * length
        if byte < 0x80 and (byte or not length):
            return number, length + 1
        if byte == 0 or length + 1 == _LONGEST:
            raise _invalid("a number with too many bytes")
    raise _invalid("a record that is cut short")


def _invalid(got: str) -> BitstreamError:
    return BitstreamError(
        "The record of close calls of an entropy-coded section is damaged.",
        expected="the record of the encoder",
        got=got,
    )
