"""Bjontegaard differences between two rate-distortion curves, with bootstrap intervals over pictures.

The difference is the mean distance of two curves over the range that both cover (Bjontegaard, VCEG-M33, 2001). Curves
are interpolated by monotone cubics (PCHIP) through quality and the logarithm of rate. Points are pairs of bits per
pixel and quality in dB, in any order. A negative BD-rate means that the test needs fewer bits than the anchor.

Two variants of BD-rate are common, and their values differ. `bd_rate_of_curves` averages the pictures and then compares
the mean curves; `bd_rate_of_images` compares on every picture and then averages the BD-rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from lic_train.errors import BDError
from lic_train.rd.curves import Curve
from lic_train.rd.pchip import mean_between

MIN_POINTS = 4
MIN_OVERLAP = 0.5  # of the shorter of the two ranges
SAMPLES = 2000  # of a bootstrap
LEVEL = 0.95  # of its intervals
Pairs = Sequence[tuple[float, float]]


class Common(NamedTuple):
    """The range of quality in dB that two curves have in common, and its share of each curve's range."""

    low: float
    high: float
    of_anchor: float
    of_test: float


class ImageAverage(NamedTuple):
    """The average of per-picture BD-rates, in percent.

    Attributes:
        mean: mean of ``values``.
        low: lower end of the 95 % interval of ``mean``.
        high: upper end of the interval.
        values: BD-rates by name of the picture.
        left_out: pictures without a BD-rate, with the reason.
    """

    mean: float
    low: float
    high: float
    values: dict[str, float]
    left_out: dict[str, BDError]


def bd_rate(anchor: Pairs, test: Pairs) -> float:
    """Return the mean difference in rate at equal quality, in percent of the anchor's rate.

    Args:
        anchor: pairs (bpp, dB) of the reference.
        test: pairs (bpp, dB) of the compared codec.

    Returns:
        Positive if ``test`` needs more rate than ``anchor``, averaged over `common_quality`.

    Raises:
        BDError: fewer than 4 points, a rate that is not positive and finite, quality that does not increase with rate,
            or less than half of the shorter quality range in common.
    """
    return float(_bd_rate(_checked(anchor, "anchor"), _checked(test, "test")))


def bd_quality(anchor: Pairs, test: Pairs) -> float:
    """Return the mean difference in quality at equal rate in dB, "BD-PSNR"; positive if ``test`` is better.

    Raises:
        BDError: as `bd_rate`, with rate and quality exchanged.
    """
    (log_rate, quality), (test_log_rate, test_quality) = _checked(anchor, "anchor"), _checked(test, "test")
    low, high = _overlap(log_rate, test_log_rate, "log10 of rate")
    return float(mean_between(test_log_rate, test_quality, low, high) - mean_between(log_rate, quality, low, high))


def common_quality(anchor: Pairs, test: Pairs) -> Common:
    """Return the range of quality over which `bd_rate` averages.

    Raises:
        BDError: as `bd_rate`.
    """
    (_, quality), (_, test_quality) = _checked(anchor, "anchor"), _checked(test, "test")
    low, high = _overlap(quality, test_quality, "dB")
    shares = [float((high - low) / (values[-1] - values[0])) for values in (quality, test_quality)]
    return Common(float(low), float(high), *shares)


def bd_rate_of_curves(anchor: Curve, test: Curve, metric: str) -> float:
    """Return `bd_rate` of the mean curves, in percent.

    Args:
        anchor: reference curve.
        test: curve on the same pictures.
        metric: "psnr" or "ms_ssim_db".

    Raises:
        BDError: as `bd_rate`, or the curves are of different pictures.
    """
    require_same_pictures(anchor, test)
    return bd_rate(anchor.with_quality(metric), test.with_quality(metric))


