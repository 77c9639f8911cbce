"""Bjontegaard differences between two rate-distortion curves, with intervals over pictures.

The mean distance of two curves, each interpolated by monotone cubics (PCHIP; Fritsch and Butland, SIAM J. Sci. Stat.
Comput. 5, 1984) through quality and the logarithm of rate, over the range that both cover (Bjontegaard, VCEG-M33,
2001). Points are pairs of bits per pixel and quality in dB, in any order. Negative BD-rate: the test needs fewer bits.

Two variants are in use, and they differ: of the mean curve (`bd_rate_of_curves`: average the pictures, then compare),
and the average of per-image BD-rates (`bd_rate_of_images`: compare on every picture, then average).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from lic_train.errors import BDError
from lic_train.rd.curves import Curve

MIN_POINTS = 4
MIN_OVERLAP = 0.5  # of the shorter of the two ranges
SAMPLES = 2000  # of a bootstrap
LEVEL = 0.95  # of its intervals
Pairs = Sequence[tuple[float, float]]


class Common(NamedTuple):
    """The range of quality (dB) or rate (bits per pixel) that two curves share, and its part of either's range.

    The parts are of logarithms where the range is of rates.
    """

    low: float
    high: float
    of_anchor: float
    of_test: float


class ImageAverage(NamedTuple):
    """BD-rates picture by picture, in percent.

    Attributes:
        mean: of ``values``.
        low: lower end of the 95 % interval of ``mean``.
        high: upper end.
        values: by picture.
        left_out: pictures without a BD-rate, and the reason.
    """

    mean: float
    low: float
    high: float
    values: dict[str, float]
    left_out: dict[str, str]


def bd_rate(anchor: Pairs, test: Pairs) -> float:
    """Percent more (positive) or less rate that ``test`` needs for the quality of ``anchor``, over `common_quality`.

    Raises:
        BDError: fewer than 4 points, a rate that is not positive and finite, quality that does not rise with rate, or
            less than half of the shorter quality range in common.
    """
    return float(_bd_rate(_checked(anchor, "anchor"), _checked(test, "test")))


def bd_quality(anchor: Pairs, test: Pairs) -> float:
    """dB more (positive) or less quality that ``test`` gives at the rate of ``anchor``, over `common_rate`: BD-PSNR.

    Raises:
        BDError: as `bd_rate`, with rate and quality exchanged.
    """
    (log_rate, quality), (test_log_rate, test_quality) = _checked(anchor, "anchor"), _checked(test, "test")
    low, high = _overlap(log_rate, test_log_rate, "log10 of rate")
    return float(_mean(test_log_rate, test_quality, low, high) - _mean(log_rate, quality, low, high))


def common_quality(anchor: Pairs, test: Pairs) -> Common:
    """The range of quality, in dB, that `bd_rate` averages over. Raises BDError as it does."""
    (_, quality), (_, test_quality) = _checked(anchor, "anchor"), _checked(test, "test")
    return _common(quality, test_quality, *_overlap(quality, test_quality, "dB"))


def common_rate(anchor: Pairs, test: Pairs) -> Common:
    """The range of rate, in bits per pixel, that `bd_quality` averages over. Raises BDError as it does."""
    (log_rate, _), (test_log_rate, _) = _checked(anchor, "anchor"), _checked(test, "test")
    common = _common(log_rate, test_log_rate, *_overlap(log_rate, test_log_rate, "log10 of rate"))
    return common._replace(low=10**common.low, high=10**common.high)


def bd_rate_of_curves(anchor: Curve, test: Curve, metric: str) -> float:
    """`bd_rate` of the mean curves, in percent.

    Args:
        anchor: what ``test`` is compared with.
        test: of the same pictures.
        metric: "psnr" or "ms_ssim_db".

    Raises:
        BDError: as `bd_rate`, or the curves are of different pictures.
    """
    require_same_pictures(anchor, test)
    return bd_rate(anchor.with_quality(metric), test.with_quality(metric))


def bd_rate_interval(
    anchor: Curve, test: Curve, metric: str, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of `bd_rate_of_curves`, in percent: percentiles over resampled pictures (Efron's bootstrap).

    Both curves are resampled alike, so that what they have in common on a hard picture cancels.

    Raises:
        BDError: as `bd_rate_of_curves`, also if that befalls a resample; or a curve has no pictures, as cited ones.
    """
    number = len(_pictures(anchor, test))
    curves = [_of_images(curve, number, metric) for curve in (anchor, test)]
    weights = _resamples(number, samples, seed)
    resampled = [_mean_curves(rate, quality, metric, weights) for rate, quality in curves]
    try:
        checked = [_check(*pair, whose) for pair, whose in zip(resampled, ("anchor", "test"), strict=True)]
        return _interval(_bd_rate(*checked))
    except BDError as error:
        raise BDError(f"no interval: for some choice of pictures, {error}") from error


