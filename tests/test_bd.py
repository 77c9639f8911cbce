"""Bjontegaard differences: comparison with another implementation, closed-form cases, errors."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import bjontegaard
import numpy as np
import pytest

from lic_train.errors import BDError
from lic_train.rd import bd
from lic_train.rd.curves import Curve, ImagePoint, Point

ANCHOR = [(0.12, 28.1), (0.25, 30.4), (0.49, 33.0), (0.81, 35.6), (1.4, 38.9)]


def random_curve(generator):
    number = generator.integers(4, 9)
    rates, qualities = np.sort(generator.uniform(0.05, 2, number)), np.sort(generator.uniform(25, 42, number))
    return list(zip(rates.tolist(), qualities.tolist(), strict=True))


def test_matches_the_bjontegaard_package():
    generator = np.random.default_rng(0)
    options = {"method": "pchip", "min_overlap": 0, "require_matching_points": False}
    compared = 0
    for _ in range(200):
        anchor, test = random_curve(generator), random_curve(generator)
        columns = [np.array(column) for curve in (anchor, test) for column in zip(*curve, strict=True)]
        with warnings.catch_warnings(action="ignore"):
            rate, quality = bjontegaard.bd_rate(*columns, **options), bjontegaard.bd_psnr(*columns, **options)
        try:
            assert bd.bd_rate(anchor, test) == pytest.approx(rate, abs=0.01)
            assert bd.bd_quality(anchor, test) == pytest.approx(quality, abs=0.01)
            compared += 1
        except BDError:
            continue
    assert compared > 150


def test_constant_rate_factor():
    test = [(0.8 * rate, quality) for rate, quality in ANCHOR]
    assert bd.bd_rate(ANCHOR, test) == pytest.approx(-20, abs=1e-9)
    assert bd.bd_rate(test, ANCHOR) == pytest.approx(25, abs=1e-9)
    assert bd.common_quality(ANCHOR, test) == bd.Common(28.1, 38.9, 1, 1)


def test_constant_quality_gain():
    test = [(rate, quality + 0.7) for rate, quality in ANCHOR]
    assert bd.bd_quality(ANCHOR, test) == pytest.approx(0.7, abs=1e-9)
    assert bd.bd_quality(test, ANCHOR) == pytest.approx(-0.7, abs=1e-9)


def test_straight_lines_over_part_of_the_range():
    """Log-rate is quality / 10, the test's slope is twice that from 30 dB: the mean gap over 30..34 dB is 0.2."""
    anchor = [(10 ** (quality / 10 - 3), float(quality)) for quality in (28, 30, 32, 34)]
    test = [(10 ** (quality / 5 - 6), float(quality)) for quality in (30, 32, 34, 36)]
    assert bd.bd_rate(anchor, test) == pytest.approx((10**0.2 - 1) * 100)
    common = bd.common_quality(anchor, test)
    assert common[:2] == (30, 34)
    assert common[2:] == pytest.approx((4 / 6, 4 / 6))


def test_order_of_points_is_irrelevant():
    test = [(0.8 * rate, quality) for rate, quality in reversed(ANCHOR)]
    assert bd.bd_rate(ANCHOR[::-1], test) == pytest.approx(-20, abs=1e-9)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (ANCHOR[:3], "(?s)test curve has too few points.*at least 4 points\ngot: 3"),
        ([], "got: 0"),
        ([*ANCHOR[:4], (0.0, 20.0)], "positive"),
        ([*ANCHOR[:4], (math.nan, 40.0)], "positive, finite"),
        ([*ANCHOR[:4], (2.0, math.inf)], "(?s)finite qualities.*inf dB at 2 bpp"),
        ([*ANCHOR, (1.6, 38.5)], "38.5000 dB at 1.6000 bpp after 38.9000 dB at 1.4000 bpp"),
        ([*ANCHOR, (1.4, 39.5)], "does not increase"),
        ([(rate, quality + 8) for rate, quality in ANCHOR], "got: 26%: the anchor covers 28.10 to 38.90 dB"),
        ([(rate, quality + 20) for rate, quality in ANCHOR], "got: 0%"),
    ],
)
def test_invalid_curves_raise(test, message):
    with pytest.raises(BDError, match=message):
        bd.bd_rate(ANCHOR, test)


def test_bd_quality_without_common_rate_raises():
    with pytest.raises(BDError, match=r"got: 0%: the anchor covers -0\.92 to 0\.15 log10 of rate"):
        bd.bd_quality(ANCHOR, [(20 * rate, quality) for rate, quality in ANCHOR])


def make_curve(key, factors, shift=0.0, sha="a" * 64, set_name="kodak"):
    """Return a curve with one picture for each factor of the rate; each picture has its own level of quality."""
    points = []
    for rate, quality in ANCHOR:
        images = tuple(
            ImagePoint(
                f"p{index}", rate * factor * (1 + index / 7), quality + index, quality / 2 + index * factor**0.5 + shift
            )
            for index, factor in enumerate(factors)
        )
        loss = float(np.mean([10 ** (-image.ms_ssim_db / 10) for image in images]))
        bpp, psnr = (float(np.mean([getattr(image, name) for image in images])) for name in ("bpp", "psnr"))
        points.append(Point(f"QP {rate}", bpp, psnr, -10 * math.log10(loss), images))
    return Curve(key, key, "anchor", set_name, tuple(points), sha)


