"""The papers' tables and figures: published numbers, and the user's runs in the right cells."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lic_train.config.compose import compose
from lic_train.config.folder import CONF_DIR
from lic_train.errors import ConfigError
from lic_train.rd.curves import Curve, Point
from lic_train.report import cited, papers
from lic_train.report.elements import Comparison, Figure, Picture, Section, Table
from lic_train.report.gather import Gathered, gather
from lic_train.report.papers import facts
from lic_train.report.papers.figures import Compare
from lic_train.report.papers.measures import MEASURES, at_rate
from lic_train.report.papers.selection import Evidence, percent, value_at
from lic_train.report.runs import read_runs
from tests import made_up_runs, report_tree

ANCHORS = {"jpeg", "jpeg2000", "webp", "avif", "jxl", "hevc", "av1", "vvc"}
NOTHING: Compare = lambda *_: None  # noqa: E731
WANTED = {
    "cwam": ["Fig. 1", "Fig. 4", "Fig. 5: reconstructions"],
    "gaacnn": ["Table I:", "Table II:", "Fig. 4", "Fig. 5"],
    "gcab_gmm": ["Table 1", "Fig. 4", "Fig. 5", "Fig. 6", "Fig. 7"],
    "iblic": [
        "Table II:", "Table III:", "Table IV:", "Table V:", "Fig. 7", "Fig. 8: crops of kodim07",
        "Fig. 9: size of the interleaved patches", "Fig. 10: crops of kodim22", "Fig. 11", "Fig. 12",
        "Fig. 13: the modules on STF",
    ],
}  # fmt: skip


def gather_from(outputs: Path) -> Callable[[str], Gathered]:
    runs, left_out = read_runs(outputs)
    return lambda set_name: gather(outputs, runs, left_out, set_name)


def build(name: str, outputs: Path, compare: Compare = NOTHING) -> list[Section]:
    return papers.sections(name, gather_from(outputs), compare)


def element(name: str, key: str, outputs: Path, compare: Compare = NOTHING):
    found = [element for section in build(name, outputs, compare) for element in section.elements]
    return next(element for element in found if element.key == key)


def table(name: str, key: str, outputs: Path) -> dict[str, list]:
    """Return the cells of a table by the name of their row."""
    return {row[0]: list(row[1:]) for row in element(name, key, outputs).rows}


def measured(figure: Figure) -> dict[str, list[float]]:
    """Return the rates of the user's lines by name."""
    return {line.name: list(line.x) for line in figure.lines if line.style == "model"}


def close(*numbers: float | None) -> object:
    return pytest.approx(list(numbers), abs=1e-9)


def test_names_of_papers():
    assert papers.names() == ["cwam", "gaacnn", "gcab_gmm", "iblic"]


def test_unknown_paper_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"one of cwam, gaacnn, gcab_gmm, iblic\ngot: \.\./iblic"):
        build("../iblic", tmp_path)


@pytest.mark.parametrize("name", WANTED)
def test_sections_of_tables_and_figures(name, tmp_path):
    titles = [section.title for section in build(name, tmp_path)]
    assert [wanted for wanted in WANTED[name] if not any(title.startswith(wanted) for title in titles)] == []


@pytest.mark.parametrize("name", WANTED)
def test_without_runs_our_cells_are_blank(name, tmp_path):
    on_set = gather_from(tmp_path)
    sections = papers.sections(name, lambda set_name: replace(on_set(set_name), anchors=()), NOTHING)
    for found in (element for section in sections for element in section.elements):
        if isinstance(found, Table):
            ours = [at for at, head in enumerate(found.columns) if head.endswith(("here", "difference"))]
            assert all(row[at] is None for row in found.rows for at in ours)
            assert all(len(row) == len(found.columns) == len(found.digits) for row in found.rows)
        else:
            assert isinstance(found, Figure)
            assert {line.style for line in found.lines} == {"cited"}
    assert "nothing was run here" in " ".join(section.text for section in sections)


def test_facts_are_consistent():
    for name in facts.stored():
        paper = facts.load(name)
        elements = [element for section in paper.sections for element in section.elements]
        assert len({element.key for element in elements}) == len(elements)
        named = {row.codec for e in elements if e.kind == "table" for row in e.rows}
        named |= {key for e in elements if e.kind == "table" for column in e.columns for key in column.over}
        named |= {key for e in elements if e.kind in ("curves", "training", "crops") for key in e.codecs}
        named |= {e.codec for e in elements if e.kind == "points"}
        assert named == set(paper.codecs), name
        assert {column.measure for e in elements if e.kind == "table" for column in e.columns} <= set(MEASURES)


