"""The numbers of the general report against those of the runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lic_train.rd import bd
from lic_train.report.bd_tables import bd_tables
from lic_train.report.elements import USUAL_RATE, Line, Table, usual_rates
from lic_train.report.figures import rate_distortion, training
from lic_train.report.gather import Gathered, gather
from lic_train.report.run_tables import anchor_table, cited_table, complexity_table, run_table
from lic_train.report.runs import read_runs
from lic_train.report.sections import choose_anchor, sections
from lic_train.report.variant_tables import described, variant_tables
from lic_train.runs.same import differences
from tests.report_tree import (
    LAMBDAS,
    result,
    write_ablation,
    write_anchors,
    write_complexity,
    write_models,
    write_run,
)


def gathered(outputs: Path) -> Gathered:
    return gather(outputs, *read_runs(outputs), package=outputs / "package")


@pytest.fixture
def outputs(tmp_path) -> Path:
    write_models(tmp_path)
    write_anchors(tmp_path / "package")
    return tmp_path


def column(table: Table, name: str) -> dict[str, object]:
    """Return the cells of one column by the first cell of their row."""
    index = list(table.columns).index(name)
    return {str(row[0]): row[index] for row in table.rows}


def test_bd_table_matches_the_curves(outputs):
    found = gathered(outputs)
    vvc, cwam = found.curve("vvc"), found.curve("cwam")
    table = bd_tables(found, vvc)[0]
    row = next(row for row in table.rows if row[0] == "cwam")
    expected = bd.bd_rate(vvc.with_quality("psnr"), cwam.with_quality("psnr"))
    low, high = bd.bd_rate_interval(vvc, cwam, "psnr")
    images = bd.bd_rate_of_images(vvc, cwam, "psnr")
    assert row[1:7] == [expected, low, high, images.mean, images.low, images.high]
    assert row[7] == bd.bd_quality(vvc.with_quality("psnr"), cwam.with_quality("psnr"))
    assert row[9] is None
    rates = [row[1] for row in table.rows]
    assert rates == sorted(rates)
    assert "VVC (VVenC)" not in column(table, "Remark")


def test_undefined_bd_rate_is_blank_with_a_reason(outputs):
    write_run(outputs, "cwam", 0.025, 20, folder="lambda_0.0250", steps=900)  # below the preceding point
    (outputs / "mbt2018/mbt2018/lambda_0.0018/finished.json").unlink()
    found = gathered(outputs)
    table = bd_tables(found, found.curve("vvc"))[0]
    remarks, rates = column(table, "Remark"), column(table, "BD-rate of the mean curves [%]")
    assert rates["cwam"] is rates["mbt2018"] is None
    assert "The quality of the test curve does not increase with its rate" in str(remarks["cwam"])
    assert "at least 4 points" in str(remarks["mbt2018"])
    drawn = {line.name for line in rate_distortion(found)[0].lines}
    assert {"cwam", "mbt2018"} < drawn


def test_cited_curve_has_no_interval(outputs):
    found = gathered(outputs)
    cited = replace(found.curve("vvc"), key="paper", name="A paper", kind="cited", image_list_sha256=None)
    points = tuple(replace(point, images=()) for point in cited.points)
    cited = replace(cited, points=points, about={"model": "cwam", "distortion": "mse"})
    table = bd_tables(replace(found, cited=(cited,)), found.curve("vvc"))[0]
    row = next(row for row in table.rows if row[0] == "A paper, cited")
    assert row[1] == pytest.approx(0)
    assert row[2:7] == [None] * 5
    assert row[9] == "No interval: the source has no results of single pictures."


def test_figures_contain_comparable_curves(outputs):
    write_run(outputs, "cwam", 8.73, 30, distortion="ms_ssim")
    write_run(outputs, "cwam", 0.0067, 30, name="narrow")
    found = gathered(outputs)
    trained = replace(found.cited[0], about={"model": "cwam", "distortion": "mse"})
    psnr, ms_ssim = rate_distortion(replace(found, cited=(trained,)))
    assert [line.name for line in psnr.lines if line.style == "model"] == ["cwam", "gaacnn", "mbt2018"]
    assert "cwam, MS-SSIM" in [line.name for line in ms_ssim.lines]
    assert [line.name for line in psnr.lines if line.style == "cited"] == ["A paper"]
    assert [line.name for line in rate_distortion(found)[0].lines if line.style == "cited"] == []
    cwam = psnr.lines[0]
    assert cwam.x[0] == result(LAMBDAS[0], 33.8)["mean"]["bpp_file"]
    assert cwam.labels[0] == "λ 0.0018"


def test_training_figures(outputs):
    figures = training(gathered(outputs))
    assert [figure.title for figure in figures[:3]] == ["cwam: loss", "cwam: bits per pixel", "cwam: PSNR [dB]"]
    assert [line.name for line in figures[0].lines] == [f"λ {lmbda:g}" for lmbda in LAMBDAS]
    assert all(len(line.x) == len(line.y) <= 200 for figure in figures for line in figure.lines)


def test_run_table(outputs):
    table = run_table(gathered(outputs))
    rows = result(0.0067, 33.8)["rows"]
    worst = min(rows, key=lambda row: row["psnr"])
    where = "cwam/cwam/lambda_0.0067"
    assert column(table, "Lowest PSNR [dB]")[where] == worst["psnr"]
    assert column(table, "of")[where] == worst["name"]
    assert column(table, "Estimate off by [%]")[where] == pytest.approx(-0.2)
    assert column(table, "Decoded equal")[where] == "yes"


def test_complexity_per_pixel(outputs):
    assert complexity_table(gathered(outputs)) is None
    write_complexity(outputs)
    table = complexity_table(gathered(outputs))
    assert column(table, "Parameters [M]")["cwam"] == 28.0
    assert column(table, "kMAC / pixel")["cwam"] == 340e9 / (512 * 768) / 1e3
    assert column(table, "at")["cwam"] == "768 × 512"


def test_variants_are_compared_at_equal_lambda(outputs):
    write_ablation(outputs)
    write_run(outputs, "cwam", 0.9, 33, name="alone")
    (table,) = variant_tables(gathered(outputs))
    rows = [row for row in table.rows if row[0] == 0.0067]
    assert [row[1] for row in rows] == ["cwam", "no_attention", "narrow"]
    assert [row[2] for row in rows] == [None, "model.attention: absent → False", "model.N: 128 → 64"]
    assert rows[0][7:] == [None] * 3
    here, there = result(0.0067, 32.9)["mean"], result(0.0067, 33.8)["mean"]
    assert rows[2][7:9] == [100 * (here["bpp_file"] / there["bpp_file"] - 1), here["psnr"] - there["psnr"]]
    assert "cwam/cwam/lambda_0.9_alone" in table.note


def test_differences_of_results_only_and_of_a_yaml_bomb():
    old = {"model": {"N": 1, "widths": [1, 2]}, "name": "a", "trainer": {"devices": 1}, "seed": 0}
    new = {"model": {"N": 2, "widths": [1, 3]}, "name": "b", "trainer": {"devices": 2}, "seed": 0}
    assert described(differences(old, new)) == ["model.N: 1 → 2", "model.widths.1: 2 → 3"]
    assert described(differences({"a": 0}, {"a": 0} | {str(n): n for n in range(6)}))[-1] == "and 2 more"
    bomb: list[object] = [1] * 9
    for _ in range(12):
        bomb = [bomb] * 9
    assert differences({"a": bomb}, {"a": bomb}) == []


def test_origin_of_anchors_and_cited_curves(outputs):
    found = gathered(outputs)
    assert column(anchor_table(found), "How")["JPEG"] == "version: synthetic"
    assert "A paper" in column(cited_table(found, {"A paper", "JPEG"}), "Codec")
    assert cited_table(found, {"JPEG"}) is None


def test_first_view_contains_all_models():
    def rates(*lines: tuple[str, list[float]]) -> float | None:
        return usual_rates([Line("name", x, x, style) for style, x in lines])

    assert rates(("model", [0.2, 0.9]), ("anchor", [0.1, 1.2])) is None
    assert rates(("model", [0.2, 0.9]), ("anchor", [0.1, 4.0])) == USUAL_RATE
    assert rates(("model", [0.2, 2.0]), ("cited", [0.1, 4.0])) == pytest.approx(2.1)
    assert rates(("model", [0.2, 2.0])) is None


def test_empty_sections_are_omitted(outputs):
    found = gathered(outputs)
    assert choose_anchor(found, None).key == "vvc"
    titles = [section.title for section in sections(found, found.curve("vvc"))]
    assert titles == ["Rate and distortion", "BD-rate", "Runs", "Training", "Anchors"]
    alone = replace(found, anchors=(), cited=())
    assert choose_anchor(alone, None) is None
    assert [section.title for section in sections(alone, None)] == ["Rate and distortion", "Runs", "Training"]
