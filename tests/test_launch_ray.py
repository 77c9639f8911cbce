"""Fake runs on a real Ray cluster with two virtual nodes of one CPU each, one of which also has two GPUs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lic_train.errors import ConfigError
from lic_train.launch.plan import plan
from lic_train.launch.process import StopRequest
from lic_train.launch.sweep import make_engine
from lic_train.system import relaunch
from tests.sweeps import FAKE_TRAIN, FakeSweep, once

ray = pytest.importorskip("ray", reason="Ray is not installed")

MODEL = "model=bmshj2018_factorized"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of the cluster."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, num_gpus=2)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def sweep_on(address, tmp_path, monkeypatch):
    """Return a function from launcher keys to a sweep of fake runs."""
    monkeypatch.setattr(relaunch, "TRAIN", FAKE_TRAIN)

    def make(**more: Any) -> FakeSweep:
        launcher = {"_target_": "lic_train.launch.ray.Ray", "address": address, "gpus": 0, "cpus": 1}
        return FakeSweep(tmp_path, launcher | more)

    return make


def test_parallel_runs_warm_start_and_failure_of_one_run(sweep_on):
    sweep = sweep_on()
    warm = "sweep=warm_start sweep.grid.lambda=[0.1,0.2,0.4]"
    # The two children wait for each other, so they finish only if they run in parallel.
    states = sweep.run(f'{MODEL} {warm} sweep.warm_start.overrides=["seed=3"]', f"{MODEL} lambda=0.8 seed=1")
    assert states == {
        "lambda_0.4": "finished", "lambda_0.1": "finished", "lambda_0.2": "finished", "lambda_0.8": "failed",
    }  # fmt: skip
    assert sweep.code == 1
    started = sweep.runs_with("started")
    assert started.index("lambda_0.4") < min(started.index("lambda_0.1"), started.index("lambda_0.2"))
    children = [event for event in sweep.events() if event["run"] in ("lambda_0.1", "lambda_0.2")]
    assert [event["what"] for event in children] == ["started", "started", "ended", "ended"]
    assert all(event["parent_finished"] for event in children if event["what"] == "started")
    assert "failed on request" in Path(sweep.table()["runs"][3]["log"]).read_text()
    again = sweep.run(f'{MODEL} {warm} sweep.warm_start.overrides=["seed=3"]', f"{MODEL} lambda=0.8 seed=0")
    assert set(again.values()) == {"finished"}
    assert sweep.runs_with("started") == [*started, "lambda_0.8"]


def gpus(sweep: FakeSweep) -> dict[str, str]:
    """Return the CUDA_VISIBLE_DEVICES of each run."""
    return {event["run"]: event["gpus"] for event in sweep.events() if event["what"] == "started"}


def test_each_run_has_exclusive_gpus(sweep_on):
    sweep = sweep_on(gpus=None, cpus=0.5)
    # The first two wait for each other, so both use their GPU at the same time.
    sweep.run(f"{MODEL} lambda=0.1 seed=3", f"{MODEL} lambda=0.2 seed=3")
    assert sorted(gpus(sweep).values()) == ["0", "1"]
    sweep.run(f"{MODEL} lambda=0.3 trainer=ddp trainer.devices=2")
    sweep.run(f"{MODEL} lambda=0.4 trainer=ddp trainer.devices=auto")
    assert gpus(sweep)["lambda_0.3"] == gpus(sweep)["lambda_0.4"] == "0,1"
    assert sweep.code == 0


def test_fractional_gpus_let_two_runs_share_one(sweep_on):
    sweep = sweep_on(gpus=0.5, cpus=0.5)
    sweep.run(f"{MODEL} lambda=0.1 seed=3", f"{MODEL} lambda=0.2 seed=3")
    assert gpus(sweep)["lambda_0.1"] == gpus(sweep)["lambda_0.2"] in ("0", "1")
    assert sweep.code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_request_saves_running_and_starts_no_further_run(sweep_on, number):
    sweep = sweep_on()
    warm = 'sweep=warm_start sweep.grid.lambda=[0.1,0.4] sweep.warm_start.overrides=["seed=0"]'
    with once(lambda: bool(sweep.runs_with("started")), lambda: os.kill(os.getpid(), number)):
        states = sweep.run(f"{MODEL} seed=2 {warm}")
    assert states == {"lambda_0.4": "stopped", "lambda_0.1": "not started"}
    assert sweep.code == 130
    assert [event["signal"] for event in sweep.events() if event["what"] == "saved"] == ["SIGTERM"]
    assert sweep.runs_with("started") == ["lambda_0.4"]


def test_run_larger_than_every_machine_raises(sweep_on, tmp_path):
    (large,) = plan([[MODEL, f"output={tmp_path}/a"]]).jobs
    (spread,) = plan([[MODEL, "trainer.num_nodes=2", "batch_size=2", f"output={tmp_path}/b"]]).jobs
    for engine, job, message in (
        (make_engine(sweep_on(gpus=64).config.launcher), large, r"64 GPUs(.|\n)*launcher\.gpus"),
        (make_engine(sweep_on().config.launcher), spread, "launcher=slurm"),
    ):
        with StopRequest() as stop, pytest.raises(ConfigError, match=message):
            list(engine.run([job], tmp_path, stop))
    assert not ray.is_initialized()


def test_missing_cluster_raises(sweep_on, tmp_path, monkeypatch):
    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", init)
    with StopRequest() as stop, pytest.raises(ConfigError, match=r"any running Ray(.|\n)*ray start --head"):
        list(make_engine(sweep_on().config.launcher).run([], tmp_path, stop))


def test_missing_ray_raises_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    launcher = {"_target_": "lic_train.launch.ray.Ray", "address": None, "gpus": 0, "cpus": 1}
    with StopRequest() as stop, pytest.raises(ConfigError, match=r"Ray, which is not installed") as caught:
        list(make_engine(FakeSweep(tmp_path, launcher).config.launcher).run([], tmp_path, stop))
    assert caught.value.to_do == "pip install 'lic-train[ray]'"