def test_every_measure_is_used():
    elements = [e for name in papers.names() for section in facts.load(name).sections for e in section.elements]
    assert {column.measure for e in elements if e.kind == "table" for column in e.columns} == set(MEASURES)


@pytest.mark.parametrize("name", facts.stored())
def test_facts_refer_to_existing_names(name):
    paper = facts.load(name)
    models = {path.stem for path in (CONF_DIR / "model").glob("*.yaml")}
    recipes = {path.stem for path in (CONF_DIR / "recipe").glob("*.yaml")}
    cited_keys = {curve.key for set_name in ("kodak", "clic", "tecnick") for curve in cited.curves(set_name)}
    assert set(paper.models) <= models
    assert set(paper.training) <= recipes | {"default"}
    for codec in paper.codecs.values():
        assert {wanted.model for wanted in codec.runs} <= models
        assert {codec.anchor} <= ANCHORS | {None}
        assert {codec.cited} <= cited_keys | {None}
    asked = [(model, path) for model, switches in paper.switches.items() for path in switches]
    asked += [(wanted.model, path) for codec in paper.codecs.values() for wanted in codec.runs for path in wanted.where]
    asked += [(model, f"model.{key}") for model in paper.models if model in models for key in paper.network]
    for model, path in asked:
        section, _, key = path.partition(".")
        assert key in _shipped(model) or section == "recipe", (model, path)


def _shipped(model: str) -> dict:
    content = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "model" / f"{model}.yaml"), resolve=False)
    parents = [parent for parent in content.get("defaults", []) if parent != "_self_"]
    return {key: value for parent in parents for key, value in _shipped(parent).items()} | content


# Published numbers


def test_iblic_table_2_matches_specification(spec, tmp_path):
    line = re.search(r"Table II, BD-rate vs BPG \(%\), Kodak / CLIC: (.*)", spec("iblic"))[1].replace("−", "-")
    numbers = [
        tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+) / (-?[\d.]+\d)", line.replace("VTM 18.0", ""))
    ]
    found = table("iblic", "iblic_table_2", tmp_path)
    assert [(cells[0], cells[3]) for cells in found.values()] == numbers
    assert len(numbers) == 11


def test_iblic_table_5_matches_specification(spec, tmp_path):
    rows = re.findall(r"^\| (?:baseline|\+ .*?) \| (.*) \|$", spec("iblic").partition("Table V")[2], re.MULTILINE)
    specified = [list(map(float, re.findall(r"-?\d[\d.]*", row.replace("−", "-")))) for row in rows]
    points = list(table("iblic", "iblic_table_5_points", tmp_path).values())
    rates = list(table("iblic", "iblic_table_5_bd_rate", tmp_path).values())
    low, high = points[:5], points[5:]
    ours = [[a[3], a[0], b[3], b[0], c[0]] for a, b, c in zip(low, high, rates, strict=True)]
    assert ours == specified


def test_iblic_table_4_matches_specification(spec, tmp_path):
    numbers = [float(number) for number in re.findall(r"\| (\d{3}) G", spec("iblic").partition("## 8.")[2])]
    assert (
        [cells[0] for cells in table("iblic", "iblic_table_4", tmp_path).values()]
        == numbers
        == [192, 236, 347, 355, 356]
    )


def test_gcab_table_1_matches_specification(spec, tmp_path):
    rows = spec("gcab_gmm").partition("Table 1, Tecnick")[2].split("\n\n")[1].splitlines()[2:]
    specified = [list(map(float, re.findall(r"\d+\.\d+", row))) for row in rows]
    found = table("gcab_gmm", "gcab_gmm_table_1", tmp_path)
    ours = [[cells[0], cells[3], float(name.split()[-2])] for name, cells in found.items()]
    assert ours == specified


