"""Sweeps with launcher=local: order, skipped and retried runs, stop requests, warm starts and the table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lic_train.errors import ConfigError
from lic_train.launch.sweep import make_engine
from lic_train.system import relaunch
from tests.sweeps import FAKE_TRAIN, FakeSweep, once

MODEL = "model=bmshj2018_factorized"


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(relaunch, "TRAIN", FAKE_TRAIN)


def test_failed_run_does_not_stop_the_others_and_sets_exit_code(tmp_path, capfd):
    sweep = FakeSweep(tmp_path)
    states = sweep.run(f"{MODEL} lambda=0.1", f"{MODEL} lambda=0.2 seed=1", f"{MODEL} lambda=0.3")
    assert states == {"lambda_0.1": "finished", "lambda_0.2": "failed", "lambda_0.3": "finished"}
    assert sweep.code == 1
    assert sweep.runs_with("started") == ["lambda_0.1", "lambda_0.2", "lambda_0.3"]
    printed = capfd.readouterr()
    assert "error: failed on request" in printed.err  # the output of the run itself
    assert "run 2 of 3" in printed.out


def test_repeated_command_skips_finished_and_retries_failed_runs(tmp_path):
    sweep = FakeSweep(tmp_path)
    sweep.run(f"{MODEL} lambda=0.1", f"{MODEL} lambda=0.2 seed=1")
    again = sweep.run(f"{MODEL} lambda=0.1", f"{MODEL} lambda=0.2 seed=0")
    assert again == {"lambda_0.1": "finished", "lambda_0.2": "finished"}
    assert sweep.code == 0
    assert sweep.runs_with("started") == ["lambda_0.1", "lambda_0.2", "lambda_0.2"]


def test_fresh_moves_earlier_runs_aside_once(tmp_path):
    sweep = FakeSweep(tmp_path)
    sweep.run(f"{MODEL} lambda=0.1")
    checkpoints = tmp_path / "runs" / "lambda_0.1" / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "last.ckpt").touch()  # only a directory that contains a run is moved aside
    sweep.run(f"{MODEL} lambda=0.1 fresh=true")
    assert sweep.runs_with("ended") == ["lambda_0.1", "lambda_0.1"]
    assert (tmp_path / "runs" / "lambda_0.1.old-1" / "finished.json").exists()
    assert not any(text.startswith("fresh") for event in sweep.events() for text in event["overrides"])


def test_each_process_gets_its_own_lambda_and_the_group_of_the_sweep(tmp_path):
    sweep = FakeSweep(tmp_path)
    sweep.run(f"{MODEL} sweep=rd_curve sweep.grid.lambda=[0.1,0.2]")
    given = [event["overrides"] for event in sweep.events() if event["what"] == "started"]
    assert [{text for text in overrides if "lambda=" in text} for overrides in given] == [
        {"lambda=0.1"},
        {"lambda=0.2"},
    ]
    assert all("group=rd_curve-bmshj2018_factorized" in overrides for overrides in given)
    assert not any(text.startswith(("-", "sweep", "launcher")) for overrides in given for text in overrides)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_request_saves_the_running_run_and_prints_the_table(tmp_path, capfd, number):
    sweep = FakeSweep(tmp_path)
    with once(lambda: bool(sweep.runs_with("started")), lambda: os.kill(os.getpid(), number)):
        states = sweep.run(f"{MODEL} lambda=0.1 seed=2", f"{MODEL} lambda=0.2")
    assert states == {"lambda_0.1": "stopped", "lambda_0.2": "not started"}
    assert sweep.code == 130
    assert [event["signal"] for event in sweep.events() if event["what"] == "saved"] == ["SIGTERM"]
    assert "The same command continues" in capfd.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_ctrl_c_in_a_terminal_reaches_the_run_once(tmp_path):
    """The terminal signals the foreground process group, which does not include the run."""
    sweep = FakeSweep(tmp_path)
    groups: list[int] = []
    others = children()

    def look() -> None:
        groups.extend(os.getpgid(child) for child in children() - others)
        os.kill(os.getpid(), signal.SIGINT)

    with once(lambda: bool(sweep.runs_with("started")), look):
        sweep.run(f"{MODEL} lambda=0.1 seed=2")
    assert groups
    assert os.getpgid(0) not in groups


def test_children_start_from_their_finished_parent(tmp_path, capfd):
    sweep = FakeSweep(tmp_path)
    warm = 'sweep=warm_start sweep.grid.lambda=[0.1,0.2,0.4] sweep.warm_start.overrides=["seed=0"]'
    assert set(sweep.run(f"{MODEL} {warm}").values()) == {"finished"}
    assert sweep.runs_with("started") == ["lambda_0.4", "lambda_0.1", "lambda_0.2"]
    assert all(event["parent_finished"] for event in sweep.events() if event["what"] == "started")
    cost = sweep.table()["cost"]
    assert (cost["steps"], cost["independent_steps"]) == (30, 30)
    assert (cost["hours"], cost["independent_hours"]) == (1.5, 1.5)
    assert "30 steps instead of 30 (1.00), 1.50 CPU-h instead of 1.50 (1.00)" in capfd.readouterr().out
    assert [row["parent"] for row in sweep.table()["runs"]][1:] == [str(tmp_path / "runs" / "lambda_0.4")] * 2


def test_children_of_failed_parent_are_not_started(tmp_path):
    sweep = FakeSweep(tmp_path)
    warm = 'sweep=warm_start sweep.grid.lambda=[0.1,0.4] sweep.warm_start.overrides=["seed=0"]'
    states = sweep.run(f"{MODEL} seed=1 {warm}")
    assert states == {"lambda_0.4": "failed", "lambda_0.1": "waiting"}
    assert sweep.runs_with("started") == ["lambda_0.4"]
    assert sweep.code == 1


def test_table_fits_80_columns_and_paths_are_printed(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sweep = FakeSweep(tmp_path)
    sweep.run(f"{MODEL} lambda=0.1", f"{MODEL} lambda=0.2 seed=1")
    out = capfd.readouterr().out
    lines = out.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.split()[:2] == ["run", "state"])
    table = lines[heading : heading + 4]
    assert max(map(len, table)) <= 80
    for part in ("lambda_0.1", "finished", "10", "0.5000", "30.00", "0.50", "failed 50%", "CPU-h"):
        assert any(part in line for line in table), part
    (path,) = (tmp_path / "sweeps").glob("*.json")
    assert str(path) in out
    first = sweep.table()["runs"][0]
    assert (first["bpp_file"], first["psnr"], first["step"], first["hours"]) == (0.5, 30.0, 10, 0.5)


def test_invalid_launcher_values_raise(tmp_path):
    section = {"_target_": "lic_train.launch.ray.Ray", "address": None, "gpus": -1, "cpus": "many"}
    with pytest.raises(ConfigError) as caught:
        make_engine(FakeSweep(tmp_path, section).config.launcher)
    assert "gpus" in str(caught.value)
    assert "cpus" in str(caught.value)


@pytest.mark.parametrize("module", ["lic_train.launch.remote", "lic_train.system.screen"])
def test_cluster_tasks_and_messages_import_no_large_package(module):
    large = ("torch", "lightning", "hydra", "pydantic")
    code = f"import sys, {module}; print([name for name in {large} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("program", "typed"),
    [
        ("/usr/bin/lic", "lic train -m lambda=1,2"),
        ("train.py", "python train.py -m lambda=1,2"),
        (relaunch.__file__.replace("system/relaunch.py", "train.py"), "lic train -m lambda=1,2"),
    ],
)
def test_typed_command_can_be_pasted(monkeypatch, program, typed):
    monkeypatch.setattr(sys, "argv", [program, "-m", "lambda=1,2"])
    assert " ".join(relaunch.typed_command()) == typed