FACTORS = np.random.default_rng(5).uniform(0.6, 1.1, 12).tolist()
BASE, OTHER = make_curve("base", [1] * 12), make_curve("other", FACTORS)


@pytest.mark.parametrize("metric", ["psnr", "ms_ssim_db"])
def test_interval_matches_a_bootstrap_loop(metric):
    generator = np.random.default_rng(99)
    values = []
    for _ in range(600):
        chosen = generator.integers(0, 12, 12)
        pairs = []
        for curve in (BASE, OTHER):
            images = [[point.images[index] for index in chosen] for point in curve.points]
            rates = [np.mean([image.bpp for image in row]) for row in images]
            if metric == "psnr":
                qualities = [np.mean([image.psnr for image in row]) for row in images]
            else:
                lost = [np.mean([10 ** (-image.ms_ssim_db / 10) for image in row]) for row in images]
                qualities = [-10 * math.log10(value) for value in lost]
            pairs.append(list(zip(rates, qualities, strict=True)))
        values.append(bd.bd_rate(*pairs))
    low, high = bd.bd_rate_interval(BASE, OTHER, metric)
    assert low < bd.bd_rate_of_curves(BASE, OTHER, metric) < high
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.15 * (high - low))


def test_intervals_are_reproducible_and_empty_for_equal_pictures():
    assert bd.bd_rate_interval(BASE, OTHER, "psnr") == bd.bd_rate_interval(BASE, OTHER, "psnr")
    assert bd.bd_rate_interval(BASE, OTHER, "psnr", seed=1) != bd.bd_rate_interval(BASE, OTHER, "psnr")
    same = make_curve("same", [0.9] * 12)
    assert bd.bd_rate_interval(BASE, same, "psnr") == pytest.approx((-10, -10))


def test_average_of_per_picture_rates():
    average = bd.bd_rate_of_images(BASE, OTHER, "psnr")
    expected = [(factor - 1) * 100 for factor in FACTORS]
    assert list(average.values.values()) == pytest.approx(expected)
    assert average.mean == pytest.approx(np.mean(expected))
    assert average.left_out == {}
    spread = np.std(expected) / math.sqrt(12)
    assert (average.low, average.high) == pytest.approx(
        (average.mean - 1.96 * spread, average.mean + 1.96 * spread), abs=0.3 * spread
    )
    assert average.mean != pytest.approx(bd.bd_rate_of_curves(BASE, OTHER, "psnr"), abs=0.1)


def with_image(curve, index, **changes):
    """Return ``curve`` with one picture changed at every point."""
    points = []
    for point in curve.points:
        images = list(point.images)
        images[index] = replace(images[index], **changes)
        points.append(replace(point, images=tuple(images)))
    return replace(curve, points=tuple(points))


def test_incomparable_pictures_are_listed():
    other = with_image(with_image(OTHER, 3, psnr=None), 5, psnr=31.0)
    average = bd.bd_rate_of_images(BASE, other, "psnr")
    assert set(average.left_out) == {"p3", "p5"}
    assert average.left_out["p3"].what == "other has points without psnr."
    assert "does not increase" in average.left_out["p5"].what
    assert len(average.values) == 10
    with pytest.raises(BDError, match="expected: psnr at every point"):
        bd.bd_rate_interval(BASE, other, "psnr")


def test_no_comparable_picture_raises():
    with pytest.raises(BDError, match=r"got: none; p0: .* got: 0%"):
        bd.bd_rate_of_images(BASE, make_curve("far", [1] * 12, shift=40.0), "ms_ssim_db")


def test_different_image_lists_raise():
    foreign = make_curve("foreign", FACTORS, sha="b" * 64)
    for compare in (bd.bd_rate_of_curves, bd.bd_rate_interval, bd.bd_rate_of_images):
        with pytest.raises(BDError, match="curves of different pictures"):
            compare(BASE, foreign, "psnr")


def test_cited_curve_has_bd_rate_but_no_interval():
    points = tuple(replace(point, images=()) for point in OTHER.points)
    cited = replace(OTHER, kind="cited", points=points, image_list_sha256=None)
    assert bd.bd_rate_of_curves(BASE, cited, "psnr") == bd.bd_rate_of_curves(BASE, OTHER, "psnr")
    for compare in (bd.bd_rate_interval, bd.bd_rate_of_images):
        with pytest.raises(BDError, match="got: no results of single pictures"):
            compare(BASE, cited, "psnr")
    with pytest.raises(BDError, match="curves of different pictures"):
        bd.bd_rate_of_curves(BASE, replace(cited, set="clic"), "psnr")


def test_resample_without_bd_rate_raises():
    """Only one picture brings the test's quality into the anchor's range; some resamples do not contain it."""
    far = make_curve("far", [1] * 12)
    points = []
    for point in far.points:
        first, *others = point.images
        images = (replace(first, psnr=first.psnr - 240), *(replace(image, psnr=image.psnr + 20) for image in others))
        points.append(replace(point, images=images))
    with pytest.raises(BDError, match=r"(?s)No interval, because a resample.*overlap.*expected: at least 50%"):
        bd.bd_rate_interval(BASE, replace(far, points=tuple(points)), "psnr")


def test_other_picture_names_with_equal_hash_raise():
    renamed = with_image(OTHER, 0, name="elsewhere")
    with pytest.raises(BDError, match="got: different pictures"):
        bd.bd_rate_of_images(BASE, renamed, "psnr")
