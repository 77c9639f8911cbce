"""The command line: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import shutil

import pytest

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
    """Without the files beside it, whose drawing takes seconds."""
    monkeypatch.setattr(build, "export", lambda sections, folder: [])


def test_one_command_writes_the_page_and_says_where(outputs, capsys):
    assert main([str(outputs), "--pictures", "0"]) == 0
    said = capsys.readouterr().out
    assert f"report   {outputs / 'report' / 'index.html'}" in said
    assert "left out cwam/cwam/lambda_0.1: unfinished: step 300 of 300" in said
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
    assert f"files    {outputs / 'report' / 'files'}" in said
    files = {path.name for path in (outputs / "report/files").iterdir()}
    assert {f"rd_psnr.{kind}" for kind in ("pdf", "svg", "csv")} <= files
    assert {f"{key}.{kind}" for key in ("bd_psnr", "runs", "complexity") for kind in ("tex", "csv")} <= files


@pytest.mark.parametrize("name", papers.names())
def test_a_papers_tables_and_figures_come_first(made, tmp_path, page_alone, name):
    assert main([str(made), "--paper", name, "--pictures", "0", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    titles = [f"<h2>{section.title}</h2>" for section in papers.facts.load(name).sections]
    places = [page.index(title) for title in [*titles, "<h2>Rate and distortion</h2>"]]
    assert places == sorted(places)
    assert page.index(f"<h2>The paper&#x27;s tables and figures: {name}</h2>") < places[0]


def test_an_unknown_paper_is_refused_with_the_known_ones(made, tmp_path, capsys):
    assert main([str(made), "--paper", "nature", "--out", str(tmp_path)]) == 2
    assert "cwam, gaacnn, gcab_gmm, iblic; got nature" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "index.html").exists()


def test_the_same_tree_gives_the_same_page_again(outputs, tmp_path, page_alone):
    pages = []
    for name in ("one", "two"):
        assert main([str(outputs), "--pictures", "0", "--out", str(tmp_path / name)]) == 0
        pages.append((tmp_path / name / "index.html").read_text().replace(_made(tmp_path / name), ""))
    assert pages[0] == pages[1]


def _made(folder):
    """The time stamp."""
    text = (folder / "index.html").read_text()
    return text[text.index("<dt>Made</dt>") :].partition("</div>")[0]


@pytest.mark.parametrize(("key", "title"), [("jpeg", "JPEG"), ("cwam", "cwam")])
def test_any_curve_can_be_the_anchor(made, tmp_path, page_alone, key, title):
    assert main([str(made), "--anchor", key, "--pictures", "0", "--out", str(tmp_path)]) == 0
    assert f"BD-rate over {title} in PSNR" in (tmp_path / "index.html").read_text()


def test_an_unknown_anchor_is_refused_with_the_known_ones(made, capsys):
    assert main([str(made), "--anchor", "nowhere"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "expected one of the curves on kodak: " in said
    assert "cwam" in said


def test_no_tree_is_refused(tmp_path, capsys):
    assert main([str(tmp_path / "outputs")]) == 2
    assert "train first" in capsys.readouterr().err


def test_a_tree_without_a_finished_run_still_says_why(tmp_path, page_alone, capsys):
    (write_run(tmp_path, "cwam", 0.0067, 33) / "finished.json").unlink()
    assert main([str(tmp_path), "--set", "clic"]) == 0
    assert "unfinished: step 300 of 300" in capsys.readouterr().out
    assert "unfinished: step 300 of 300" in (tmp_path / "report/index.html").read_text()


def test_a_full_or_read_only_place_is_an_error_without_a_trace(made, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(made), "--pictures", "0", "--out", str(tmp_path / "file" / "below")]) == 2
    assert "Not a directory" in capsys.readouterr().err