@pytest.mark.parametrize(
    ("key", "set_name", "columns"),
    [
        ("gaacnn_table_1_psnr", "Tecnick", 0),
        ("gaacnn_table_1_ms_ssim", "Tecnick", 1),
        ("gaacnn_table_2_psnr", "Kodak", 0),
        ("gaacnn_table_2_ms_ssim", "Kodak", 1),
    ],
)
def test_gaacnn_tables_match_specification(spec, tmp_path, key, set_name, columns):
    rows = re.findall(rf"^\| {set_name}, .*? \| (.*?) \| (.*?) \|$", spec("gaacnn"), re.MULTILINE)
    specified = {
        tuple(map(float, pair)) for row in rows for pair in re.findall(r"(-\d+\.\d+)\D+?(\d+\.\d+)", row[columns])
    }
    specified |= {tuple(map(float, pair)) for pair in re.findall(r"(-\d+\.\d+) % / (\d+\.\d+)", rows[0][columns])}
    assert {(cells[0], cells[3]) for cells in table("gaacnn", key, tmp_path).values()} == specified


# Measured numbers


def test_bd_rate_of_nine_tenths_of_bpgs_rate(tmp_path):
    bpg = next(curve for curve in cited.curves("kodak") if curve.key == "bpg")
    for number, point in enumerate(bpg.points, start=1):
        made_up_runs.write(tmp_path, "iblic", number, 0.9 * point.bpp, point.psnr)
    found = table("iblic", "iblic_table_2", tmp_path)
    assert found["Proposed"][:3] == close(-25.4, -10, 15.4)
    assert found["Proposed"][3:6] == [-33.4, None, None]
    assert found["Tiny-LIC"][:3] == [-22.9, None, None]
    assert found["Tiny-LIC"][6] == pytest.approx(-22.0, abs=0.06)  # authors' points over BPG's, from the specification


def test_iblic_ablation_rows(tmp_path):
    off = {"fexm": False, "frm": False, "crm": False, "fenm": False, "qecm": "off"}
    rows = [
        ("baseline", off, 1, 0.30),
        ("fexm_frm", {"fenm": False, "qecm": "off"}, 1, 0.29),
        ("fenm_without_loss", {"qecm": "off"}, 0, 0.28),
        ("fenm", {"qecm": "off"}, 1, 0.27),
        ("qecm", {}, 1, 0.26),
    ]
    for name, config, weight, bpp in rows:
        for lmbda, psnr in ((0.0035, 30.0), (0.0483, 36.0)):
            options = {"name": name, "config": config, "feature_enhancement": weight}
            made_up_runs.write(tmp_path, "iblic", lmbda, bpp, psnr, **options)
    found = table("iblic", "iblic_table_5_points", tmp_path)
    assert found["Tiny-LIC, λ 0.0035"] == close(0.206, 0.30, 0.094, 30.72, 30.0, -0.72)
    assert found["+ FExM + FRM, λ 0.0035"] == close(0.208, 0.29, 0.082, 30.80, 30.0, -0.80)
    assert found["+ FEnM without its loss, λ 0.0035"] == close(0.204, 0.28, 0.076, 30.83, 30.0, -0.83)
    assert found["+ FEnM with its loss, λ 0.0483"] == close(0.909, 0.27, -0.639, 37.99, 36.0, -1.99)
    assert found["+ QECM, λ 0.0483"] == close(0.905, 0.26, -0.645, 38.08, 36.0, -2.08)


def test_run_of_a_sweep_is_preferred_to_a_longer_run(tmp_path):
    made_up_runs.write(tmp_path, "iblic", 0.0035, 0.2, 31.0, steps=9000)
    made_up_runs.write(tmp_path, "iblic", 0.0035, 0.3, 30.0, name="qecm", steps=100)
    assert table("iblic", "iblic_table_5_points", tmp_path)["+ QECM, λ 0.0035"][1] == pytest.approx(0.3)
    assert measured(element("iblic", "iblic_fig_7_kodak_psnr", tmp_path))["Proposed"] == close(0.2)


def test_tiny_lic_is_the_baseline(tmp_path):
    made_up_runs.write(tmp_path, "tinylic", 0.0035, 0.21, 30.7)
    assert table("iblic", "iblic_table_5_points", tmp_path)["Tiny-LIC, λ 0.0035"][1] == pytest.approx(0.21)


def test_network_with_other_switches_does_not_match(tmp_path):
    made_up_runs.write(tmp_path, "iblic", 0.0035, config={"levels": 3})
    assert table("iblic", "iblic_table_5_points", tmp_path)["+ QECM, λ 0.0035"][1] is None
    assert set(measured(element("iblic", "iblic_fig_12", tmp_path))) == {"three-level 3-D Res"}


