"""launcher=slurm on a real Slurm with two nodes: arrays, SIGUSR1 and requeue, multi-node runs, warm starts."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lic_train.errors import ConfigError
from lic_train.launch import slurm
from lic_train.launch.plan import plan
from lic_train.launch.process import StopRequest
from lic_train.launch.sweep import make_engine
from lic_train.runs.layout import SLURM_JOB
from lic_train.system import relaunch
from tests.conftest import ROOT
from tests.slurm.cluster import output_of, wait_until
from tests.small_runs import (
    Forked,
    assert_equal_state,
    column,
    in_ranks,
    last_checkpoint,
    make_photographs,
    overrides,
    run_here,
)
from tests.sweeps import FAKE_TRAIN, FakeSweep, once

MODEL = "model=bmshj2018_factorized"
SMALL = {"memory_gb": 1, "cpus": 1, "gpus": 0, "hours": 0.5}
RECORDED_TRAIN = (str(Path(__file__).resolve().parent / "recorded_train.py"),)
FAST = "recipe.stages=[{name: main, share: 1, lr: 1.0e-3}]"  # large enough that a few steps change the weights


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture
def sweep_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeSweep]:
    """Return a function from the training script and launcher keys to a sweep."""
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.2)

    def make(train: tuple[str, ...], **more: Any) -> FakeSweep:
        monkeypatch.setattr(relaunch, "TRAIN", train)
        return FakeSweep(tmp_path, {**OmegaConf.load(ROOT / "conf" / "launcher" / "slurm.yaml"), **SMALL, **more})

    return make


@pytest.fixture
def fake(sweep_on: Callable[..., FakeSweep]) -> FakeSweep:
    """A sweep of fake runs."""
    return sweep_on(FAKE_TRAIN)


def small(photographs: Path, output: Path, *more: str) -> list[str]:
    """Return the overrides of a small run or sweep."""
    return overrides(photographs, output, "steps=10", "validate.every=5", "validate.crops=1", FAST, *more)


def job(photographs: Path, *more: str) -> str:
    """Return the same overrides as one string for `FakeSweep`."""
    given = small(photographs, Path(), *more)
    return " ".join(text.replace(" ", "") for text in given if not text.startswith(("output=", "steps=")))


def starts(run: Path) -> int:
    """Return the number of starts of the run."""
    return sum(line.startswith("--- ") for line in (run / "log.txt").read_text().splitlines())


def last_weights(run: Path) -> bytes:
    """Return the last weights in the format of recorded_train.py."""
    return b"".join(value.numpy().tobytes() for value in last_checkpoint(run)["state_dict"].values())


# --- real runs -------------------------------------------------------------------------------------------------------


def test_runs_finish_also_after_a_signal_and_are_then_skipped(
    photographs: Path, tmp_path: Path, sweep_on: Callable[..., FakeSweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SIGNAL", "0.02:7")
    again = sweep_on(RECORDED_TRAIN)
    launcher = ["launcher=slurm", *(f"launcher.{key}={value}" for key, value in SMALL.items())]
    command = small(photographs, tmp_path / "runs" / "lambda_${lambda}", "lambda=0.01,0.02", *launcher)

    def main() -> None:
        sys.argv = [str(ROOT / "train.py"), "-m", *command, f"hydra.sweep.dir={tmp_path}/sweeps"]
        runpy.run_path(sys.argv[0], run_name="__main__")

    assert Forked(main, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    rows = again.table()["runs"]
    assert [(row["state"], row["step"]) for row in rows] == [("finished", 10)] * 2
    assert all(row["bpp_file"] > 0 and row["psnr"] > 0 and row["hours"] > 0 for row in rows)
    assert set(again.run(*(job(photographs, f"lambda={lmbda}") for lmbda in ("0.01", "0.02"))).values()) == {"finished"}
    for lmbda, requeued in (("0.01", False), ("0.02", True)):
        run = tmp_path / "runs" / f"lambda_{lmbda}"
        assert last_checkpoint(run)["run_config"]["lambda"] == float(lmbda)
        assert last_checkpoint(run)["global_step"] == 10
        log = (run / "log.txt").read_text()
        # A signal that arrives again while the requeued run starts requeues it once more.
        assert starts(run) == 1 + log.count("by SIGUSR1"), log
        assert (starts(run) > 1) == requeued
    run, whole = tmp_path / "runs" / "lambda_0.02", tmp_path / "whole"
    assert "Stopped after step 8 by SIGUSR1" in (run / "log.txt").read_text()
    Forked(lambda: run_here(small(photographs, whole, "lambda=0.02")), tmp_path / "log").result()
    assert_equal_state(run, whole)
    for name in ("train/loss", "val/loss"):
        assert column(run, name) == column(whole, name)


def test_two_nodes_train_one_run_also_after_a_signal(
    photographs: Path, tmp_path: Path, sweep_on: Callable[..., FakeSweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # the names of the nodes do not resolve
    monkeypatch.setenv("TEST_SIGNAL", "0.02:7")
    more = ("trainer=ddp", "trainer.num_nodes=2", "trainer.devices=1")
    sweep = sweep_on(RECORDED_TRAIN)
    lambdas = ("0.01", "0.02")
    states = sweep.run(*(job(photographs, *more, f"lambda={lmbda}") for lmbda in lambdas))
    assert states == {"lambda_0.01": "finished", "lambda_0.02": "finished"}
    for lmbda, started in zip(lambdas, (1, 2), strict=True):
        run = tmp_path / "runs" / f"lambda_{lmbda}"
        assert starts(run) == started
        processes = json.loads((run / "environment.json").read_text())["processes"]
        assert [one["rank"] for one in processes] == [0, 1]
        assert all(f"lambda={lmbda}" in one["overrides"] for one in processes)
        assert len({one["pid"] for one in processes}) == 2
        assert last_checkpoint(run)["run_config"]["lambda"] == float(lmbda)
        assert last_checkpoint(run)["global_step"] == 10
        assert (run / "weights_0.bin").read_bytes() == (run / "weights_1.bin").read_bytes() == last_weights(run)
    whole = small(photographs, tmp_path / "whole", "trainer=ddp", "trainer.devices=2", "lambda=0.02")
    for rank in in_ranks(lambda: run_here(whole), tmp_path):
        rank.result()
    assert_equal_state(tmp_path / "runs" / "lambda_0.02", tmp_path / "whole")


# --- fake runs -------------------------------------------------------------------------------------------------------


def test_failed_run_does_not_stop_the_others_and_is_retried_alone(fake: FakeSweep) -> None:
    states = fake.run(f"{MODEL} lambda=0.1 seed=1", f"{MODEL} lambda=0.2", f"{MODEL} lambda=0.3")
    assert states == {"lambda_0.1": "failed", "lambda_0.2": "finished", "lambda_0.3": "finished"}
    assert fake.code == 1
    assert "failed on request" in Path(fake.table()["runs"][0]["log"]).read_text()
    started_runs = fake.runs_with("started")
    again = fake.run(f"{MODEL} lambda=0.1 seed=0", f"{MODEL} lambda=0.2", f"{MODEL} lambda=0.3")
    assert set(again.values()) == {"finished"}
    assert fake.code == 0
    assert fake.runs_with("started") == [*started_runs, "lambda_0.1"]


LADDER = 'sweep=warm_start sweep.grid.lambda=[0.1,0.2,0.4] sweep.warm_start.overrides=["seed={}"]'


def test_children_wait_for_a_requeued_parent(fake: FakeSweep, tmp_path: Path) -> None:
    def signal_parent() -> None:
        number = (tmp_path / "runs" / "lambda_0.4" / SLURM_JOB).read_text()
        subprocess.run(["scancel", "--signal=USR1", number], check=True)

    with once(lambda: bool(fake.runs_with("started")), signal_parent):
        states = fake.run(f"{MODEL} seed=4 {LADDER.format(0)}")
    assert set(states.values()) == {"finished"}
    started_runs = fake.runs_with("started")
    assert started_runs[:2] == ["lambda_0.4"] * 2
    assert sorted(started_runs[2:]) == ["lambda_0.1", "lambda_0.2"]
    assert all(event["parent_finished"] for event in fake.events()[2:] if event["what"] == "started")


def test_children_of_failed_parent_do_not_stay_in_the_queue(fake: FakeSweep) -> None:
    states = fake.run(f"{MODEL} seed=1 {LADDER.format(0)}", f"{MODEL} lambda=0.8")
    assert states == {
        "lambda_0.4": "failed", "lambda_0.1": "waiting", "lambda_0.2": "waiting", "lambda_0.8": "finished",
    }  # fmt: skip
    assert fake.code == 1
    assert sorted(fake.runs_with("started")) == ["lambda_0.4", "lambda_0.8"]
    assert output_of("squeue", "--noheader") == ""


@pytest.mark.parametrize("how", ["wait=false", "Ctrl-C"])
def test_queued_runs_stay_in_the_queue_and_are_not_submitted_twice(
    sweep_on: Callable[..., FakeSweep], tmp_path: Path, how: str
) -> None:
    first = f"{MODEL} lambda=0.1 seed=3"  # ends when a second run has started
    if how == "Ctrl-C":
        sweep = sweep_on(FAKE_TRAIN)
        with once(lambda: bool(sweep.runs_with("started")), lambda: os.kill(os.getpid(), signal.SIGINT)):
            assert sweep.run(first) == {"lambda_0.1": "running"}
        assert sweep.code == 130
    else:
        sweep = sweep_on(FAKE_TRAIN, wait=False)
        assert sweep.run(first)["lambda_0.1"] in ("queued", "running")
        assert sweep.code == 0
        wait_until(lambda: bool(sweep.runs_with("started")), tmp_path)  # the two runs may start in any order
    record = tmp_path / "runs" / "lambda_0.1" / SLURM_JOB
    number = record.read_text()
    again = sweep_on(FAKE_TRAIN)
    assert set(again.run(first, f"{MODEL} lambda=0.2 seed=3").values()) == {"finished"}
    assert record.read_text() == number
    assert again.runs_with("started") == ["lambda_0.1", "lambda_0.2"]


def test_signal_to_the_run_alone_requeues_the_job(fake: FakeSweep) -> None:
    """Some clusters do not signal the task that waits for the run."""

    def signal_run() -> None:
        os.kill(fake.events()[0]["pid"], signal.SIGUSR1)

    with once(lambda: bool(fake.runs_with("started")), signal_run):
        assert fake.run(f"{MODEL} lambda=0.1 seed=4") == {"lambda_0.1": "finished"}
    assert fake.runs_with("started") == ["lambda_0.1"] * 2


def test_each_task_sees_the_gpus_of_its_node(sweep_on: Callable[..., FakeSweep]) -> None:
    sweep = sweep_on(FAKE_TRAIN, gpus=None)
    two = "trainer=ddp trainer.devices=2 batch_size=2"
    sweep.run(f"{MODEL} lambda=0.1", f"{MODEL} lambda=0.2 {two}", f"{MODEL} lambda=0.3 trainer.accelerator=cpu")
    seen = [(event["run"], event["gpus"]) for event in sweep.events() if event["what"] == "started"]
    assert {gpus for run, gpus in seen if run == "lambda_0.1"} <= {"0", "1"}
    assert [gpus for run, gpus in seen if run == "lambda_0.2"] == ["0,1", "0,1"]
    assert [gpus for run, gpus in seen if run == "lambda_0.3"] == [None]
    assert sweep.code == 0


def test_rejected_job_raises_with_the_message_of_sbatch(sweep_on: Callable[..., FakeSweep], tmp_path: Path) -> None:
    engine = make_engine(sweep_on(FAKE_TRAIN, partition="none").config.launcher)
    jobs = plan([[MODEL, f"output={tmp_path}/run"]]).jobs
    with StopRequest() as stop, pytest.raises(ConfigError, match=r"invalid partition(.|\n)*conf/launcher/slurm.yaml"):
        list(engine.run(jobs, tmp_path, stop))
    assert not (tmp_path / "run").exists()
