"""Imported models in the report and on the card: drawn as points without a number of steps, and marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lic_train.evaluate.bench import Settings
from lic_train.evaluate.protocol import Protocol
from lic_train.evaluate.run import evaluate_run
from lic_train.files.checkpoint import save_model
from lic_train.report import card
from lic_train.report.gather import gather
from lic_train.report.markdown import markdown
from lic_train.report.run_tables import run_table
from lic_train.report.runs import read_runs
from lic_train.runs.find import model_files
from tests.tiny import HYPERPRIOR, make_codec, picture

IMAGES = [("a.png", picture(64, 64, 1)), ("b.png", picture(70, 50, 2))]


def import_model(path: Path, lmbda: float | None, seed: int = 0, **more: Any) -> None:
    published = {"name": path.stem, "source": "the authors", "bpp": 0.5, "psnr": 30.0, "options": {"psnr": "float"}}
    known = {} if lmbda is None else {"lambda": lmbda}
    extra = {**known, "distortion": "mse", "source": f"{path.stem}.pth.tar", "published": published, **more}
    save_model(path, make_codec(HYPERPRIOR, seed), HYPERPRIOR, extra)


def evaluate_model(path: Path, **protocol: Any) -> None:
    settings = Settings(panels=0, protocol=Protocol(**protocol))
    evaluate_run(path, IMAGES, "kodak", settings=settings)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    for number, lmbda in enumerate((0.0067, 0.0018, None)):
        path = outputs / "zoo" / f"q{number}.safetensors"
        import_model(path, lmbda, seed=number)
        evaluate_model(path, psnr="float" if number == 0 else "uint8")
    import_model(outputs / "zoo" / "never_evaluated.safetensors", 0.1)
    exported = outputs / "exported.safetensors"
    save_model(exported, make_codec(HYPERPRIOR), HYPERPRIOR, {"step": 7, "run_config": {"lambda": 0.0067}})
    evaluate_model(exported)
    return outputs


def test_imported_models_are_found_with_their_results(outputs: Path) -> None:
    assert [path.stem for path in model_files(outputs)] == ["exported", "q0", "q1", "q2"]
    runs, left_out = read_runs(outputs)
    assert [(run.where, run.model, run.lmbda, run.step) for run in runs] == [
        ("zoo/q0.safetensors", "bmshj2018_hyperprior", 0.0067, None),
        ("zoo/q1.safetensors", "bmshj2018_hyperprior", 0.0018, None),
    ]
    assert {item.what: item.reason.partition(";")[0] for item in left_out} == {
        "exported.safetensors": "an exported model",
        "zoo/q2.safetensors": "lambda is not known",
    }


def test_imported_models_are_one_marked_curve(outputs: Path) -> None:
    runs, left_out = read_runs(outputs)
    gathered = gather(outputs, runs, left_out)
    (curve,) = gathered.curves
    assert curve.name == "bmshj2018_hyperprior, authors' weights, eval.psnr=float"
    assert curve.key == "bmshj2018_hyperprior_imported"
    assert [point.parameter for point in curve.points] == ["λ 0.0018", "λ 0.0067"]
    rows = {row[0]: row for row in run_table(gathered).rows}
    assert rows["zoo/q0.safetensors"][2] is None
    assert rows["zoo/q0.safetensors"][3] == runs[0].results["kodak"].mean.bpp_file


def test_result_of_an_earlier_file_is_left_out(outputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    import_model(path, 0.0067)
    evaluate_model(path)
    import_model(path, 0.0067, seed=5)
    (run,), (left_out,) = read_runs(tmp_path)
    assert run.results == {}
    assert "another model" in left_out.reason


def test_card_has_published_and_measured_results(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert card.main([str(outputs)]) == 0
    assert capsys.readouterr().out.count("card.md") == 2
    text = (outputs / "zoo" / "q0" / "card.md").read_text()
    mean = read_runs(outputs)[0][0].results["kodak"].mean
    assert "authors' weights, λ 0.0067" in text
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    here = f"{mean.bpp_file:.3f} bpp {mean.psnr:.2f} dB"
    options = ["eval.psnr=float", "eval.psnr=float"]
    assert ["", "0.0067", "q0", "kodak", "0.500 bpp 30.00 dB", here, *options, "the authors", ""] in cells
    assert "crops seen" not in text
    assert "Commands that repeat it" not in text
    runs, _ = read_runs(outputs)
    assert "those of lic_train" in markdown(card.section(runs))
