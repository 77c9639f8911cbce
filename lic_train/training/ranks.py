"""The processes that train one run together: where each stands, and what they tell each other.

Rank 0 claims the run directory, writes and evaluates; the others only train. Under ``srun`` and ``torchrun`` all are
there. Else the first process of a machine starts the others, with the overrides of its own job: Lightning, which would
repeat the command line and the whole sweep in it, finds them there. Machines that nobody schedules need the same
command on each, with NODE_RANK, MASTER_ADDR and MASTER_PORT in the environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from lic_train.errors import ConfigError, TrainingError
from lic_train.training.callbacks.interrupt import Interrupted
from lic_train.training.followers import GRACE, Followers, end_with_the_launcher

T = TypeVar("T")

# What Lightning reads and leaves in the environment.
VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
JOINING = timedelta(minutes=10)
COLLECTIVE = timedelta(minutes=30)  # the first process draws pictures and writes checkpoints meanwhile
EVALUATION = timedelta(days=7)


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its job.

    Attributes:
        node: number of its machine.
        local: its number on that machine.
        devices: processes of a machine.
        nodes: machines.
        address: of the first process.
        port: the same; 0: any that is free.
        starts_others: whether those of its machine are not there yet.
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
        """Number among all processes, as Lightning counts them."""
        return self.node * self.devices + self.local

    @property
    def world(self) -> int:
        """Number of all processes."""
        return self.devices * self.nodes


def find_place(devices: int, nodes: int) -> Place:
    """Ask the environment where this process stands.

    Raises:
        ConfigError: Slurm started another number of processes, or nobody tells several machines of each other.
    """
    told = os.environ
    tasks = int(told["SLURM_NTASKS"]) if "SLURM_STEP_ID" in told else 1
    if tasks == devices * nodes:
        return _slurm_place(devices, nodes)
    if tasks > 1 or (nodes > 1 and "MASTER_PORT" not in told):
        raise ConfigError(
            f"{nodes} x {devices} processes must be started for trainer.num_nodes={nodes} trainer.devices={devices}.\n"
            f"expected: srun --nodes={nodes} --ntasks-per-node={devices}, or the same command on every machine with "
            f"NODE_RANK, MASTER_ADDR and MASTER_PORT in its environment\ngot: {tasks} Slurm tasks\n"
            "what to do: change either"
        )
    return Place(
        node=int(told.get("NODE_RANK", told.get("GROUP_RANK", 0))),  # the second is torchrun's
        local=int(told.get("LOCAL_RANK", 0)),
        devices=devices,
        nodes=nodes,
        address=told.get("MASTER_ADDR", "127.0.0.1"),
        port=int(told.get("MASTER_PORT", 0)),
        starts_others="LOCAL_RANK" not in told,
    )


def _slurm_place(devices: int, nodes: int) -> Place:
    """One task is one process; all of them derive the same address and port from the job."""
    told = os.environ
    first = SLURMEnvironment.resolve_root_node_address(told["SLURM_STEP_NODELIST"])
    port = told.get("MASTER_PORT", 15000 + int(told["SLURM_JOB_ID"][-4:]))
    node, local = int(told["SLURM_NODEID"]), int(told["SLURM_LOCALID"])
    return Place(node, local, devices, nodes, told.get("MASTER_ADDR", first), int(port), starts_others=False)


class Ranks:
    """What the processes of a job tell each other outside of the training; by default there is only this one."""

    def __init__(self, rank: int = 0, world: int = 1, store: dist.Store | None = None) -> None:
        self.rank, self.world, self._store = rank, world, store

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and evaluates."""
        return self.rank == 0

    def gather(self, name: str, value: T) -> list[T]:
        """Everybody's plain value, in the order of ranks, under a name that is used once.

        Raises:
            TrainingError: a process ended before it gave its own.
        """
        if self._store is None:
            return [value]
        with _ended_processes_explained():
            self._store.set(f"{name}/{self.rank}", json.dumps(value))
            return [json.loads(self._store.get(f"{name}/{rank}")) for rank in range(self.world)]

    def leave(self) -> None:
        """Stay until the first process has evaluated, as some schedulers end a job with the first process that ends.

        Raises:
            TrainingError: the first process ended without.
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
            "Another process of this job does not answer.\nexpected: all processes until the end of the run\n"
            f"got: {str(error).splitlines()[0]}\n"
            "what to do: see what that process said, and run the same command again, which continues the run"
        ) from error


@contextmanager
def joined(devices: int, nodes: int, accelerator: str, overrides: Sequence[str]) -> Iterator[Ranks]:
    """Bring together the processes of one job; afterwards nothing of it is left in this process.

    Args:
        devices: processes of a machine.
        nodes: machines.
        accelerator: "cpu" for gloo, else NCCL where there is CUDA.
        overrides: of this job, for the processes that are started here.

    Raises:
        ConfigError: this machine has fewer devices, or its environment does not tell the place of this process.
        TrainingError: another process ended.
    """
    if devices * nodes == 1:
        yield Ranks()
        return
    _check_devices(devices, accelerator)
    with _environment_restored():
        place = find_place(devices, nodes)
        store = _open_store(place)
        followers = Followers(devices - 1 if place.starts_others else 0, overrides)
        end_with_the_launcher()
        try:
            with _process_group(place, store, accelerator):
                ranks = Ranks(place.rank, place.world, store)
                yield ranks
                ranks.leave()
        except BaseException as error:
            if place.rank:
                _let_the_first_speak(error)
            failure = followers.failure_behind(error)
            followers.kill()
            if failure:
                raise failure from error
            raise
        followers.wait()


def _uses_cuda(accelerator: str) -> bool:
    return accelerator != "cpu" and torch.cuda.is_available()


def _check_devices(devices: int, accelerator: str) -> None:
    if _uses_cuda(accelerator) and devices > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices: expected at most the {torch.cuda.device_count()} that this process sees, got {devices}; "
            "under Slurm give every task all devices of its machine (--gres, not --gpus-per-task)"
        )


def _let_the_first_speak(error: BaseException) -> None:
    """Mostly the same has happened there, and this process is ended before it could repeat it."""
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
    """Where the processes meet. Leaves in the environment what Lightning and the other processes read."""
    is_host = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    with _ended_processes_explained():
        store = dist.TCPStore(place.address, place.port, place.world, is_host, JOINING, wait_for_workers=False)
    os.environ |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(store.port), "NODE_RANK": str(place.node)}
    return store


@contextmanager
def _process_group(place: Place, store: dist.Store, accelerator: str) -> Iterator[None]:
    os.environ["LOCAL_RANK"] = str(place.local)
    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]  # before Lightning knows it
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
