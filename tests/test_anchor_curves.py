"""The stored curves of Kodak: complete, of the right pictures, and at the known distances between the codecs."""

from __future__ import annotations

import re

import pytest

from lic_train.anchors.__main__ import VERSIONED, folder
from lic_train.anchors.codecs import ANCHORS
from lic_train.anchors.run import read_pictures
from lic_train.evaluate.sets import SetOptions, open_images
from lic_train.rd import bd, curves
from tests.conftest import ROOT

CURVES = {path.stem: curves.load(path) for path in folder("kodak").glob("*.json")}


def test_stored_curves_match_the_anchors():
    assert set(CURVES) == set(ANCHORS)
    for key, anchor in ANCHORS.items():
        curve = CURVES[key]
        assert (curve.key, curve.name, curve.kind, curve.set) == (anchor.key, anchor.name, "anchor", "kodak")
        assert (curve.about["command"], curve.about["colour"]) == (anchor.command, anchor.colour)
        assert [point.parameter for point in curve.points] == [f"{anchor.parameter} {rate}" for rate in anchor.rates]
        assert {"encoder", "chroma", "bytes", "quality", "seconds", "date"} < set(curve.about)


def test_curve_names():
    assert not any(re.match("bpg", curve.name, re.IGNORECASE) for curve in CURVES.values())
    assert "engine of BPG" in CURVES["hevc"].name
    assert "4:2:0 10-bit" in CURVES["vvc"].name


@pytest.mark.parametrize("key", CURVES)
def test_means_over_24_pictures(key):
    for point in CURVES[key].points:
        assert [image.name for image in point.images] == [f"kodim{number:02d}" for number in range(1, 25)]
        for name in ("bpp", "psnr"):
            mean = sum(getattr(image, name) for image in point.images) / 24
            assert getattr(point, name) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("key", CURVES)
def test_rates_cover_the_range_of_learned_codecs(key):
    rates = [point.bpp for point in CURVES[key].points]
    assert rates[0] < 0.2
    assert 1.7 < rates[-1] < 2.6
    for metric in ("psnr", "ms_ssim_db"):
        qualities = [point.quality(metric) for point in CURVES[key].points]
        assert qualities == sorted(qualities)


def test_image_list_matches_the_photographs(kodak):
    images = open_images(SetOptions(name="kodak", root=str(kodak), limit=None), kodak)
    assert read_pictures("kodak", images).sha256 == VERSIONED["kodak"]
    assert {curve.image_list_sha256 for curve in CURVES.values()} == {VERSIONED["kodak"]}


# BD-rate over x265 in percent, PSNR. A wrong colour conversion changes a codec by far more than these ranges: JPEG 2000
# without its colour transform has +150 %; a conversion that truncates to 8 bits costs 0.8 dB at 37 dB.
KNOWN = {
    "vvc": (-13, -5),
    "av1": (-11, -3),
    "avif": (-4, 6),
    "jpeg2000": (15, 30),
    "webp": (35, 55),
    "jxl": (45, 75),
    "jpeg": (110, 160),
}


def test_readme_distances_at_low_and_high_rates():
    anchor = CURVES["hevc"].with_quality("psnr")
    parts = []
    for name, key in (("JPEG 2000", "jpeg2000"), ("AVIF", "avif"), ("VVC", "vvc")):
        points = CURVES[key].with_quality("psnr")
        low, high = (bd.bd_rate(anchor, part) for part in (points[:4], points[-4:]))
        parts.append(f"{name} {low:+.0f} and {high:+.0f} %")
    assert ", ".join(parts) in " ".join((ROOT / "docs/anchors.md").read_text().split())


@pytest.mark.parametrize("key", KNOWN)
def test_bd_rates_are_in_the_known_ranges(key):
    low, high = KNOWN[key]
    assert low < bd.bd_rate_of_curves(CURVES["hevc"], CURVES[key], "psnr") < high


def test_documented_table_matches_the_curves():
    section = (ROOT / "docs/anchors.md").read_text()
    shown = dict(re.findall(r"^\| `(\w+)`: [^|]+\| (.+) \|$", section, re.MULTILINE))
    assert set(shown) == set(CURVES)
    assert shown.pop("hevc") == "0 | 0 | 0"
    for key, cells in shown.items():
        pair = (CURVES["hevc"], CURVES[key])
        low, high = bd.bd_rate_interval(*pair, "psnr")
        average = bd.bd_rate_of_images(*pair, "psnr")
        assert average.left_out == {}
        rate, similarity = (bd.bd_rate_of_curves(*pair, metric) for metric in ("psnr", "ms_ssim_db"))
        assert cells == f"{rate:+.1f} ({low:+.1f} to {high:+.1f}) | {average.mean:+.1f} | {similarity:+.1f}"
