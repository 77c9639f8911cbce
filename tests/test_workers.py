"""Decoding processes that end, cannot send, or do not fit into the shared memory."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import time
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lic_train.data.module import Photographs
from lic_train.data.sets.sources import folder
from lic_train.data.stream import loader, workers
from lic_train.data.stream.loader import CropLoader
from lic_train.errors import ConfigError, DataError
from lic_train.runs.checkpoints import newest_intact, step_of
from lic_train.training.callbacks import Checkpoints
from tests.made_up import png, write_tree
from tests.tiny_training import At, Tiny, fit

MIB = 2**20


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("set"), {f"{i}.png": png(i, 40, 40) for i in range(12)})


def module(root: Path, **options: Any) -> Photographs:
    return Photographs(folder, root=str(root), **{"crop": 16, "batch_size": 4, "num_workers": 2, "seed": 1, **options})


@pytest.fixture
def crops(photographs: Path) -> Iterator[CropLoader]:
    stream = module(photographs).stream()
    yield stream
    stream.close()


def processes(stream: CropLoader) -> list[Any]:
    return stream._iterator._workers


def kill(worker: Any) -> None:
    """Kill a worker and wait until the system has ended it, without collecting its exit code."""
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


# --- a process that ends ---------------------------------------------------------------------------------------------


def test_killed_worker_ends_the_stream_with_one_error(crops: CropLoader) -> None:
    batches = iter(crops)
    next(batches)
    pids = [worker.pid for worker in processes(crops)]
    kill(processes(crops)[0])
    with pytest.raises(DataError, match=f"process {pids[0]} ended by SIGKILL") as stopped:
        list(itertools.islice(batches, 40))  # more than the batches that are prepared
    assert "num_workers" in stopped.value.to_do
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_killed_worker_does_not_interrupt_a_computation(crops: CropLoader) -> None:
    batches = iter(crops)
    next(batches)
    kill(processes(crops)[1])
    for _ in range(1000):  # PyTorch's own handler raises here
        os.getpid()
    with pytest.raises(DataError, match="SIGKILL"):
        list(itertools.islice(batches, 40))


def test_worker_that_is_killed_while_it_sends_is_noticed(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of its message never arrives, and other processes keep the pipe open."""
    here, send = os.getpid(), connection.Connection._send_bytes

    def half(self: Any, data: bytes) -> None:
        if os.getpid() == here:
            return send(self, data)
        os.write(self._handle, len(data).to_bytes(4, "big") + bytes(data[:5]))
        return os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(connection.Connection, "_send_bytes", half)
    with pytest.raises(DataError, match="SIGKILL"):
        next(iter(module(photographs).stream()))


def test_killed_worker_ends_the_training_with_a_checkpoint(photographs: Path, tmp_path: Path) -> None:
    class Mean(Tiny):
        train_dataloader = val_dataloader = LightningModule.train_dataloader  # those of the data module

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
            return super().training_step({**batch, "number": batch_idx}, batch_idx)

    def kill_one(trainer: Trainer, _: LightningModule) -> None:
        kill(processes(trainer.train_dataloader)[0])

    data, began = module(photographs), time.monotonic()
    with pytest.raises(DataError, match="SIGKILL"):
        fit(Mean(), [At(3, kill_one), Checkpoints(tmp_path, every=1000)], 1000, data=data)
    saved = newest_intact(tmp_path)
    assert saved is not None
    assert 4 <= step_of(saved) <= 4 + 2 * workers.PREFETCH
    assert time.monotonic() - began < 60


# --- a process that cannot send --------------------------------------------------------------------------------------


def test_batch_that_cannot_be_sent_ends_the_stream(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(x: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, full)
    stream = module(photographs).stream()
    with pytest.raises(DataError, match=r"could not be sent: .*No space left on device"):
        next(iter(stream))
    assert "Traceback" not in capfd.readouterr().err


def test_limit_of_open_files_is_reported(photographs: Path) -> None:
    stream = module(photographs, batch_size=2).stream()
    batches = iter(stream)
    next(batches)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(DataError, match="ulimit"):
            list(itertools.islice(batches, 40))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        stream.close()


def test_batch_that_does_not_fit_into_memory_is_reported(photographs: Path) -> None:
    data = module(photographs, crop=2**22, batch_size=1, num_workers=0)
    with pytest.raises(DataError, match="Not enough memory for a batch"):
        next(iter(data.stream()))


# --- shared memory ---------------------------------------------------------------------------------------------------

BATCH = 4 * loader.bytes_of(16)  # bytes


@pytest.mark.parametrize(
    ("free", "crops_per_image", "prefetch"),
    [(100, 1, 4), (11.2, 1, 4), (8.9, 1, 3), (4.5, 1, 1), (11.2, 4, None), (4.4, 1, None), (0, 1, None)],
)
def test_batches_in_flight_fit_into_the_shared_memory(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, free: float, crops_per_image: int, prefetch: int | None
) -> None:
    monkeypatch.setattr(workers, "free_shared_memory", lambda: int(free * BATCH))
    data = module(photographs, crops_per_image=crops_per_image)
    if prefetch is None:
        with pytest.raises(ConfigError, match=r"shared memory") as stopped:
            data.stream()
        assert "--shm-size" in stopped.value.to_do
        if crops_per_image == 1:
            assert f"data.num_workers={max(int(0.9 * free) - 2, 0)}" in stopped.value.to_do
        return
    stream = data.stream()
    assert stream.prefetch_factor == prefetch
    assert (prefetch * 2 + 2) * BATCH <= free * BATCH


def test_unknown_shared_memory_is_not_checked(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", Path("/no/such/folder"))
    assert module(photographs).stream().prefetch_factor == workers.PREFETCH


def test_devices_share_the_shared_memory() -> None:
    free = workers.free_shared_memory()
    assert free is not None
    batch = free // 30
    assert workers.prefetch_that_fits(4, batch) == 4
    assert workers.prefetch_that_fits(4, batch, loaders=2) == 2
    with pytest.raises(ConfigError, match="each of 8 devices"):
        workers.prefetch_that_fits(4, batch, loaders=8)


def test_automatic_workers_adapt_to_the_shared_memory(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lic_train.data.module.available_cores", lambda: 8)
    monkeypatch.setattr(workers, "free_shared_memory", lambda: int(5 * BATCH))
    assert module(photographs, num_workers="auto").workers() == 2
    assert "2 decoding processes" in capsys.readouterr().out