def bd_rate_interval(
    anchor: Curve, test: Curve, metric: str, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of `bd_rate_of_curves` in percent, by Efron's percentile bootstrap over the pictures.

    The same pictures are drawn for both curves, so that the difficulty of a picture cancels.

    Args:
        anchor: reference curve with per-picture results.
        test: curve on the same pictures.
        metric: "psnr" or "ms_ssim_db".
        samples: number of resamples.
        seed: seed of the resamples.

    Raises:
        BDError: as `bd_rate_of_curves`, also for a resample, or a curve has no per-picture results (cited curves).
    """
    number = len(_pictures(anchor, test))
    curves = [_of_images(curve, number, metric) for curve in (anchor, test)]
    weights = _resamples(number, samples, seed)
    resampled = [_mean_curves(rate, quality, metric, weights) for rate, quality in curves]
    try:
        checked = [_check(*pair, whose) for pair, whose in zip(resampled, ("anchor", "test"), strict=True)]
        return _interval(_bd_rate(*checked))
    except BDError as error:
        what = f"No interval, because a resample of the pictures has no BD-rate: {error.what}"
        raise BDError(what, expected=error.expected, got=error.got, to_do=error.to_do) from error


def bd_rate_of_images(anchor: Curve, test: Curve, metric: str, samples: int = SAMPLES, seed: int = 0) -> ImageAverage:
    """Return the average of per-picture BD-rates with its 95 % interval.

    Args:
        anchor: reference curve with per-picture results.
        test: curve on the same pictures.
        metric: "psnr" or "ms_ssim_db".
        samples: number of resamples of the bootstrap over pictures.
        seed: seed of the resamples.

    Raises:
        BDError: the curves are of different pictures or have no per-picture results, or no picture has a BD-rate.
    """
    values, left_out = {}, {}
    for index, name in enumerate(_pictures(anchor, test)):
        try:
            values[name] = bd_rate(_of_image(anchor, index, metric), _of_image(test, index, metric))
        except BDError as error:
            left_out[name] = error
    if not values:
        name, reason = next(iter(left_out.items()))
        raise BDError(
            f"{anchor.name} and {test.name} cannot be compared on any picture.",
            expected="at least one picture with a BD-rate",
            got=f"none; {name}: {reason.what} got: {reason.got}",
        )
    rates = np.array(list(values.values()))
    return ImageAverage(
        float(rates.mean()), *_interval(_resamples(len(rates), samples, seed) @ rates), values, left_out
    )


def require_same_pictures(anchor: Curve, test: Curve) -> None:
    """Verify that two curves are of the same pictures.

    Raises:
        BDError: the image lists differ, or the names of the sets if a curve has no image list (cited curves).
    """
    lists = (anchor.image_list_sha256, test.image_list_sha256)
    same = lists[0] == lists[1] if None not in lists else anchor.set == test.set
    if not same:
        raise BDError(
            f"{anchor.name} and {test.name} are curves of different pictures.",
            expected="the same pictures",
            got=f"{anchor.set} and {test.set}, whose image lists differ",
            to_do="evaluate both on the same set",
        )


def _checked(points: Pairs, whose: str) -> tuple[ndarray, ndarray]:
    table = np.array(sorted(points), dtype=np.float64).reshape(-1, 2)
    return _check(table[:, 0], table[:, 1], whose)


def _check(rate: ndarray, quality: ndarray, whose: str) -> tuple[ndarray, ndarray]:
    """Return log10 of rate and quality of curves (..., points), sorted by rate; raise BDError for invalid points."""
    if rate.shape[-1] < MIN_POINTS:
        raise BDError(
            f"The {whose} curve has too few points.",
            expected=f"at least {MIN_POINTS} points",
            got=str(rate.shape[-1]),
            to_do="add rates",
        )
    invalid = ~(np.isfinite(rate) & np.isfinite(quality) & (rate > 0))
    if invalid.any():
        raise BDError(
            f"The {whose} curve has an invalid point.",
            expected="positive, finite rates and finite qualities",
            got=f"{quality[invalid][0]:g} dB at {rate[invalid][0]:g} bpp",
        )
    order = np.argsort(rate, axis=-1)
    rate, quality = np.take_along_axis(rate, order, -1), np.take_along_axis(quality, order, -1)
    falls = (np.diff(rate) <= 0) | (np.diff(quality) <= 0)
    if falls.any():
        *curve, at = np.argwhere(falls)[0]
        (r0, r1), (q0, q1) = (values[tuple(curve)][at : at + 2] for values in (rate, quality))
        raise BDError(
            f"The quality of the {whose} curve does not increase with its rate.",
            expected="quality that increases with rate",
            got=f"{q1:.4f} dB at {r1:.4f} bpp after {q0:.4f} dB at {r0:.4f} bpp",
            to_do="remove one of the two points",
        )
    return np.log10(rate), quality


def _bd_rate(anchor: tuple[ndarray, ndarray], test: tuple[ndarray, ndarray]) -> ndarray:
    """Return BD-rates in percent of checked curves (..., points)."""
    low, high = _overlap(anchor[1], test[1], "dB")
    difference = mean_between(test[1], test[0], low, high) - mean_between(anchor[1], anchor[0], low, high)
    return (10**difference - 1) * 100


def _overlap(anchor: ndarray, test: ndarray, unit: str) -> tuple[ndarray, ndarray]:
    """Return both ends of the common range of increasing values (..., points)."""
    low, high = np.maximum(anchor[..., 0], test[..., 0]), np.minimum(anchor[..., -1], test[..., -1])
    shorter = np.minimum(anchor[..., -1] - anchor[..., 0], test[..., -1] - test[..., 0])
    little = high - low < MIN_OVERLAP * shorter
    if little.any():
        first = np.flatnonzero(little)[0]
        part = max(0.0, float(np.ravel((high - low) / shorter)[first]))
        ranges = [f"{np.ravel(v[..., 0])[first]:.2f} to {np.ravel(v[..., -1])[first]:.2f}" for v in (anchor, test)]
        raise BDError(
            "The two curves overlap too little.",
            expected=f"at least {MIN_OVERLAP:.0%} of the shorter range in common",
            got=f"{part:.0%}: the anchor covers {ranges[0]} {unit}, the test {ranges[1]} {unit}",
            to_do="add rates in the range of the other curve",
        )
    return low, high


def _interval(values: ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _pictures(anchor: Curve, test: Curve) -> list[str]:
    """Return the names of the pictures, which must be the same at every point of both curves."""
    require_same_pictures(anchor, test)
    lists = {tuple(image.name for image in point.images) for curve in (anchor, test) for point in curve.points}
    if len(lists) != 1 or lists == {()}:
        raise BDError(
            f"{anchor.name} and {test.name} cannot be compared picture by picture.",
            expected="results of the same pictures at every point",
            got="no results of single pictures" if () in lists else "different pictures",
            to_do="compare the mean curves; cited curves have no results of single pictures",
        )
    return list(lists.pop())


def _of_image(curve: Curve, index: int, metric: str) -> list[tuple[float, float]]:
    pairs = [(point.images[index].bpp, getattr(point.images[index], metric)) for point in curve.points]
    if any(quality is None for _, quality in pairs):
        raise BDError(
            f"{curve.name} has points without {metric}.",
            expected=f"{metric} at every point",
            got="none at some points: the reconstruction is exact, or the picture is too small",
        )
    return pairs


def _of_images(curve: Curve, number: int, metric: str) -> tuple[ndarray, ndarray]:
    """Return rates and qualities, each (pictures, points)."""
    table = np.array([_of_image(curve, index, metric) for index in range(number)])
    return table[..., 0], table[..., 1]


def _resamples(number: int, samples: int, seed: int) -> ndarray:
    """Return weights (samples, number) of means over ``number`` pictures drawn with replacement."""
    return np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=samples) / number


def _mean_curves(rate: ndarray, quality: ndarray, metric: str, weights: ndarray) -> tuple[ndarray, ndarray]:
    """Return rates and qualities (samples, points) of weighted pictures; MS-SSIM is averaged before it becomes dB."""
    if metric == "ms_ssim_db":
        return weights @ rate, -10 * np.log10(weights @ 10 ** (-quality / 10))
    return weights @ rate, weights @ quality