def bd_rate_of_images(anchor: Curve, test: Curve, metric: str, samples: int = SAMPLES, seed: int = 0) -> ImageAverage:
    """The average of per-image BD-rates with its 95 % interval; what cannot be compared is listed.

    Args:
        anchor: what ``test`` is compared with.
        test: of the same pictures.
        metric: "psnr" or "ms_ssim_db".
        samples: of the bootstrap over pictures.
        seed: of the bootstrap.

    Raises:
        BDError: the curves are of different pictures or have none, or no picture has a BD-rate.
    """
    values, left_out = {}, {}
    for index, name in enumerate(_pictures(anchor, test)):
        try:
            values[name] = bd_rate(_of_image(anchor, index, metric), _of_image(test, index, metric))
        except BDError as error:
            left_out[name] = str(error)
    if not values:
        name, reason = next(iter(left_out.items()))
        raise BDError(f"expected a picture on which the curves can be compared, got none; of {name}: {reason}")
    rates = np.array(list(values.values()))
    return ImageAverage(
        float(rates.mean()), *_interval(_resamples(len(rates), samples, seed) @ rates), values, left_out
    )


def require_same_pictures(anchor: Curve, test: Curve) -> None:
    """Refuse to compare curves of different pictures.

    Raises:
        BDError: the image lists differ; or, where a curve is cited and has no list, the names of the sets differ.
    """
    lists = (anchor.image_list_sha256, test.image_list_sha256)
    same = lists[0] == lists[1] if None not in lists else anchor.set == test.set
    if not same:
        raise BDError(
            f"expected two curves of the same pictures, got {anchor.name} on {anchor.set} and {test.name} on "
            f"{test.set}, whose image lists differ; evaluate both on one set"
        )


def _checked(points: Pairs, whose: str) -> tuple[ndarray, ndarray]:
    table = np.array(sorted(points), dtype=np.float64).reshape(-1, 2)
    return _check(table[:, 0], table[:, 1], whose)


def _check(rate: ndarray, quality: ndarray, whose: str) -> tuple[ndarray, ndarray]:
    """Log-rate and quality of curves (..., points), in the order of rising rate."""
    if rate.shape[-1] < MIN_POINTS:
        raise BDError(f"expected at least {MIN_POINTS} points of the {whose}, got {rate.shape[-1]}; add rates")
    if not (np.isfinite(rate).all() and np.isfinite(quality).all() and (rate > 0).all()):
        raise BDError(f"expected positive, finite rates and finite qualities of the {whose}, got others")
    order = np.argsort(rate, axis=-1)
    rate, quality = np.take_along_axis(rate, order, -1), np.take_along_axis(quality, order, -1)
    falls = (np.diff(rate) <= 0) | (np.diff(quality) <= 0)
    if falls.any():
        *curve, at = np.argwhere(falls)[0]
        (r0, r1), (q0, q1) = (values[tuple(curve)][at : at + 2] for values in (rate, quality))
        raise BDError(
            f"expected the quality of the {whose} to rise with its rate, got {q1:.4f} dB at {r1:.4f} bpp after "
            f"{q0:.4f} dB at {r0:.4f} bpp; leave one of the points out"
        )
    return np.log10(rate), quality


def _bd_rate(anchor: tuple[ndarray, ndarray], test: tuple[ndarray, ndarray]) -> ndarray:
    """Percent, for checked curves (..., points)."""
    low, high = _overlap(anchor[1], test[1], "dB")
    difference = _mean(test[1], test[0], low, high) - _mean(anchor[1], anchor[0], low, high)
    return (10**difference - 1) * 100


def _overlap(anchor: ndarray, test: ndarray, unit: str) -> tuple[ndarray, ndarray]:
    """Both ends of the common range of rising values (..., points)."""
    low, high = np.maximum(anchor[..., 0], test[..., 0]), np.minimum(anchor[..., -1], test[..., -1])
    shorter = np.minimum(anchor[..., -1] - anchor[..., 0], test[..., -1] - test[..., 0])
    little = high - low < MIN_OVERLAP * shorter
    if little.any():
        first = np.flatnonzero(little)[0]
        part = max(0.0, float(np.ravel((high - low) / shorter)[first]))
        ranges = [f"{np.ravel(v[..., 0])[first]:.2f} to {np.ravel(v[..., -1])[first]:.2f}" for v in (anchor, test)]
        raise BDError(
            f"expected at least {MIN_OVERLAP:.0%} of the shorter range in common, got {part:.0%}: the anchor covers "
            f"{ranges[0]} {unit}, the test {ranges[1]} {unit}; add rates where the other curve is"
        )
    return low, high


