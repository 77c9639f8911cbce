"""``python train.py -m`` with real runs, one of which fails; each has its own W&B run."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.small_runs import Forked, column, last_checkpoint, make_photographs, overrides
from tests.test_loggers import records

HUGE = "1e+38"  # a lambda with infinite loss


class RealSweep:
    """A sweep over lambdas in ``root``, run by train.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.photographs = make_photographs(root / "photographs")

    def run(self, lambdas: str) -> tuple[int, str]:
        """Run the sweep; return its exit code and output."""
        more = (
            "logger=wandb",
            "steps=2",
            "validate.every=2",
            "validate.crops=1",
            f"hydra.sweep.dir={self.root}/sweeps",
        )
        given = overrides(self.photographs, self.root / "lambda_${lambda}", f"lambda={lambdas}", *more)

        def main() -> None:
            sys.argv = [str(ROOT / "train.py"), "-m", *given]
            runpy.run_path(sys.argv[0], run_name="__main__")

        log = self.root / "log.txt"
        return Forked(main, log).wait(), log.read_text()

    def table(self) -> list[dict[str, Any]]:
        """Return the runs of the sweep's JSON."""
        (path,) = (self.root / "sweeps").glob("*.json")
        return json.loads(path.read_text())["runs"]


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RealSweep, int, str]:
    """A sweep of two lambdas, the first of which fails, with its exit code and output."""
    sweep = RealSweep(tmp_path_factory.mktemp("sweep"))
    return sweep, *sweep.run(f"{HUGE},0.01")


def test_failed_run_does_not_stop_the_other_and_sets_exit_code(completed: tuple[RealSweep, int, str]) -> None:
    sweep, code, output = completed
    assert code == 1
    assert [row["state"] for row in sweep.table()] == ["failed", "finished"]
    run = sweep.root / "lambda_0.01"
    assert last_checkpoint(run)["run_config"]["lambda"] == 0.01
    assert len(column(run, "train/loss")) == 2
    assert "failed" in output


def test_table_contains_the_measured_values(completed: tuple[RealSweep, int, str]) -> None:
    sweep, _, output = completed
    row = sweep.table()[1]
    results = json.loads((sweep.root / "lambda_0.01" / "eval" / "heldout.json").read_text())["mean"]
    assert (row["bpp_file"], row["psnr"], row["step"]) == (results["bpp_file"], results["psnr"], 2)
    assert 0 < row["hours"] < 0.01
    (line,) = (line for line in output.splitlines() if line.startswith(" lambda_0.01 "))
    assert line.split() == [
        "lambda_0.01", "finished", "2", f"{row['bpp_file']:.4f}", f"{row['psnr']:.2f}", "<0.01",
    ]  # fmt: skip


def test_each_run_has_its_own_wandb_run_in_the_group_of_the_sweep(completed: tuple[RealSweep, int, str]) -> None:
    runs = []
    for lmbda in (HUGE, "0.01"):
        found = records(completed[0].root / f"lambda_{lmbda}")
        runs += [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert len(runs) == 2
    assert runs[0].run_id != runs[1].run_id
    assert {run.run_group for run in runs} == {"mbt2018_mean"}
