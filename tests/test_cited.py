"""Published curves: files, sources, and BD-rates between them against independent computations."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from lic_train.errors import DataError
from lic_train.rd.bd import bd_rate
from lic_train.rd.curves import Curve, load
from lic_train.report import cited
from lic_train.report.cited.table import COLUMNS, read_table, write_curves
from tests.conftest import SHARED

SETS = ("clic", "clic2022_test", "kodak", "tecnick")
ALL = [curve for name in SETS for curve in cited.curves(name)]


def curve(key: str, set_name: str = "kodak") -> Curve:
    return next(curve for curve in cited.curves(set_name) if curve.key == key)


def named(curve: Curve) -> str:
    return f"{curve.set}/{curve.key}"


def test_all_files_are_loaded():
    files = {f"{path.parent.name}/{path.stem}" for path in cited.HERE.rglob("*.json")}
    assert {named(curve) for curve in ALL} == files
    assert {curve.set for curve in ALL} == set(SETS)


def test_vtm_and_bpg_exist():
    assert {"vtm", "bpg"} <= {curve.key for curve in cited.curves("kodak")}


@pytest.mark.parametrize("name", ["", ".", "..", "../cited/kodak", "/", "imagenet", "kodak/", "ko\0dak"])
def test_unknown_set_has_no_curves(name):
    assert cited.curves(name) == []


@pytest.mark.parametrize("curve", ALL, ids=named)
def test_cited_curves_have_sources(curve):
    assert curve.kind == "cited"
    assert curve.image_list_sha256 is None
    assert all(curve.about[key] for key in ("source", "paper", "pictures"))
    assert len(curve.about.get("lambdas", curve.points)) == len(curve.points)


@pytest.mark.parametrize("curve", ALL, ids=named)
def test_quality_increases_with_rate(curve):
    for metric in ("psnr", "ms_ssim_db"):
        for (rate, quality), (higher, better) in itertools.pairwise(curve.with_quality(metric)):
            assert rate < higher
            assert quality < better


@pytest.mark.parametrize(
    ("key", "over", "expected"),
    [
        # Computed from the authors' and CompressAI's files with another program; see the specifications.
        ("tinylic_cited", "vtm", -3.5),
        ("tinylic_cited", "bpg", -22.0),
        ("stf", "vtm", -4.1),
        ("stf", "bpg", -24.2),
        ("wacnn", "vtm", -4.6),
        ("wacnn", "bpg", -24.5),
        ("balle2018", "bpg", 6.6),
        ("dcae_cited", "vtm", -17.0),
    ],
)
def test_bd_rates_match_independent_computations(key, over, expected):
    assert bd_rate(curve(over).with_quality("psnr"), curve(key).with_quality("psnr")) == pytest.approx(
        expected, abs=0.06
    )


def table_row(text: str, first_cells: str, occurrence: int = 0) -> list[float]:
    """Return the numbers of the table row that starts with ``first_cells``."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first_cells} |")]
    return [float(cell) for cell in re.findall(r"[-+]?\d*\.\d+", lines[occurrence].removeprefix(f"| {first_cells} |"))]


def rates(curve: Curve) -> list[float]:
    return [point.bpp for point in curve.points]


def qualities(curve: Curve, metric: str = "psnr") -> list[float]:
    return [quality for _, quality in curve.with_quality(metric)]


@pytest.mark.parametrize(("set_name", "occurrence"), [("kodak", 0), ("clic", 1)])
def test_cwam_matches_specification(spec, set_name, occurrence):
    found = curve("cwam_cited", set_name)
    assert rates(found) == table_row(spec("cwam"), "bpp", occurrence)
    assert qualities(found) == table_row(spec("cwam"), "PSNR dB", occurrence)
    assert found.about["lambdas"] == [0.0045, 0.00975, 0.0175, 0.0483, 0.09, 0.14]