def test_gcab_curve_joins_two_recipes(tmp_path):
    made_up_runs.write(tmp_path, "gcab_gmm", 0.12598, 1.4, 39.0)
    made_up_runs.write(tmp_path, "gcab_gmm", 0.0315, 0.7, 35.0, recipe="gcab_gmm_finetune")
    made_up_runs.write(tmp_path, "gcab_gmm", 0.0067, 0.3, 31.0, recipe="common")
    assert measured(element("gcab_gmm", "gcab_gmm_fig_6a", tmp_path)) == {"Proposed": close(0.7, 1.4)}


def test_gcab_table_interpolates_at_the_papers_rate(tmp_path):
    tecnick = {"set": "tecnick", "names": ("a", "b")}
    made_up_runs.write(tmp_path, "gcab_gmm", 0.00197, 0.1, 30.0, 0.9, **tecnick)
    made_up_runs.write(tmp_path, "gcab_gmm", 0.00394, 0.2, 32.0, 0.99, **tecnick)
    found = table("gcab_gmm", "gcab_gmm_table_1", tmp_path)["Proposed, 0.150 bpp"]
    # log2(0.150 / 0.1) = 0.5849625 of the way from 30 to 32 dB, and from 10 to 20 dB of MS-SSIM: 1 - 10^-1.5849625.
    assert found == pytest.approx([31.285, 31.169925, -0.115075, 0.957, 0.973996, 0.016996], abs=1e-6)


def test_convergence_of_components_from_logs(tmp_path):
    for number, last in ((1, 4.0), (2, 3.0), (3, 1.0), (4, 2.0)):
        log = [9.0] * 18 + [last, last]
        made_up_runs.write(tmp_path, "gcab_gmm", 0.0315, name=f"K{number}", config={"K": number}, log=log)
    figure = element("gcab_gmm", "gcab_gmm_fig_4", tmp_path)
    assert [line.name for line in figure.lines] == ["K = 1", "K = 2", "K = 3", "K = 4"]
    assert {line.style for line in figure.lines} == {"training"}
    assert list(figure.lines[2].y) == [9.0] * 18 + [1.0, 1.0]
    losses = table("gcab_gmm", "gcab_gmm_fig_4_loss", tmp_path)
    assert list(losses.values()) == [[4.0], [3.0], [1.0], [2.0]]


def test_ms_ssim_models_are_separate(tmp_path):
    made_up_runs.write(tmp_path, "gaacnn", 36, 0.3, 28.0, 0.99, distortion="ms_ssim", recipe="gaacnn_ms_ssim")
    made_up_runs.write(tmp_path, "gaacnn", 0.00984, 0.4, 33.0, 0.98)
    by_psnr, by_ms_ssim = (element("gaacnn", key, tmp_path) for key in ("gaacnn_fig_4a", "gaacnn_fig_4b"))
    assert measured(by_psnr) == {"GAACNN": close(0.4)}
    assert measured(by_ms_ssim) == {"GAACNN, MS-SSIM": close(0.3)}
    assert next(line.y for line in by_ms_ssim.lines if line.style == "model") == close(20.0)


def test_points_at_equal_lambda(tmp_path):
    made_up_runs.write(tmp_path, "cwam", 0.0175, 0.5, 34.0, config={"N": 320})
    made_up_runs.write(tmp_path, "cwam", 0.0067, 0.27419, 31.0, config={"N": 320})
    rows = element("cwam", "cwam_fig_4_kodak_points", tmp_path).rows
    assert [row[0] for row in rows] == [0.0045, 0.0067, 0.00975, 0.0175, 0.0483, 0.09, 0.14]
    # 0.5 bpp is log2(0.5 / 0.4886) / log2(0.8283 / 0.4886) = 0.043698 of the way from 34.257 to 37.331 dB.
    assert rows[3] == pytest.approx([0.0175, 0.4886, 0.5, 0.0114, 34.257, 34.0, -0.257, -0.391328], abs=1e-5)
    assert rows[1][1:4] == close(None, 0.27419, None)
    assert rows[0][:4] == [0.0045, 0.2006, None, None]


