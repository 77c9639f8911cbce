"""``sweep=search``: Optuna proposes trials, each trial is a run, and the objective is the lowest validation loss."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lic_train.launch import plan
from lic_train.system import relaunch
from tests.conftest import ROOT
from tests.small_runs import Forked
from tests.sweeps import FAKE_TRAIN

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")

TRIALS = 6


class Search:
    """A search over fake runs; with ``seed=5`` those with a batch size of 16 fail."""

    def __init__(self, root: Path, seed: str = "seed=5", trials: int = TRIALS) -> None:
        self.root, self.seed, self.trials = root, seed, trials

    def run(self, code: int = 0) -> str:
        """Run the search, which must end with this exit code; return its output."""
        log = self.root / "log.txt"
        assert Forked(self._main, log).wait() == code, log.read_text()
        return log.read_text()

    def _main(self) -> None:
        relaunch.TRAIN = FAKE_TRAIN
        plan.refuse_another_run = lambda *_: None  # fake runs write no configuration
        typed = ["model=bmshj2018_factorized", "sweep=search", "lambda=0.01", self.seed, "steps=10"]
        where = [f"output={self.root}/runs/lr_${{lr_scale}}", f"hydra.sweep.dir={self.root}/sweeps"]
        sys.argv = [str(ROOT / "train.py"), "-m", *typed, *where, f"hydra.sweeper.n_trials={self.trials}"]
        runpy.run_path(sys.argv[0], run_name="__main__")

    def events(self, what: str) -> list[dict[str, str]]:
        """Return the overrides of the runs with such an event, in order."""
        events = map(json.loads, (self.root / "runs" / "calls.txt").read_text().splitlines())
        return [
            dict(text.split("=", maxsplit=1) for text in event["overrides"])
            for event in events
            if event["what"] == what
        ]

    def table(self) -> list[dict[str, Any]]:
        """Return the runs of the sweep's JSON."""
        (path,) = (self.root / "sweeps").glob("*.json")
        return json.loads(path.read_text())["runs"]

    def best(self) -> dict[str, Any]:
        """Return Optuna's result."""
        return yaml.safe_load((self.root / "sweeps" / "optimization_results.yaml").read_text())


def loss(trial: dict[str, str]) -> float:
    """Return the validation loss that fake_train.py writes."""
    return abs(math.log(float(trial["lr_scale"])))


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, str]:
    """A completed search, and its output."""
    made = Search(tmp_path_factory.mktemp("search"))
    return made, made.run()


def test_best_trial_has_the_lowest_validation_loss_despite_failed_trials(search: tuple[Search, str]) -> None:
    started, ended = search[0].events("started"), search[0].events("ended")
    assert len(started) == TRIALS > len(ended) > 1
    assert [trial["batch_size"] for trial in started if trial not in ended] == ["16"] * (TRIALS - len(ended))
    best = min(ended, key=loss)
    found = search[0].best()
    assert found["best_value"] == pytest.approx(loss(best))
    assert found["best_params"]["lr_scale"] == pytest.approx(float(best["lr_scale"]))


def test_each_trial_has_its_own_values_and_directory(search: tuple[Search, str]) -> None:
    trials = search[0].events("started")
    assert len({trial["lr_scale"] for trial in trials}) == TRIALS
    assert all(0.1 <= float(trial["lr_scale"]) <= 10 for trial in trials)
    assert {trial["batch_size"] for trial in trials} <= {"4", "8", "16"}
    assert {float(trial["recipe.optimizer.clip_norm"]) for trial in trials} <= {0.1, 1, 5}
    names = [Path(row["directory"]).name for row in search[0].table()]
    assert len(set(names)) == TRIALS


def test_table_contains_the_loss_of_every_trial(search: tuple[Search, str]) -> None:
    rows = search[0].table()
    losses = [row["val_loss"] for row in rows if row["state"] == "finished"]
    assert losses == pytest.approx([loss(trial) for trial in search[0].events("ended")])
    assert len(rows) == TRIALS
    assert search[1].count("val loss") == 1  # printed once at the end, not after each trial
    best = min((row for row in rows if row["val_loss"]), key=lambda row: row["val_loss"])
    assert f"best      {best['directory']}" in search[1]


def test_failure_of_every_trial_ends_with_the_table_and_no_traceback(tmp_path: Path) -> None:
    failing = Search(tmp_path, "seed=1", trials=2)
    output = failing.run(code=1)
    assert "The same command continues" in output
    assert "Traceback" not in output
    assert [row["state"] for row in failing.table()] == ["failed"] * 2


def test_repeated_command_repeats_trials_and_retries_failed_ones(search: tuple[Search, str]) -> None:
    started, best = search[0].events("started"), search[0].best()
    search[0].run()
    again = search[0].events("started")[len(started) :]
    assert again == [trial for trial in started if trial["batch_size"] == "16"]
    assert search[0].best() == best