@pytest.mark.parametrize(
    ("set_name", "key", "heading", "metric", "line"),
    [
        ("kodak", "gaacnn_cited", "Kodak MSE bpp", "psnr", 0),
        ("kodak", "gaacnn_ms_ssim_cited", "Kodak MS-SSIM bpp", "ms_ssim_db", 0),
        ("tecnick", "gaacnn_cited", "Tecnick MSE bpp", "psnr", 1),
        ("tecnick", "gaacnn_ms_ssim_cited", "Tecnick MS-SSIM bpp", "ms_ssim_db", 1),
    ],
)
def test_gaacnn_matches_specification(spec, set_name, key, heading, metric, line):
    text = spec("gaacnn")
    assert rates(curve(key, set_name)) == table_row(text, heading)
    assert qualities(curve(key, set_name), metric) == table_row(text, "PSNR" if metric == "psnr" else "dB", line)


def test_tinylic_matches_specification(spec):
    text = spec("tinylic").partition("## 5.")[2]
    cells = [table_row(text, str(rung)) for rung in range(1, 9)]
    kodak, clic, tecnick = (curve("tinylic_cited", name) for name in ("kodak", "clic", "tecnick"))
    assert [[*row[:2], *row[3:]] for row in cells] == [
        [a.bpp, a.psnr, b.bpp, b.psnr, c.bpp, c.psnr]
        for a, b, c in zip(kodak.points, clic.points, tecnick.points, strict=True)
    ]
    similarity = [1 - 10 ** (-quality / 10) for quality in qualities(kodak, "ms_ssim_db")]
    assert similarity == pytest.approx([row[2] for row in cells], abs=1e-6)


def test_dcae_matches_specification(spec):
    found = [curve("dcae_cited", name).points for name in ("kodak", "clic", "tecnick")]
    for i, lmbda in enumerate(curve("dcae_cited").about["lambdas"]):
        row = table_row(spec("dcae").partition("## 8.")[2], str(lmbda))
        assert row[:6] == [number for points in found for number in (points[i].bpp, points[i].psnr)]


def test_compressai_models_match_specification(spec):
    text = spec("compressai_baselines").partition("## 4.")[2]
    keys = (
        "bmshj2018_factorized",
        "bmshj2018_hyperprior",
        "mbt2018_mean",
        "mbt2018",
        "cheng2020_anchor",
        "cheng2020_attn",
    )
    for rung in range(8):
        numbers = iter(table_row(text, str(rung + 1)))
        for key in keys:
            points = curve(f"{key}_cited").points
            if rung < len(points):
                bpp, psnr, ms_ssim = next(numbers), next(numbers), next(numbers)
                assert (points[rung].bpp, points[rung].psnr) == (bpp, psnr)
                assert 1 - 10 ** (-points[rung].ms_ssim_db / 10) == pytest.approx(ms_ssim, abs=1e-6)


def test_bpg_matches_specification(spec):
    line = re.search(r"BPG 4:4:4 \(x265\): (.*?)\. ", spec("gcab_gmm").replace("\n", " "))
    points = [tuple(map(float, pair.split("/"))) for pair in line[1].split(", ")]
    ours = [(round(point.bpp, 3), round(point.psnr, 2)) for point in curve("bpg").points]
    assert set(points) <= set(ours)


def test_vtm_matches_compressai():
    notes = [(round(point.bpp, 4), round(point.psnr, 2)) for point in curve("vtm").points]
    assert {(0.8748, 37.42), (3.6326, 46.59)} <= set(notes)
    assert "8-bit YCbCr" in curve("vtm").about["caution"]


def test_stf_and_wacnn_match_specification(spec):
    rows = [table_row(spec("stf"), lmbda) for lmbda in ("0.0018", "0.0035", "0.0067", "0.013", "0.025", "0.0483")]
    found = [curve("stf"), curve("wacnn"), curve("stf", "clic"), curve("wacnn", "clic")]
    assert rows == [[n for c in found for n in (c.points[i].bpp, c.points[i].psnr)] for i in range(6)]


@pytest.mark.parametrize(
    ("key", "set_name", "name", "heading"),
    [
        ("tcm_large", "kodak", "tcm", "Kodak Large"),
        ("tcm_large", "clic", "tcm", "CLIC Pro Large"),
        ("tcm_large", "tecnick", "tcm", "Tecnick Large"),
        ("invcompress", "kodak", "invcompress", "Kodak"),
        ("invcompress", "clic", "invcompress", "CLIC"),
        ("invcompress", "tecnick", "invcompress", "Tecnick"),
    ],
)
def test_rates_and_qualities_match_specification(spec, key, set_name, name, heading):
    found = curve(key, set_name)
    assert rates(found) + qualities(found) == table_row(spec(name), heading)


