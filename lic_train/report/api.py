"""BD-rates by name, file or points: the function behind ``lic_train.bd_rate``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from lic_train.anchors.stored import HERE as ANCHORS
from lic_train.anchors.stored import stored_anchors
from lic_train.errors import BDError
from lic_train.rd import bd, curves
from lic_train.rd.curves import METRICS, Curve
from lic_train.rd.style import METRIC_NAMES
from lic_train.report import cited
from lic_train.system.reading import printable

Points = Sequence[tuple[float, float]]
Source = Points | str | os.PathLike[str]


def bd_rate(anchor: Source, test: Source, metric: str = "psnr", set: str = "kodak") -> float:
    """Return the Bjontegaard rate difference of two rate-distortion curves, in percent of the anchor's rate.

    Negative values mean that ``test`` needs fewer bits than ``anchor`` for the same quality. See `lic_train.rd.bd` for
    the definition.

    Args:
        anchor: reference curve: a sequence of (bpp, quality in dB) pairs, the path of a curve file of
            `lic_train.rd.curves`, or the name of a stored curve: a classical codec ("vvc", "hevc", ...) or a published
            one ("vtm18", "tinylic_cited", ...).
        test: compared curve, in any of these forms.
        metric: "psnr" or "ms_ssim_db"; ignored for pairs.
        set: picture set of stored curves.

    Raises:
        BDError: an unknown metric or name, invalid or too few points, too little overlap, or curves of different
            pictures.
        DataError: a file is not a rate-distortion curve.

    Example:
        >>> bd_rate("vvc", [(0.15, 29.9), (0.31, 32.4), (0.58, 35.1), (0.97, 37.6)])
    """
    if metric not in METRICS:
        raise BDError(f"There is no metric {printable(metric)}.", expected=" or ".join(METRICS), got=printable(metric))
    first, second = _resolve(anchor, set), _resolve(test, set)
    if isinstance(first, Curve) and isinstance(second, Curve):
        bd.require_same_pictures(first, second)
    return bd.bd_rate(_points(first, metric), _points(second, metric))


def _resolve(source: Source, set_name: str) -> Curve | Points:
    """Return the curve of a name or file; return points unchanged."""
    if isinstance(source, str):
        stored = _stored(set_name)
        if source in stored:
            return stored[source]
        if not source.endswith(".json") and not Path(source).is_file():
            raise _unknown(source, set_name, list(stored))
    return curves.load(Path(source)) if isinstance(source, str | os.PathLike) else source


def _stored(set_name: str) -> dict[str, Curve]:
    return {curve.key: curve for curve in (*stored_anchors(set_name), *cited.curves(set_name))}


def _unknown(name: str, set_name: str, known: list[str]) -> BDError:
    if not known:
        sets = sorted(
            {path.name for folder in (ANCHORS, cited.HERE) for path in folder.iterdir() if any(path.glob("*.json"))}
        )
        return BDError(f"There are no stored curves on {printable(set_name)}.", expected=f"one of {', '.join(sets)}")
    return BDError(
        f"There is no stored curve {printable(name)} on {printable(set_name)}.",
        expected=f"one of {', '.join(sorted(known))}",
        got=printable(name),
        to_do=f"choose {' or '.join(near)}" if (near := difflib.get_close_matches(name, known)) else "",
    )


def _points(source: Curve | Points, metric: str) -> Points:
    """Return the points of a curve in one metric, or validate that points are pairs of numbers."""
    if isinstance(source, Curve):
        if not (points := source.with_quality(metric)):
            raise BDError(f"{source.name} has no {METRIC_NAMES[metric]}.", expected="a curve in this metric")
        return points
    try:
        return [(float(bpp), float(quality)) for bpp, quality in source]
    except (TypeError, ValueError) as error:
        raise BDError(
            "A curve is not a sequence of points.",
            expected="(bpp, quality) pairs, the path of a curve file, or the name of a stored curve",
            got=printable(repr(source)),
        ) from error