def test_points_of_unknown_lambda_come_last(tmp_path):
    made_up_runs.write(tmp_path, "gaacnn", 0.00984, 0.4, 33.0)
    rows = element("gaacnn", "gaacnn_fig_4a_points", tmp_path).rows
    assert rows[0][:3] == close(0.00984, None, 0.4)
    assert rows[0][7] is not None
    assert [row[:3] for row in rows[1:3]] == [[None, 0.15196, None], [None, 0.17554, None]]


def test_tables_over_jpeg_use_the_measured_anchor(tmp_path):
    rates = [(0.25, 28.0), (0.5, 31.0), (1.0, 34.0), (2.0, 38.0)]
    for lmbda, (bpp, psnr) in zip((0.00123, 0.00246, 0.00492, 0.00984), rates, strict=True):
        made_up_runs.write(tmp_path, "gaacnn", lmbda, bpp / 2, psnr)
    pictures = report_tree.digest(made_up_runs.KODAK)
    jpeg = Curve("jpeg", "JPEG", "anchor", "kodak", tuple(Point("q", *rate) for rate in rates), pictures)
    on_set = gather_from(tmp_path)
    sections = papers.sections("gaacnn", lambda name: replace(on_set(name), anchors=(jpeg,)), NOTHING)
    found = next(e for section in sections for e in section.elements if e.key == "gaacnn_table_2_psnr")
    assert next(list(row) for row in found.rows if row[0] == "GAACNN")[1:4] == close(-72.135, -50, 22.135)


def test_results_on_other_pictures_are_left_out(tmp_path):
    made_up_runs.write(tmp_path, "iblic", 0.0035, names=("kodim01", "kodim02"))
    found = element("iblic", "iblic_table_5_points", tmp_path)
    assert all(row[2] is None for row in found.rows)
    assert "results on 2 pictures of kodak; the paper uses 24" in found.note


def test_note_states_training_length_and_widths(tmp_path):
    made_up_runs.write(tmp_path, "iblic", 0.0035, steps=780, config={"N": 32})
    note = element("iblic", "iblic_table_5_points", tmp_path).note
    assert "Here: 1 run, trained on 0.001 % of the crops of their papers" in note
    assert "iblic: N 32 instead of 128" in note


def test_undefined_bd_rate_has_a_reason(tmp_path):
    made_up_runs.write(tmp_path, "iblic", 0.0035)
    found = element("iblic", "iblic_table_2", tmp_path)
    assert next(row for row in found.rows if row[0] == "Proposed")[2] is None
    assert re.search(
        r"Proposed, Kodak: The test curve has too few points\. Expected: at least 4 points; got: 1", found.note
    )


def test_crops_of_the_users_curves(tmp_path):
    made_up_runs.write(tmp_path, "gcab_gmm", 0.12598)
    made_up_runs.write(tmp_path, "gcab_gmm", 0.0315, recipe="gcab_gmm_finetune")
    calls = []

    def compare(*arguments):
        calls.append(arguments)
        return Comparison("x", "x", [Picture("original", Path("o.png"))], arguments[3], "Each at its own rate.")

    found = element("gcab_gmm", "gcab_gmm_fig_7", tmp_path, compare)
    (set_name, image, curves, crop) = calls[0]
    assert (set_name, image, crop) == ("kodak", "kodim07", (256, 128, 256, 256))
    assert [curve.name for curve in curves] == ["Proposed"]
    assert curves[0].about["runs"] == [
        "gcab_gmm/gcab_gmm_finetune/lambda_0.0315",
        "gcab_gmm/gcab_gmm/lambda_0.12598",
    ]
    assert "Each at its own rate." in found.note
    absent = found.note.partition("No reconstructions here of: ")[2]
    assert "Ballé 2018" in absent
    assert "Proposed" not in absent


