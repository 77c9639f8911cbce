"""The processes that train one run together: their ranks, and the data they exchange outside of the training.

Rank 0 claims the run directory, writes and evaluates; the others only train. Under ``srun`` and ``torchrun`` all
processes already exist. Otherwise the first process of a machine starts the others, with the overrides of its own job,
and Lightning uses them instead of starting its own, which would repeat the command line and so the whole sweep. On
several machines without a scheduler, run the same command on each, with NODE_RANK, MASTER_ADDR and MASTER_PORT set.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from lic_train.errors import ConfigError, TrainingError
from lic_train.training.callbacks.interrupt import Interrupted
from lic_train.training.followers import GRACE, LAUNCHER, Followers, end_with_the_launcher
from lic_train.training.presence import watched

T = TypeVar("T")

# Environment variables that Lightning reads or sets.
VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
JOINING = timedelta(minutes=10)
COLLECTIVE = timedelta(minutes=30)  # long enough for the first process to draw pictures and write checkpoints
EVALUATION = timedelta(days=7)


@dataclass(frozen=True)
class Place:
    """Position of a process in its job.

    Attributes:
        node: index of its machine.
        local: index of the process on that machine.
        devices: processes per machine.
        nodes: number of machines.
        address: address of the first process.
        port: port of the first process; 0: any free port.
        starts_others: whether this process must start the other processes of its machine.
    """

    node: int
    local: int
    devices: int
    nodes: int
    address: str
    port: int
    starts_others: bool

    @property
    def rank(self) -> int:
        """Global rank, in Lightning's order."""
        return self.node * self.devices + self.local

    @property
    def world(self) -> int:
        """Number of all processes."""
        return self.devices * self.nodes


def find_place(devices: int, nodes: int) -> Place:
    """Read the position of this process from the environment.

    Raises:
        ConfigError: Slurm started another number of processes, or MASTER_PORT is not set for a multi-node run.
    """
    variables = os.environ
    tasks = int(variables["SLURM_NTASKS"]) if "SLURM_STEP_ID" in variables else 1
    if tasks == devices * nodes:
        return _slurm_place(devices, nodes)
    if tasks > 1 or (nodes > 1 and "MASTER_PORT" not in variables):
        raise ConfigError(
            f"trainer.num_nodes={nodes} trainer.devices={devices} needs {nodes} x {devices} processes.",
            expected=f"srun --nodes={nodes} --ntasks-per-node={devices}, or the same command on every machine with "
            "NODE_RANK, MASTER_ADDR and MASTER_PORT in its environment",
            got=f"{tasks} Slurm tasks" if tasks > 1 else "one process without MASTER_PORT in its environment",
            to_do="change the number of processes or the trainer's options",
        )
    return Place(
        node=int(variables.get("NODE_RANK", variables.get("GROUP_RANK", 0))),  # GROUP_RANK is set by torchrun
        local=int(variables.get("LOCAL_RANK", 0)),
        devices=devices,
        nodes=nodes,
        address=variables.get("MASTER_ADDR", "127.0.0.1"),
        port=int(variables.get("MASTER_PORT", 0)),
        starts_others="LOCAL_RANK" not in variables,
    )


def _slurm_place(devices: int, nodes: int) -> Place:
    """Return the place of a Slurm task; all tasks derive the same address and port from the job."""
    variables = os.environ
    first = SLURMEnvironment.resolve_root_node_address(variables["SLURM_STEP_NODELIST"])
    port = variables.get("MASTER_PORT", 15000 + int(variables["SLURM_JOB_ID"][-4:]))
    node, local = int(variables["SLURM_NODEID"]), int(variables["SLURM_LOCALID"])
    return Place(node, local, devices, nodes, variables.get("MASTER_ADDR", first), int(port), starts_others=False)


