"""Runs with a variable rate: training, evaluation, report, start from a fixed rate, sweep against fixed rates."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lic_train.codec.load import load
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import ConfigError
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.run import evaluate_run
from lic_train.launch import rates
from lic_train.launch.plan import plan
from lic_train.report.gather import gather
from lic_train.report.runs import read_runs, trainings
from lic_train.runs.load import load_run
from lic_train.training.callbacks.interrupt import Interrupted
from lic_train.training.setup import make_model
from tests import report_tree
from tests.small_runs import (
    Forked,
    assert_equal_state,
    column,
    in_ranks,
    make_photographs,
    overrides,
    run_here,
    stop_at,
)
from tests.test_golden_losses import train_only
from tests.tiny import HYPERPRIOR, make_run, picture

LAMBDAS = [0.002, 0.01, 0.05]
VARIABLE = ("rate=variable", f"rate.lambdas={LAMBDAS}")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture(scope="module")
def run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, validated and evaluated at three levels."""
    output = tmp_path_factory.mktemp("outputs") / "mbt2018_mean" / "mbt2018_mean" / "variable"
    train = Forked(
        lambda: run_here(overrides(photographs, output, *VARIABLE, "validate.bitstreams=1")),
        tmp_path_factory.mktemp("log") / "log.txt",
    )
    assert train.wait() == 0, train.log.read_text()
    return output


def last_validation(run: Path) -> dict[str, float]:
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    return {name: float(value) for name, value in rows[-1].items() if value}


# --- training --------------------------------------------------------------------------------------------------------


def test_validation_is_the_mean_over_all_levels(run):
    values = last_validation(run)
    for name in ("loss", "bpp", "psnr", "bpp_file", "psnr_file"):
        levels = [values[f"val/{name}_level_{level}"] for level in range(3)]
        assert len(set(levels)) > 1
        assert values[f"val/{name}"] == pytest.approx(np.mean(levels))
    assert load_run(run)[1].extra["val_loss"] == pytest.approx(min(column(run, "val/loss")))
    assert set(load_run(run)[1].config["lambdas"]) == set(LAMBDAS)


def test_training_logs_rate_and_quality_of_the_levels_in_the_batch(run):
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert len(rows) == 6
    for row in rows:  # four crops for three levels
        assert all(float(row[f"train/{name}_level_{level}"]) > 0 for name in ("bpp", "psnr") for level in range(3))


def test_processes_and_micro_batches_train_like_whole_batches(photographs, tmp_path):
    """Four parts of one crop each against one part of four."""

    def train(name: str, *more: str) -> None:
        short = ("steps=3", "validate.every=3", "validate.crops=2")
        train_only(checked(compose(overrides(photographs, tmp_path / name, *VARIABLE, *short, *more))))

    def log(name: str) -> list[list[float]]:
        names = ("loss", *(f"{kind}_level_{level}" for kind in ("bpp", "psnr") for level in range(3)))
        return [column(tmp_path / name, f"{part}/{each}") for part in ("train", "val") for each in names]

    train("whole")
    for rank in in_ranks(lambda: train("parts", "trainer=ddp", "trainer.devices=2", "accumulate=2"), tmp_path):
        rank.result()
    for parts, whole in zip(log("parts"), log("whole"), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-4)


def test_interrupted_and_resumed_run_is_bit_equal(run, photographs, tmp_path, monkeypatch):
    command = overrides(photographs, tmp_path / "run", *VARIABLE, "validate.bitstreams=1")
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        with pytest.raises(Interrupted):
            run_here(command)
    assert run_here(command) == 0
    assert_equal_state(tmp_path / "run", run)
    assert column(tmp_path / "run", "train/bpp_level_1") == column(run, "train/bpp_level_1")


def test_variable_rate_starts_from_a_fixed_one(tmp_path):
    single = make_run(tmp_path / "fixed", config=HYPERPRIOR)
    network = ["model=bmshj2018_hyperprior", "model.N=8", "model.M=8"]
    start = [*network, f"init_from={tmp_path / 'fixed'}"]
    model = make_model(checked(compose([*start, *VARIABLE]))).eval()
    model.update()
    x = picture(64, 64)[None].float() / 255
    for level in (0, 1.3, 2):
        with torch.no_grad(), model.at_level(level):
            assert torch.equal(model(x)["x_hat"], single(x)["x_hat"])
    make_run(tmp_path / "variable", config={**HYPERPRIOR, "lambdas": LAMBDAS})
    other_way = checked(compose([*network, f"init_from={tmp_path / 'variable'}"]))
    with pytest.raises(ConfigError, match=r"another network.*\n(.*\n)*.*rate=variable"):
        make_model(other_way)


# --- evaluation and report -------------------------------------------------------------------------------------------