def test_costs_from_complexity_files(tmp_path):
    off = {
        "size": "full",
        "patch": 2,
        "levels": 2,
        "fexm": False,
        "frm": False,
        "crm": False,
        "fenm": False,
        "qecm": "off",
    }
    row = {"name": "Tiny-LIC", "parameters": 28_338_211, "macs": 170_750_000_000, "profiler_macs": 193_400_000_000}
    content = {"model": "iblic", "height": 512, "width": 768, "rows": [{**row, "paper_macs": None, "model": off}]}
    content |= {"format": 1, "title": "Table IV", "note": ""}
    report_tree.put(tmp_path / "complexity/variants/iblic_modules.json", json.dumps(content))
    macs = [(256, 256, 28_459_000_000), (512, 768, 170_750_000_000)]
    macs = [dict(zip(("height", "width", "total"), count, strict=True)) for count in macs]
    whole = {"model": "tinylic", "config": {}, "parameters": {"total": 28_338_211}, "macs": macs}
    whole |= {"format": 1, "quantiles": 576}
    report_tree.put(tmp_path / "complexity/tinylic.json", json.dumps(whole))
    report_tree.put(tmp_path / "complexity/broken.json", "{")
    assert table("iblic", "iblic_table_4", tmp_path)["Tiny-LIC"] == close(192, 193.4, 1.4, 170.75)
    assert table("iblic", "iblic_table_4", tmp_path)["+ FExM"] == [236, None, None, None]
    assert table("iblic", "iblic_table_3", tmp_path)["Tiny-LIC"] == [28.338211, None, None]


def test_hostile_names_and_values_are_harmless(tmp_path):
    for number, name in enumerate((report_tree.HOSTILE, "../../x", "a\nb", "|", "x" * 500)):
        config = {"N": name, "K": 3}
        folder = f"lambda_{number}"
        made_up_runs.write(tmp_path, "gcab_gmm", 0.01 * (number + 1), name=name, config=config, folder=folder)
    for name in papers.names():
        for section in build(name, tmp_path):
            assert all("\n" not in found.note and len(found.note) < 4000 for found in section.elements)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.b", 1), ("c.1.d", 2), ("c.2", None), ("a.b.x", None), ("x", None), ("c.-1", None), ("", None)],
)
def test_value_at_dotted_path(path, expected):
    assert value_at({"a": {"b": 1}, "c": [0, {"d": 2}]}, path) == expected


@pytest.mark.parametrize(("part", "text"), [(1.0, "100 %"), (0.3, "30 %"), (0.000012, "0.0012 %"), (2.5, "250 %")])
def test_percent_format(part, text):
    assert percent(part) == text


def test_at_rate_is_linear_in_log_rate():
    points = [(0.25, 30.0), (1.0, 34.0), (1.0, 34.0), (2.0, 36.0)]
    assert at_rate(points, 0.5) == pytest.approx(32.0)
    assert at_rate(points, 0.25) == 30.0
    assert at_rate(points, 2.0) == 36.0
    assert at_rate(points, 0.2) is None
    assert at_rate(points, 2.1) is None


ROWS = {  # by sweep: name of its runs -> codec in the paper's file
    "iblic_ablation": {
        "baseline": "baseline", "fexm_frm": "fexm_frm", "fenm_without_loss": "fenm_plain", "fenm": "fenm",
        "qecm": "qecm",
    },
    "iblic_patch": {"patch_1": "patch_1", "patch_2": "patch_2", "patch_4": "patch_4", "patch_8": "patch_8"},
    "gcab_components": {"K1": "k_1", "K2": "k_2", "K3": "k_3", "K4": "k_4"},
    "gcab_modules": {"hyperprior": "none", "gcab": "gcab", "mixture": "gmm", "gcab_mixture": "both"},
}  # fmt: skip


@pytest.mark.parametrize("sweep", ROWS)
def test_rows_of_sweeps_match_codecs(sweep):
    path = CONF_DIR / "sweep" / f"{sweep}.yaml"
    if not path.is_file():
        pytest.skip(f"there is no conf/sweep/{sweep}.yaml")
    model = "iblic" if sweep.startswith("iblic") else "gcab_gmm"
    evidence = Evidence(facts.load(model), lambda _: Gathered(Path(), "kodak"))
    shipped, found = compose([f"model={model}"]), {}
    for overrides in OmegaConf.load(path).sweep.rows:
        config = OmegaConf.to_container(_with(shipped, overrides), resolve=True)
        fitting = [key for key in evidence.paper.codecs if evidence.on("kodak").is_codec(key, model, config)]
        found[config["name"]] = ROWS[sweep].get(config["name"]) in fitting
    assert found == dict.fromkeys(ROWS[sweep], True)


def _with(config: DictConfig, overrides: list[str]) -> DictConfig:
    """Return the configuration with the overrides of a row, parsed by Hydra."""
    config = config.copy()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        OmegaConf.update(config, override.key_or_group, override.value())
    return config
