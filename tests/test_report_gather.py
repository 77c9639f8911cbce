"""Runs are combined to curves; what cannot be compared is left out with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from lic_train.errors import DataError
from lic_train.report.gather import Gathered, gather
from lic_train.report.runs import read_runs
from tests.report_tree import (
    LAMBDAS,
    PICTURES,
    anchor,
    digest,
    result,
    write_anchors,
    write_complexity,
    write_models,
    write_run,
)


def gathered(outputs: Path, set_name: str | None = None) -> Gathered:
    return gather(outputs, *read_runs(outputs), set_name, package=outputs / "package")


def reasons(found: Gathered) -> dict[str, str]:
    return {item.what: item.reason for item in found.left_out}


def test_one_curve_for_each_model(tmp_path):
    write_models(tmp_path)
    write_anchors(tmp_path / "package")
    found = gathered(tmp_path)
    assert [curve.key for curve in found.curves] == ["cwam", "gaacnn", "mbt2018"]
    assert [run.lmbda for run in found.members["cwam"]] == list(LAMBDAS)
    assert [point.parameter for point in found.curves[0].points] == ["λ 0.0018", "λ 0.0067", "λ 0.025", "λ 0.0483"]
    mean = result(0.0067, 33.8)["mean"]
    point = found.curves[0].points[1]
    assert (point.bpp, point.psnr, point.ms_ssim_db) == (mean["bpp_file"], mean["psnr"], mean["ms_ssim_db"])
    assert [image.name for image in point.images] == list(PICTURES)
    assert len(found.anchors) == 8
    assert [curve.key for curve in found.cited] == ["paper"]
    assert found.left_out == ()


def test_recipe_distortion_and_name_separate_curves(tmp_path):
    write_run(tmp_path, "cwam", 0.0067, 33)
    write_run(tmp_path, "cwam", 0.0067, 33, recipe="common")
    write_run(tmp_path, "cwam", 8.73, 33, distortion="ms_ssim")
    write_run(tmp_path, "cwam", 0.0067, 33, name="wide")
    found = gathered(tmp_path)
    assert {curve.key: curve.name for curve in found.curves} == {
        "cwam": "cwam",
        "cwam_common": "cwam, recipe common",
        "cwam_ms_ssim": "cwam, MS-SSIM",
        "cwam_wide": "cwam, wide",
    }


def test_recipe_is_named_only_where_needed(tmp_path):
    write_run(tmp_path, "cwam", 0.0067, 33, recipe="common")
    write_run(tmp_path, "gaacnn", 0.0067, 33)
    assert [curve.name for curve in gathered(tmp_path).curves] == ["cwam", "gaacnn"]


def test_names_with_equal_slugs_have_different_keys(tmp_path):
    write_run(tmp_path, "cwam", 0.0067, 33, name="a b")
    write_run(tmp_path, "cwam", 0.0067, 33, name="a-b")
    assert sorted(gathered(tmp_path).members) == ["cwam_a_b", "cwam_a_b_2"]


def test_longest_run_at_a_lambda_is_used(tmp_path):
    write_run(tmp_path, "cwam", 0.0067, 30, steps=100)
    write_run(tmp_path, "cwam", 0.0067, 34, steps=200, folder="lambda_0.00670")
    write_run(tmp_path, "cwam", 0.0067, 35, steps=200, folder="lambda_0.006700")
    found = gathered(tmp_path)
    assert [run.where for run in found.members["cwam"]] == ["cwam/cwam/lambda_0.00670"]
    kept = "the same lambda 0.0067 as cwam/cwam/lambda_0.00670"
    assert reasons(found) == {
        "cwam/cwam/lambda_0.0067": f"{kept}; 100 steps",
        "cwam/cwam/lambda_0.006700": f"{kept}; as many steps (200), later by name",
    }


def test_runs_on_other_pictures_are_left_out(tmp_path):
    write_anchors(tmp_path / "package", ("jpeg",))
    write_run(tmp_path, "cwam", 0.0067, 33)
    for lmbda in LAMBDAS:
        write_run(tmp_path, "gaacnn", lmbda, 33, result=result(lmbda, 33, PICTURES[:2]))
    found = gathered(tmp_path)
    assert found.image_list_sha256 == digest()
    assert [curve.key for curve in found.curves] == ["cwam"]
    assert reasons(found)["gaacnn/gaacnn/lambda_0.0018"] == (
        f"other pictures than in this report; expected: image list {digest()[:8]}; "
        f"got: 2 pictures, list {digest(PICTURES[:2])[:8]}"
    )


def test_anchors_on_other_pictures_are_left_out(tmp_path):
    write_anchors(tmp_path / "package", ("jpeg",))
    write_run(tmp_path, "cwam", 0.0067, 33, result=result(0.0067, 33, PICTURES[:2]))
    found = gathered(tmp_path)
    assert found.anchors == ()
    assert "6 pictures, list" in reasons(found)["anchor jpeg"]


def test_default_set_is_kodak_or_the_most_common(tmp_path):
    for lmbda in LAMBDAS:
        write_run(tmp_path, "cwam", lmbda, 33, result=result(lmbda, 33, set_name="clic"))
    write_run(tmp_path, "cwam", 0.2, 33, result=result(0.2, 33, set_name="heldout"))
    found = gathered(tmp_path)
    assert (found.set, len(found.runs), len(found.finished)) == ("clic", 4, 5)
    assert "not evaluated on clic; to do: lic evaluate" in reasons(found)["cwam/cwam/lambda_0.2"]
    write_run(tmp_path, "gaacnn", 0.2, 33)
    assert gathered(tmp_path).set == "kodak"
    assert gathered(tmp_path, "heldout").set == "heldout"


def test_anchors_below_outputs_replace_stored_ones(tmp_path):
    write_anchors(tmp_path / "package", ("jpeg", "vvc"))
    write_anchors(tmp_path, ("vvc",), better=3.0)
    stored, made = gathered(tmp_path).anchors
    assert (stored.key, made.key) == ("jpeg", "vvc")
    assert made.points[0].psnr == pytest.approx(3.0 + anchor("vvc").points[0].psnr)


def test_damaged_anchors_and_counts_are_left_out(tmp_path):
    write_anchors(tmp_path, ("jpeg", "vvc"))
    write_complexity(tmp_path)
    (tmp_path / "anchors/kodak/jpeg.json").write_text("{}")
    (tmp_path / "complexity/cwam.json").write_text('{"format": 1}')
    found = gathered(tmp_path)
    assert [curve.key for curve in found.anchors] == ["vvc"]
    assert sorted(found.complexity) == ["gaacnn", "mbt2018"]
    assert sorted(reasons(found)) == ["anchor jpeg", "complexity/cwam.json"]


def test_unknown_curve_lists_the_known_ones(tmp_path):
    write_models(tmp_path)
    with pytest.raises(DataError, match="one of cwam, gaacnn, mbt2018\ngot: vvx"):
        gathered(tmp_path).curve("vvx")
