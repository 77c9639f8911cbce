"""BD-rates by points, file and name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lic_train.anchors.stored import stored_anchors
from lic_train.errors import BDError, DataError
from lic_train.rd import bd, curves
from lic_train.report import cited
from lic_train.report.api import bd_rate
from tests.report_tree import anchor

POINTS = [(0.12, 28.1), (0.25, 30.4), (0.49, 33.0), (0.81, 35.6), (1.4, 38.9)]
HALF = [(bpp / 2, psnr) for bpp, psnr in POINTS]


def test_points():
    assert bd_rate(POINTS, POINTS) == 0.0
    assert bd_rate(POINTS, HALF) == pytest.approx(-50.0)
    assert bd_rate(HALF, POINTS[::-1]) == pytest.approx(100.0)
    assert type(bd_rate(np.array(POINTS), np.array(HALF))) is float


def test_names_of_stored_curves():
    vvc = next(curve for curve in stored_anchors("kodak") if curve.key == "vvc")
    stf = next(curve for curve in cited.curves("kodak") if curve.key == "stf")
    assert bd_rate("vvc", "stf") == bd.bd_rate_of_curves(vvc, stf, "psnr")
    assert bd_rate("vvc", "hevc", "ms_ssim_db") != bd_rate("vvc", "hevc")
    assert bd_rate("tcm_large", "tinylic_cited", set="clic") > 0
    assert bd_rate("vvc", vvc.with_quality("psnr")) == 0.0


def test_curve_files(tmp_path):
    curves.save(tmp_path / "jpeg.json", anchor("jpeg"))
    curves.save(tmp_path / "vvc.json", anchor("vvc"))
    expected = bd.bd_rate_of_curves(anchor("jpeg"), anchor("vvc"), "psnr")
    assert bd_rate(tmp_path / "jpeg.json", str(tmp_path / "vvc.json")) == expected < 0
    with pytest.raises(BDError, match="curves of different pictures"):
        bd_rate("vvc", tmp_path / "vvc.json")


def test_file_that_is_not_a_curve_raises(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    for name in ("x.json", "missing.json"):
        with pytest.raises(DataError, match=f"{name} is not a rate-distortion curve"):
            bd_rate("vvc", tmp_path / name)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (POINTS[:3], "too few points"),
        ([], "too few points"),
        ([*POINTS[:4], (-0.1, 20.0)], "20 dB at -0.1 bpp"),
        ([*POINTS[:4], (math.nan, 40.0)], "positive, finite rates"),
        ([*POINTS, (1.6, 38.5)], "does not increase"),
        ([(bpp, psnr + 8) for bpp, psnr in POINTS], "overlap too little"),
        ([1.0, 2.0, 3.0, 4.0], "pairs, the path of a curve file"),
        ([(0.1, 30.0, 0.9)] * 4, "pairs, the path of a curve file"),
        (3, "pairs, the path of a curve file"),
    ],
)
def test_invalid_points_raise(test, message):
    with pytest.raises(BDError, match=message):
        bd_rate(POINTS, test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vcc", POINTS), r"(?s)no stored curve vcc on kodak.*expected: one of av1, .*to do: choose vvc"),
        ((POINTS, "nothing_like_it"), "got: nothing_like_it$"),
        (("vvc", "hevc", "psnr", "nowhere"), r"(?s)no stored curves on nowhere.*clic, clic2022_test, kodak, tecnick"),
        (("vvc", "hevc", "ms_ssim"), "psnr or ms_ssim_db"),
        (("vvc", "stf", "ms_ssim_db"), "has no MS-SSIM"),
    ],
)
def test_unknown_names_raise(arguments, message):
    with pytest.raises(BDError, match=message):
        bd_rate(*arguments)