def _common(anchor: ndarray, test: ndarray, low: ndarray, high: ndarray) -> Common:
    parts = [float((high - low) / (values[-1] - values[0])) for values in (anchor, test)]
    return Common(float(low), float(high), *parts)


def _mean(x: ndarray, y: ndarray, low: ndarray, high: ndarray) -> ndarray:
    """Mean over [low, high] of the monotone cubics through (x, y), both (..., points) and rising; returns (...)."""
    step, slope = np.diff(x), _slopes(x, y)
    pieces = (y[..., :-1], y[..., 1:], step * slope[..., :-1], step * slope[..., 1:])
    ends = (np.clip((end[..., None] - x[..., :-1]) / step, 0, 1) for end in (low, high))
    from_low, to_high = (_primitive(t, *pieces) for t in ends)
    return ((to_high - from_low) * step).sum(axis=-1) / (high - low)


def _primitive(t: ndarray, y0: ndarray, y1: ndarray, d0: ndarray, d1: ndarray) -> ndarray:
    """Integral over [0, t] of the Hermite cubic with these values and derivatives at 0 and 1."""
    return (
        y0 * (t - t**3 + t**4 / 2)
        + y1 * (t**3 - t**4 / 2)
        + d0 * (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4)
        + d1 * (t**4 / 4 - t**3 / 3)
    )


def _slopes(x: ndarray, y: ndarray) -> ndarray:
    """Derivatives at the points: weighted harmonic means inside, three-point formulas, never falling, at the ends."""
    step = np.diff(x)
    chord = np.diff(y) / step
    before, after = 2 * step[..., 1:] + step[..., :-1], step[..., 1:] + 2 * step[..., :-1]
    inside = (before + after) / (before / chord[..., :-1] + after / chord[..., 1:])
    ends = (_end(step[..., i], step[..., j], chord[..., i], chord[..., j]) for i, j in ((0, 1), (-1, -2)))
    first, last = ends
    return np.concatenate([first[..., None], inside, last[..., None]], axis=-1)


def _end(step: ndarray, next_step: ndarray, chord: ndarray, next_chord: ndarray) -> ndarray:
    return np.maximum(((2 * step + next_step) * chord - step * next_chord) / (step + next_step), 0)


def _interval(values: ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _pictures(anchor: Curve, test: Curve) -> list[str]:
    """Names of the pictures, which every point of both curves must have alike."""
    require_same_pictures(anchor, test)
    lists = {tuple(image.name for image in point.images) for curve in (anchor, test) for point in curve.points}
    if len(lists) != 1 or lists == {()}:
        raise BDError(
            f"expected per-image results of the same pictures at every point of {anchor.name} and {test.name}, got "
            f"{'none' if () in lists else 'different ones'}; a cited curve has none, use the mean curve alone"
        )
    return list(lists.pop())


def _of_image(curve: Curve, index: int, metric: str) -> list[tuple[float, float]]:
    pairs = [(point.images[index].bpp, getattr(point.images[index], metric)) for point in curve.points]
    if any(quality is None for _, quality in pairs):
        raise BDError(f"expected {metric} at every point of {curve.name}, got none at some (unchanged, or too small)")
    return pairs


def _of_images(curve: Curve, number: int, metric: str) -> tuple[ndarray, ndarray]:
    """Rates and qualities, each (pictures, points)."""
    table = np.array([_of_image(curve, index, metric) for index in range(number)])
    return table[..., 0], table[..., 1]


def _resamples(number: int, samples: int, seed: int) -> ndarray:
    """Weights (samples, number) of a mean over ``number`` pictures drawn with replacement."""
    return np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=samples) / number


def _mean_curves(rate: ndarray, quality: ndarray, metric: str, weights: ndarray) -> tuple[ndarray, ndarray]:
    """Rates and qualities (samples, points) of weighted pictures; MS-SSIM is averaged before it becomes dB."""
    if metric == "ms_ssim_db":
        return weights @ rate, -10 * np.log10(weights @ 10 ** (-quality / 10))
    return weights @ rate, weights @ quality