def test_evaluation_has_a_row_for_each_picture_and_level(run):
    content = json.loads((run / "eval" / "heldout.json").read_text())
    rows = content["rows"]
    assert [(row["level"], row["lambda"]) for row in rows] == list(zip((0, 1, 2), LAMBDAS, strict=True))
    assert content["images"] == 1
    assert len({row["name"] for row in rows}) == 1
    for row, level in zip(rows, content["levels"], strict=True):
        assert (level["lambda"], level["mean"]["bpp_file"]) == (row["lambda"], row["bpp_file"])
        path = run / "eval" / "heldout" / f"{row['name']}_level_{row['level']:g}.lic"
        assert path.stat().st_size == row["bytes"]
        load(run).decode(path.read_bytes())
    assert all(row["equal"] for row in rows)


def test_levels_of_an_evaluation_can_be_chosen(run, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes((run / "checkpoints" / "best.safetensors").read_bytes())
    settings = Settings(panels=0, levels=(1.5, 0.0))
    result = evaluate_run(model, [("a", picture(64, 64)), ("b", picture(70, 64))], "pair", settings=settings)
    expected = [(name, level) for name in "ab" for level in (0, 1.5)]
    assert [(row["name"], row["level"]) for row in result["rows"]] == expected
    assert result["levels"][1]["lambda"] == pytest.approx((0.01 * 0.05) ** 0.5)
    with pytest.raises(ConfigError, match="from 0 to 2"):
        evaluate_run(model, [("a", picture(64, 64))], "pair", settings=Settings(panels=0, levels=(7,)))
    make_run(tmp_path / "fixed", config=HYPERPRIOR)
    with pytest.raises(ConfigError, match=r"one rate\.\nexpected: no eval\.levels"):
        evaluate_run(tmp_path / "fixed", [("a", picture(64, 64))], "pair", settings=Settings(panels=0, levels=(1,)))


def test_report_draws_the_levels_of_a_run_as_one_curve(run):
    outputs = run.parents[2]
    runs, left_out = read_runs(outputs)
    assert left_out == []
    assert [(each.level, each.lmbda) for each in runs] == list(zip((0, 1, 2), LAMBDAS, strict=True))
    (curve,) = gather(outputs, runs, []).curves
    assert (curve.key, curve.name, len(curve.points)) == ("mbt2018_mean_variable", "mbt2018_mean, variable", 3)
    assert [each.trained_for for each in trainings(runs)] == ["0.002 to 0.05"]
    assert "λ 0.002 to 0.05" in (run / "card.md").read_text()


# --- sweep -----------------------------------------------------------------------------------------------------------

SWEEP = ["model=mbt2018_mean", "sweep=variable_against_fixed"]


def test_sweep_has_one_variable_run_and_one_run_of_its_network_for_each_lambda(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = plan([SWEEP]).jobs
    ladder = [0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800]
    assert jobs[0].config.rate.lambdas == ladder
    assert [job.config.lmbda for job in jobs[1:]] == ladder
    assert {(job.config.model["N"], job.config.model["M"]) for job in jobs} == {(192, 320)}
    assert len({job.directory for job in jobs}) == 9
    assert len({job.config.steps for job in jobs}) == 1
    with pytest.raises(ConfigError, match="rate=variable conflicts with sweep=variable_against_fixed"):
        plan([[*SWEEP, "rate=variable"]])


def test_closing_table_has_the_rate_of_the_variable_run_over_the_fixed_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = plan([[*SWEEP, f"sweep.grid.lambda={list(report_tree.LAMBDAS)}", "model.N=8", "model.M=12"]]).jobs
    (early,) = rates.comparisons(jobs)
    assert (early.bd_rate, early.reason is None) == (None, False)
    results = [report_tree.result(lmbda, 33.0, set_name="heldout") for lmbda in report_tree.LAMBDAS]
    several = copy.deepcopy(results[0]) | {"rows": [], "levels": []}
    for level, (lmbda, single) in enumerate(zip(report_tree.LAMBDAS, results, strict=True)):
        larger = [row | {"bpp_file": 1.1 * row["bpp_file"], "level": level, "lambda": lmbda} for row in single["rows"]]
        several["rows"] += larger
        several["levels"].append({"level": level, "lambda": lmbda, "mean": report_tree.mean(larger)})
    for job, result in zip(jobs, [several, *results], strict=True):
        report_tree.put(job.directory / "eval" / "heldout.json", json.dumps(result))
    (found,) = rates.comparisons(jobs)
    assert found.reason is None
    assert found.bd_rate == pytest.approx(10)
    assert found.interval == pytest.approx((10, 10))
    assert found.fixed_steps == 4 * found.steps
    assert found.variable == str(jobs[0].directory)
