"""The command line of the report: files, output, errors."""

from __future__ import annotations

import shutil

import pytest
from markupsafe import escape

from lic_train.report import build, papers
from lic_train.report.__main__ import main
from tests.report_tree import write_anchors, write_complexity, write_mistakes, write_models, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("tree") / "outputs"
    write_models(outputs)
    write_mistakes(outputs)
    write_complexity(outputs)
    write_anchors(outputs)
    return outputs


@pytest.fixture
def outputs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "outputs")


@pytest.fixture
def page_alone(monkeypatch):
    """Skip the export of files, which takes seconds."""
    monkeypatch.setattr(build, "export", lambda sections, folder: [])


def test_command_writes_page_and_files(outputs, capsys):
    assert main([str(outputs), "--pictures", "0"]) == 0
    output = capsys.readouterr().out
    assert f"report   {outputs / 'report' / 'index.html'}" in output
    assert "left out cwam/cwam/lambda_0.1: unfinished: step 300 of 300" in output
    page = (outputs / "report/index.html").read_text()
    for title in ("PSNR over rate, kodak", "MS-SSIM over rate, kodak", "BD-rate over VVC (VVenC) in PSNR, kodak"):
        assert title in page
    for section in (
        "Runs",
        "Complexity",
        "Ablation",
        "Training",
        "Reproduction card: mbt2018, ",
        "Anchors",
        "Left out",
    ):
        assert f">{section}" in page
    assert f"files    {outputs / 'report' / 'files'}" in output
    files = {path.name for path in (outputs / "report/files").iterdir()}
    assert {f"rd_psnr.{kind}" for kind in ("pdf", "svg", "csv")} <= files
    assert {f"{key}.{kind}" for key in ("bd_psnr", "runs", "complexity") for kind in ("tex", "csv")} <= files


@pytest.mark.parametrize("name", papers.names())
def test_tables_and_figures_of_a_paper_come_first(made, tmp_path, page_alone, name):
    assert main([str(made), "--paper", name, "--pictures", "0", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    titles = [f"<h2>{section.title}</h2>" for section in papers.facts.load(name).sections]
    places = [page.index(title) for title in [*titles, "<h2>Rate and distortion</h2>"]]
    assert places == sorted(places)
    heading = escape(f"The paper's tables and figures: {name}")
    assert page.index(f"<h2>{heading}</h2>") < places[0]


def test_unknown_paper_lists_the_known_ones(made, tmp_path, capsys):
    assert main([str(made), "--paper", "nature", "--out", str(tmp_path)]) == 2
    assert "expected: one of cwam, gaacnn, gcab_gmm, iblic got: nature" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "index.html").exists()


def test_page_is_reproducible(outputs, tmp_path, page_alone):
    pages = []
    for name in ("one", "two"):
        assert main([str(outputs), "--pictures", "0", "--out", str(tmp_path / name)]) == 0
        pages.append((tmp_path / name / "index.html").read_text().replace(_made(tmp_path / name), ""))
    assert pages[0] == pages[1]


def _made(folder):
    """Return the time stamp."""
    text = (folder / "index.html").read_text()
    return text[text.index("<dt>Made</dt>") :].partition("</div>")[0]


@pytest.mark.parametrize(("key", "title"), [("jpeg", "JPEG"), ("cwam", "cwam")])
def test_any_curve_as_anchor(made, tmp_path, page_alone, key, title):
    assert main([str(made), "--anchor", key, "--pictures", "0", "--out", str(tmp_path)]) == 0
    assert f"BD-rate over {title} in PSNR" in (tmp_path / "index.html").read_text()


def test_unknown_anchor_lists_the_known_ones(made, capsys):
    assert main([str(made), "--anchor", "nowhere"]) == 2
    output = " ".join(capsys.readouterr().err.split())
    assert "There is no curve nowhere on kodak. expected: one of " in output
    assert "cwam" in output


def test_missing_tree(tmp_path, capsys):
    assert main([str(tmp_path / "outputs")]) == 2
    assert "train first" in capsys.readouterr().err


def test_tree_without_finished_runs_lists_the_reasons(tmp_path, page_alone, capsys):
    (write_run(tmp_path, "cwam", 0.0067, 33) / "finished.json").unlink()
    assert main([str(tmp_path), "--set", "clic"]) == 0
    assert "unfinished: step 300 of 300" in capsys.readouterr().out
    assert "unfinished: step 300 of 300" in (tmp_path / "report/index.html").read_text()


def test_unwritable_folder_has_no_traceback(made, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(made), "--pictures", "0", "--out", str(tmp_path / "file" / "below")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_cited_table_is_drawn_and_kept(outputs, tmp_path, capsys, page_alone):
    header = "set\tkey\tname\ttrained_for\tpoint\tlambda\tbpp\tpsnr_db\tms_ssim_db\tsource\tnote"
    points = [f"kodak\tmine\tMy codec\tmse\t{i}\t\t{0.1 * 2**i}\t{27 + 2 * i}\t\ta paper\t" for i in range(5)]
    table = tmp_path / "mine.tsv"
    table.write_text("\n".join([header, *points]))
    assert main([str(outputs), "--pictures", "0", "--cite", str(table)]) == 0
    assert "My codec" in (outputs / "report/index.html").read_text()
    assert main([str(outputs), "--pictures", "0", "--anchor", "mine"]) == 0
    assert "BD-rate over My codec" in (outputs / "report/index.html").read_text()
    table.write_text(header)
    assert main([str(outputs), "--pictures", "0", "--cite", str(table)]) == 2
    assert "is not valid in a table of published curves" in capsys.readouterr().err
