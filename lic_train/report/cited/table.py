"""Tables of published rate-distortion points, and the curves in them.

A table is a TSV file with one point per line and the columns of `COLUMNS`, in any order. A cell may be empty where the
source does not state a value; ``trained_for`` is ``mse``, ``ms_ssim`` or ``-`` (not a trained codec).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lic_train.config.names import group_options
from lic_train.errors import DataError
from lic_train.rd import curves
from lic_train.rd.curves import Curve, Point
from lic_train.rd.style import lambda_label
from lic_train.system.reading import Unreadable, printable, read_bytes

COLUMNS = ("set", "key", "name", "trained_for", "point", "lambda", "bpp", "psnr_db", "ms_ssim_db", "source", "note")
# (name of a set in published tables, name of the same pictures in conf/eval)
_SETS = {"clic2020_professional_valid": "clic"}
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_POINTS = 10_000
_Row = dict[str, str]


def read_table(path: Path) -> list[Curve]:
    """Return the curves of a table, in the order of their first points.

    Raises:
        DataError: the table is unreadable, a column is missing, or a cell is not valid.
    """
    try:
        text = read_bytes(path).decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE, restval=""))
    except (Unreadable, UnicodeDecodeError, csv.Error) as error:
        raise _invalid(path, "a TSV file in UTF-8", str(error)) from error
    if missing := [name for name in COLUMNS if not rows or name not in rows[0]]:
        got = f"no column {', '.join(missing)}" if rows else "no line after the header"
        raise _invalid(path, f"a header with {', '.join(COLUMNS)} and at least one point", got)
    if len(rows) > _MAX_POINTS:
        raise _invalid(path, f"at most {_MAX_POINTS} points", f"{len(rows)} points")
    groups: dict[tuple[str, str], list[tuple[int, _Row]]] = {}
    for line, row in enumerate(rows, start=2):
        groups.setdefault((row["set"], row["key"]), []).append((line, row))
    return [_curve(path, group) for group in groups.values()]


def write_curves(found: Iterable[Curve], folder: Path) -> list[Path]:
    """Write every curve to ``folder/<set>/<key>.json`` and return the paths."""
    paths = []
    for curve in found:
        paths.append(folder / curve.set / f"{curve.key}.json")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        curves.save(paths[-1], curve)
    return paths


def _curve(path: Path, group: Sequence[tuple[int, _Row]]) -> Curve:
    line, first = group[0]
    for column in ("set", "key"):
        if not _IDENTIFIER.fullmatch(first[column]):
            raise _invalid(path, f"letters, digits, _, . and - as {column}", printable(first[column]), line)
    if not first["name"] or not first["source"]:
        raise _invalid(path, "a name and a source for every curve", "an empty cell", line)
    points = [(_point(path, line, row), _number(path, line, row, "lambda")) for line, row in group]
    points.sort(key=lambda pair: pair[0].bpp)
    about: dict[str, Any] = {
        "source": first["source"],
        "paper": first["name"],
        "model": _model(first["key"]),
        "pictures": first["set"],
    }
    if first["trained_for"] in ("mse", "ms_ssim"):
        about["distortion"] = first["trained_for"]
    if first["note"]:
        about["note"] = first["note"]
    lambdas = [lmbda for _, lmbda in points]
    if None not in lambdas:
        about["lambdas"] = lambdas
    set_name = _SETS.get(first["set"], first["set"])
    return Curve(first["key"], first["name"], "cited", set_name, tuple(point for point, _ in points), about=about)


def _point(path: Path, line: int, row: _Row) -> Point:
    bpp, psnr, ms_ssim_db = (_number(path, line, row, column) for column in ("bpp", "psnr_db", "ms_ssim_db"))
    if bpp is None:
        raise _invalid(path, "a number in bpp", "an empty cell", line)
    lmbda = _number(path, line, row, "lambda")
    label = lambda_label(lmbda) if lmbda is not None else f"point {printable(row['point'])}"
    return Point(label, bpp, psnr, ms_ssim_db)


def _number(path: Path, line: int, row: _Row, column: str) -> float | None:
    """Return the positive number of a cell; None if the cell is empty."""
    if not (cell := row[column].strip()):
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise _invalid(path, f"a positive number in {column}", printable(cell), line)
    return value


def _model(key: str) -> str | None:
    """Return the model of this package with the name ``key``, with or without the distortion at its end."""
    name = re.sub(r"_(mse|ms_ssim)$", "", key)
    return name if name in group_options("model") else None


def _invalid(path: Path, expected: str, got: str, line: int | None = None) -> DataError:
    where = f"Line {line} of {printable(path)}" if line else printable(path)
    return DataError(f"{where} is not valid in a table of published curves.", expected=expected, got=got)
