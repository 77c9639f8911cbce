"""Training curves from metrics.csv, at most a few hundred points of however many lines."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from lic_train.system.reading import lines


class Buckets:
    """Means over equal numbers of neighbouring values; never more than ``limit`` of them."""

    def __init__(self, limit: int = 300) -> None:
        self._limit = limit
        self._size = 1  # values in a bucket
        self._sums: list[list[float]] = []  # of steps and values, with their number

    def add(self, step: float, value: float) -> None:
        """Take in the next value."""
        if not self._sums or self._sums[-1][2] == self._size:
            if len(self._sums) == self._limit:
                self._halve()
            self._sums.append([0.0, 0.0, 0])
        bucket = self._sums[-1]
        bucket[0], bucket[1], bucket[2] = bucket[0] + step, bucket[1] + value, bucket[2] + 1

    def means(self) -> tuple[list[float], list[float]]:
        """Steps and values."""
        return [step / n for step, _, n in self._sums], [value / n for _, value, n in self._sums]

    def _halve(self) -> None:
        pairs = [self._sums[i : i + 2] for i in range(0, len(self._sums), 2)]
        self._sums = [[sum(column) for column in zip(*pair, strict=True)] for pair in pairs]
        self._size *= 2


def read_log(path: Path, names: Sequence[str], limit: int = 300) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of each column of ``names`` that ``path`` has; cells that hold no finite number are passed over.

    Where there are more than ``limit`` values, each is the mean over neighbouring ones.
    """
    buckets = {name: Buckets(limit) for name in names}
    for row in _rows(path):
        step = _number(row.get("step"))
        for name, bucket in buckets.items():
            if step is not None and (value := _number(row.get(name))) is not None:
                bucket.add(step, value)
    return {name: means for name, bucket in buckets.items() if (means := bucket.means())[0]}


def last_step(path: Path) -> int:
    """The last step that was logged; 0 if none was."""
    steps = [step for row in _rows(path) if (step := _number(row.get("step"))) is not None][-1:]
    return int(steps[0]) if steps else 0


def _rows(path: Path) -> Iterator[dict[str | None, str | list[str]]]:
    try:
        yield from csv.DictReader(lines(path))
    except (csv.Error, OSError):  # the rest is no table
        return


def _number(cell: object) -> float | None:
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