class Ranks:
    """Communication of the processes of a job outside of the training; by default this process is the only one."""

    def __init__(self, rank: int = 0, world: int = 1, store: dist.Store | None = None) -> None:
        self.rank, self.world, self._store = rank, world, store

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and evaluates."""
        return self.rank == 0

    def gather(self, name: str, value: T) -> list[T]:
        """Return the JSON-serialisable values of all processes, in the order of ranks. A name must be used only once.

        Raises:
            TrainingError: a process ended before it sent its value.
        """
        if self._store is None:
            return [value]
        with _ended_processes_explained():
            self._store.set(f"{name}/{self.rank}", json.dumps(value))
            return [json.loads(self._store.get(f"{name}/{rank}")) for rank in range(self.world)]

    def leave(self) -> None:
        """Wait until the first process has evaluated: some schedulers end a job with the first process that ends.

        Raises:
            TrainingError: the first process ended before.
        """
        if self._store is None:
            return
        with _ended_processes_explained():
            if self.is_first:
                self._store.set("evaluated", "")
                self._store.wait([f"left/{rank}" for rank in range(1, self.world)], JOINING)
            else:
                self._store.wait(["evaluated"], EVALUATION)
                self._store.set(f"left/{self.rank}", "")


@contextmanager
def _ended_processes_explained() -> Iterator[None]:
    try:
        yield
    except dist.DistError as error:
        raise TrainingError(
            "Another process of this job does not answer.",
            expected="all processes until the end of the run",
            got=str(error).splitlines()[0],
            to_do="read the messages of that process, and run the same command again, which continues the run",
        ) from error


@contextmanager
def joined(devices: int, nodes: int, accelerator: str, overrides: Sequence[str]) -> Iterator[Ranks]:
    """Connect the processes of one job; on exit restore environment and process group of this process.

    Args:
        devices: processes per machine.
        nodes: number of machines.
        accelerator: "cpu" for gloo, otherwise NCCL if CUDA is available.
        overrides: overrides of this job, for the processes that are started here.

    Raises:
        ConfigError: this machine has fewer devices, or the environment does not fit the number of processes.
        TrainingError: another process ended.
    """
    if devices * nodes == 1:
        yield Ranks()
        return
    _check_devices(devices, accelerator)
    with _environment_restored():
        place = find_place(devices, nodes)
        store = _open_store(place)
        with _watched(place, store):
            followers = Followers(devices - 1 if place.starts_others else 0, overrides)
            end_with_the_launcher()
            try:
                with _process_group(place, store, accelerator):
                    ranks = Ranks(place.rank, place.world, store)
                    yield ranks
                    ranks.leave()
            except BaseException as error:
                if place.rank:
                    _leave_the_report_to_rank_0(error)
                failure = followers.failure_that_caused(error)
                followers.kill()
                if failure:
                    raise failure from error
                raise
            followers.wait()


def _watched(place: Place, store: dist.Store) -> AbstractContextManager[None]:
    """Watch the other processes, unless all of them are on this machine and watched by `Followers`."""
    if place.nodes == 1 and (place.starts_others or LAUNCHER in os.environ):
        return nullcontext()
    with _ended_processes_explained():
        return watched(place.rank, place.world, place.address, store)


def _uses_cuda(accelerator: str) -> bool:
    return accelerator != "cpu" and torch.cuda.is_available()


def _check_devices(devices: int, accelerator: str) -> None:
    if _uses_cuda(accelerator) and devices > torch.cuda.device_count():
        raise ConfigError(
            "trainer.devices is larger than the number of GPUs that this process can use.",
            expected=f"at most {torch.cuda.device_count()}",
            got=str(devices),
            to_do="lower trainer.devices; under Slurm give every task all GPUs of its machine (--gres, not "
            "--gpus-per-task)",
        )


def _leave_the_report_to_rank_0(error: BaseException) -> None:
    """Wait for rank 0, where the same error has usually occurred: it ends this process before a second report."""
    if isinstance(error, Interrupted):
        sys.exit(error.exit_code)
    if isinstance(error, Exception):
        time.sleep(GRACE)


@contextmanager
def _environment_restored() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _open_store(place: Place) -> dist.TCPStore:
    """Open the job's key-value store; set the environment variables that Lightning and other processes read."""
    is_host = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    with _ended_processes_explained():
        store = dist.TCPStore(place.address, place.port, place.world, is_host, JOINING, wait_for_workers=False)
    os.environ |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(store.port), "NODE_RANK": str(place.node)}
    return store


@contextmanager
def _process_group(place: Place, store: dist.Store, accelerator: str) -> Iterator[None]:
    os.environ["LOCAL_RANK"] = str(place.local)
    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]  # before Lightning sets it
    device = torch.device("cuda", place.local) if _uses_cuda(accelerator) else None
    backend = "nccl" if device else "gloo"
    with _ended_processes_explained():
        dist.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.world, timeout=COLLECTIVE, device_id=device
        )
    try:
        yield
    finally:
        dist.destroy_process_group()
