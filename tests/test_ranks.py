"""Position of a process in its job, and communication of the processes outside of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment

from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import ConfigError
from lic_train.runs.claim import ResumeState
from lic_train.training import setup
from lic_train.training.ranks import find_place, joined
from tests.small_runs import make_photographs, overrides

SLURM = {"SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[3-4]", "SLURM_JOB_ID": "70123", "SLURM_NODEID": "1"}


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "expected"),
    [
        ({}, 2, 1, (0, 2, "127.0.0.1", 0, True)),
        ({"LOCAL_RANK": "1", "MASTER_PORT": "7"}, 2, 1, (1, 2, "127.0.0.1", 7, False)),
        ({"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}, 4, 2, (4, 8, "a", 7, True)),
        ({"GROUP_RANK": "1", "LOCAL_RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "7"}, 4, 2, (7, 8, "a", 7, False)),
        ({**SLURM, "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}, 2, 2, (3, 4, "gpu3", 15123, False)),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}, 2, 1, (0, 2, "127.0.0.1", 0, True)),
    ],
    ids=["alone", "local_rank", "node_rank", "torchrun", "srun", "one_slurm_task"],
)
def test_place_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], devices: int, nodes: int, expected: tuple[Any, ...]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place = find_place(devices, nodes)
    assert (place.rank, place.world, place.address, place.port, place.starts_others) == expected


@pytest.mark.parametrize("environment", [{}, {**SLURM, "SLURM_NTASKS": "3"}], ids=["no_master_port", "three_tasks"])
def test_wrong_number_of_processes_raises(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"(?s)expected: srun --nodes=2 --ntasks-per-node=4.*got: .*to do: "):
        find_place(4, 2)


def test_too_many_devices_raise_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match=r"expected: at most 4\ngot: 8\n"), joined(8, 1, "auto", []):
        pass


@pytest.mark.parametrize(("accelerator", "gpus", "devices"), [("auto", 4, 4), ("cpu", 4, 1), ("auto", 0, 1)])
def test_auto_is_all_gpus_or_one_process(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpus: int, devices: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    command = ["model=mbt2018_mean", "batch_size=4", "trainer.devices=auto", f"trainer.accelerator={accelerator}"]
    assert checked(compose(command)).trainer.num_devices == devices
    if devices == 4:
        with pytest.raises(ConfigError, match="multiple of accumulate"):
            checked(compose([*command, "batch_size=6"]))


def test_lightning_does_not_requeue_under_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lightning's own handler of SIGUSR1 would save a checkpoint of its own and requeue the job."""
    for name, value in {**SLURM, "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    config = checked(compose(overrides(make_photographs(tmp_path / "photographs"), tmp_path / "run")))
    trainer = setup.make_trainer(config, ResumeState(tmp_path / "run", "new"), [], setup.make_data(config))
    assert type(trainer._accelerator_connector.cluster_environment) is LightningEnvironment


def test_single_process_needs_no_communication() -> None:
    with joined(1, 1, "cpu", []) as ranks:
        assert ranks.is_first
        assert ranks.gather("anything", 5) == [5]
        ranks.leave()
