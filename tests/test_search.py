"""``sweep=search``: Optuna asks for trials, each is a run of its own, and the lowest validation loss wins."""

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

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="Hydra's plugin for Optuna is not installed")

TRIALS = 6


class Search:
    """A search over fake runs, of which those with a batch of 16 fail."""

    def __init__(self, root: Path, seed: str = "seed=5", trials: int = TRIALS) -> None:
        self.root, self.seed, self.trials = root, seed, trials

    def run(self, code: int = 0) -> str:
        """Search, which must end with this exit code; returns what was said."""
        log = self.root / "log.txt"
        assert Forked(self._main, log).wait() == code, log.read_text()
        return log.read_text()

    def _main(self) -> None:
        relaunch.TRAIN = FAKE_TRAIN
        plan.refuse_another_run = lambda *_: None  # fake runs keep no configuration
        typed = ["model=bmshj2018_factorized", "sweep=search", "lambda=0.01", self.seed, "steps=10"]
        where = [f"output={self.root}/runs/lr_${{lr_scale}}", f"hydra.sweep.dir={self.root}/sweeps"]
        sys.argv = [str(ROOT / "train.py"), "-m", *typed, *where, f"hydra.sweeper.n_trials={self.trials}"]
        runpy.run_path(sys.argv[0], run_name="__main__")

    def events(self, what: str) -> list[dict[str, str]]:
        """The overrides of the runs of which that is told, in order."""
        events = map(json.loads, (self.root / "runs" / "calls.txt").read_text().splitlines())
        return [
            dict(text.split("=", maxsplit=1) for text in event["overrides"])
            for event in events
            if event["what"] == what
        ]

    def table(self) -> list[dict[str, Any]]:
        """The rows of the sweep's JSON."""
        (path,) = (self.root / "sweeps").glob("*.json")
        return json.loads(path.read_text())["runs"]

    def best(self) -> dict[str, Any]:
        """What Optuna found."""
        return yaml.safe_load((self.root / "sweeps" / "optimization_results.yaml").read_text())


def loss(trial: dict[str, str]) -> float:
    """As fake_train.py has it."""
    return abs(math.log(float(trial["lr_scale"])))


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, str]:
    """One that was run, and what it said."""
    made = Search(tmp_path_factory.mktemp("search"))
    return made, made.run()


def test_the_lowest_validation_loss_wins_and_failed_trials_stop_nothing(search: tuple[Search, str]) -> None:
    begun, ended = search[0].events("begins"), search[0].events("ends")
    assert len(begun) == TRIALS > len(ended) > 1
    assert [trial["batch_size"] for trial in begun if trial not in ended] == ["16"] * (TRIALS - len(ended))
    best = min(ended, key=loss)
    found = search[0].best()
    assert found["best_value"] == pytest.approx(loss(best))
    assert found["best_params"]["lr_scale"] == pytest.approx(float(best["lr_scale"]))


def test_every_trial_has_its_own_values_and_directory(search: tuple[Search, str]) -> None:
    trials = search[0].events("begins")
    assert len({trial["lr_scale"] for trial in trials}) == TRIALS
    assert all(0.1 <= float(trial["lr_scale"]) <= 10 for trial in trials)
    assert {trial["batch_size"] for trial in trials} <= {"4", "8", "16"}
    assert {float(trial["recipe.optimizer.clip_norm"]) for trial in trials} <= {0.1, 1, 5}
    names = [Path(row["directory"]).name for row in search[0].table()]
    assert len(set(names)) == TRIALS


def test_the_table_has_the_loss_of_all_trials(search: tuple[Search, str]) -> None:
    rows = search[0].table()
    losses = [row["val_loss"] for row in rows if row["state"] == "finished"]
    assert losses == pytest.approx([loss(trial) for trial in search[0].events("ends")])
    assert len(rows) == TRIALS
    assert search[1].count("val loss") == 1  # at the end, not after each trial
    best = min((row for row in rows if row["val_loss"]), key=lambda row: row["val_loss"])
    assert f"best      {best['directory']}" in search[1]


def test_where_every_trial_fails_it_ends_with_the_table_and_no_traceback(tmp_path: Path) -> None:
    failing = Search(tmp_path, "seed=1", trials=2)
    said = failing.run(code=1)
    assert "The same command goes on" in said
    assert "Traceback" not in said
    assert [row["state"] for row in failing.table()] == ["failed"] * 2


def test_the_same_command_asks_for_the_same_trials_and_retries_what_failed(search: tuple[Search, str]) -> None:
    begun, best = search[0].events("begins"), search[0].best()
    search[0].run()
    again = search[0].events("begins")[len(begun) :]
    assert again == [trial for trial in begun if trial["batch_size"] == "16"]
    assert search[0].best() == best
