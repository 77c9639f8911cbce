"""Reading metrics.csv: the newest value of each column, and curves of bounded length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lic_train.system.reading import MAX_LINE, lines, rows

TAIL_BYTES = 2**16  # more than the rows that one validation writes
MAX_NUMBER = 1e100  # sums and squares of larger numbers overflow


class Buckets:
    """Means over groups of consecutive values; there are at most ``limit`` groups of equal size."""

    def __init__(self, limit: int = 300) -> None:
        self._limit = limit
        self._size = 1  # values per bucket
        self._sums: list[list[float]] = []  # per bucket: sum of steps, sum of values, count

    def add(self, step: float, value: float) -> None:
        """Add the next value."""
        if not self._sums or self._sums[-1][2] == self._size:
            if len(self._sums) == self._limit:
                self._halve()
            self._sums.append([0.0, 0.0, 0])
        bucket = self._sums[-1]
        bucket[0], bucket[1], bucket[2] = bucket[0] + step, bucket[1] + value, bucket[2] + 1

    def means(self) -> tuple[list[float], list[float]]:
        """Return the mean step and the mean value of each bucket."""
        return [step / n for step, _, n in self._sums], [value / n for _, value, n in self._sums]

    def _halve(self) -> None:
        pairs = [self._sums[i : i + 2] for i in range(0, len(self._sums), 2)]
        self._sums = [[sum(column) for column in zip(*pair, strict=True)] for pair in pairs]
        self._size *= 2


def read_log(path: Path, names: Sequence[str], limit: int = 300) -> dict[str, tuple[list[float], list[float]]]:
    """Read training curves of bounded length.

    Args:
        path: a metrics.csv.
        names: columns to read; those that the file lacks are absent from the result.
        limit: largest number of points per curve. Longer curves are reduced to means over consecutive values.

    Returns:
        Steps and values by column. Cells without a finite number are skipped.
    """
    buckets = {name: Buckets(limit) for name in names}
    table = rows(lines(path))
    columns = {name: number for number, name in enumerate(next(table, []))}
    for row in table:
        cells = {name: row[number] for name, number in columns.items() if number < len(row)}
        step = _number(cells.get("step"))
        for name, bucket in buckets.items():
            if step is not None and (value := _number(cells.get(name))) is not None:
                bucket.add(step, value)
    return {name: means for name, bucket in buckets.items() if (means := bucket.means())[0]}


def last_values(path: Path) -> dict[str, float]:
    """Return the newest finite value of each column, from the header and the last `TAIL_BYTES` of the file.

    A missing or damaged file gives an empty result. An incomplete last row, which may still be being written, is
    ignored.
    """
    try:
        header, tail = _header_and_tail(path)
    except OSError:
        return {}
    columns = next(rows([header]), [])
    values: dict[str, float] = {}
    for row in rows(tail.split("\n")[:-1]):
        if len(row) == len(columns):
            cells = zip(columns, map(_number, row), strict=True)
            values |= {name: value for name, value in cells if value is not None}
    return values


def last_step(path: Path) -> int:
    """Return the last logged step; 0 if there is none."""
    return int(last_values(path).get("step", 0))


def _header_and_tail(path: Path) -> tuple[str, str]:
    if not path.is_file():  # opening a pipe would block
        return "", ""
    with path.open("rb") as file:
        header = file.readline(MAX_LINE)
        file.seek(max(len(header), path.stat().st_size - TAIL_BYTES))
        return header.decode(errors="replace"), file.read(TAIL_BYTES).decode(errors="replace")


def _number(cell: object) -> float | None:
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if abs(value) <= MAX_NUMBER else None