@pytest.mark.parametrize(
    ("set_name", "heading"), [("kodak", "Kodak"), ("tecnick", "Tecnick 1200"), ("clic", "CLIC 2022 test")]
)
def test_qres_vae_matches_specification(spec, set_name, heading):
    found, name = curve("qres_vae", set_name), heading.removesuffix(" 1200").removesuffix(" test")
    assert [round(rate, 4) for rate in rates(found)] == table_row(spec("qres_vae"), f"{heading} bpp")
    assert [round(quality, 3) for quality in qualities(found)] == table_row(spec("qres_vae"), f"{name} PSNR")


@pytest.mark.parametrize(("set_name", "expected"), [("kodak", -15.26), ("clic", -15.41), ("tecnick", -17.63)])
def test_lalic_over_vtm_has_the_published_bd_rate(set_name, expected):
    vtm, lalic = curve("vtm91", set_name), curve("lalic", set_name)
    assert bd_rate(vtm.with_quality("psnr"), lalic.with_quality("psnr")) == pytest.approx(expected, abs=0.006)


# ---- tables of published points ----


def test_stored_curves_equal_the_published_table():
    table = SHARED / "cited_curves.tsv"
    if not table.is_file():
        pytest.skip("the table of published curves is not next to the repository")
    found = read_table(table)
    assert len(found) == 47
    assert sum(len(curve.points) for curve in found) == 400
    assert all(published == curve(published.key, published.set) for published in found)


HEADER = "\t".join(COLUMNS)
LINE = {
    "set": "kodak", "key": "mine", "name": "Mine", "trained_for": "mse", "point": "1", "lambda": "0.0067",
    "bpp": "0.3", "psnr_db": "32.5", "ms_ssim_db": "", "source": "a paper", "note": "",
}  # fmt: skip


def written(path: Path, *changes: dict[str, str], header: str = HEADER) -> Path:
    """Write a table with one line for each change of `LINE`."""
    lines = [{**LINE, **change} for change in changes]
    path.write_text("\n".join([header, *("\t".join(line[column] for column in COLUMNS) for line in lines)]) + "\n")
    return path


def test_table_is_read_and_stored(tmp_path):
    table = written(
        tmp_path / "t.tsv",
        {"point": "2", "bpp": "0.6", "psnr_db": "35", "lambda": "0.025"},
        {},
        {"key": "cwam_ms_ssim", "trained_for": "ms_ssim", "psnr_db": "", "ms_ssim_db": "14", "lambda": ""},
    )
    mine, other = read_table(table)
    assert mine.with_quality("psnr") == [(0.3, 32.5), (0.6, 35)]
    assert [point.parameter for point in mine.points] == ["λ 0.0067", "λ 0.025"]
    assert (mine.about["lambdas"], mine.about["model"]) == ([0.0067, 0.025], None)
    assert (other.about["model"], other.about["distortion"]) == ("cwam", "ms_ssim")
    assert "lambdas" not in other.about
    assert [load(path) for path in write_curves([mine, other], tmp_path)] == [mine, other]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bpp": ""}, "a number in bpp"),
        ({"bpp": "-1"}, "a positive number in bpp"),
        ({"psnr_db": "nan"}, "a positive number in psnr_db"),
        ({"ms_ssim_db": "1e999"}, "a positive number in ms_ssim_db"),
        ({"lambda": "small"}, "a positive number in lambda"),
        ({"set": "../kodak"}, "letters, digits, _, . and - as set"),
        ({"key": ""}, "letters, digits, _, . and - as key"),
        ({"source": ""}, "a name and a source"),
    ],
)
def test_invalid_cell_is_refused_with_its_line(tmp_path, change, expected):
    with pytest.raises(DataError) as caught:
        read_table(written(tmp_path / "t.tsv", {}, {"key": "next", **change}))
    assert "Line 3 of" in caught.value.what
    assert expected in caught.value.expected


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"set\tkey\nkodak\tmine\n", HEADER.encode()])
def test_invalid_table_is_refused(tmp_path, content):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_table(path)
    with pytest.raises(DataError):
        read_table(tmp_path / "missing.tsv")
