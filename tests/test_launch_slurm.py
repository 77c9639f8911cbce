"""Errors of launcher=slurm without Slurm; tests with a real Slurm are in tests/slurm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lic_train.errors import ConfigError
from lic_train.launch import slurm
from lic_train.launch.plan import plan
from lic_train.launch.process import StopRequest
from lic_train.launch.sweep import make_engine
from tests.conftest import ROOT


def error_message(tmp_path: Path, *more: str) -> str:
    engine = make_engine(OmegaConf.load(ROOT / "conf" / "launcher" / "slurm.yaml"))
    jobs = plan([["model=bmshj2018_factorized", f"output={tmp_path}/run", *more]]).jobs
    with StopRequest() as stop, pytest.raises(ConfigError) as caught:
        list(engine.run(jobs, tmp_path, stop))
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def test_missing_squeue_raises(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = error_message(tmp_path)
    assert "squeue" in message
    assert "login node" in message


def test_failing_squeue_raises_with_its_message(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho no controller >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "got: no controller" in error_message(tmp_path)


def test_all_devices_of_an_unknown_machine_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "_queue", dict)
    assert "set launcher.gpus" in error_message(tmp_path, "trainer.devices=auto")


def test_missing_submitit_raises_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr(slurm, "_queue", dict)
    message = error_message(tmp_path)
    assert "submitit, which is not installed" in message
    assert "pip install 'lic-train[slurm]'" in message
