"""Decoding processes of a loader: their settings, the shared memory that they need, and the error when one ends."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import connection, queues
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lic_train.errors import ConfigError, DataError
from lic_train.system.screen import reason

PREFETCH = 4  # batches that each process prepares in advance
IN_USE = 2  # further batches in shared memory: of the current step, and the one that is being received
SPARE = 0.9  # share of the free shared memory that batches may use
SHARED_MEMORY = Path("/dev/shm")  # where PyTorch puts the tensors of other processes on Linux
MIB = 2**20


def free_shared_memory() -> int | None:
    """Return the free shared memory in bytes; None if the system does not report it."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def batches_that_fit(batch: int, loaders: int) -> float:
    """Return the number of batches of ``batch`` bytes for which each of ``loaders`` loaders has shared memory."""
    free = free_shared_memory()
    return float("inf") if free is None else SPARE * free / loaders // batch - IN_USE


def prefetch_that_fits(num_workers: int, batch: int, loaders: int = 1) -> int:
    """Return how many batches each worker may prepare in advance, at most `PREFETCH`.

    A worker that cannot put a batch into shared memory cannot send it.

    Args:
        num_workers: decoding processes of one loader.
        batch: bytes of the largest batch.
        loaders: number of loaders of this kind on this machine.

    Raises:
        ConfigError: not even one batch for each worker fits.
    """
    room = batches_that_fit(batch, loaders)
    if room < num_workers:
        free, needed = free_shared_memory() or 0, (num_workers + IN_USE) * batch * loaders / SPARE
        raise ConfigError(
            f"The batches of {num_workers} decoding processes do not fit into the shared memory.",
            expected=f"{needed / MIB:,.0f} MiB free in {SHARED_MEMORY}: {num_workers + IN_USE} batches of "
            f"{batch / MIB:,.1f} MiB for each of {loaders} devices",
            got=f"{free / MIB:,.0f} MiB",
            to_do=f"set data.num_workers={max(int(room), 0)}, use a smaller batch_size or crop, or give the "
            f"container more shared memory: docker run --shm-size={_gibibytes(needed)}g",
        )
    return int(min(PREFETCH, room // num_workers))


def _gibibytes(needed: float) -> int:
    return int(needed // 2**30) + 1


def settle(reasons: Any, worker: int) -> None:
    """Configure a forked worker: it ignores garbage and signals of the main process and ends if it cannot send.

    Args:
        reasons: SimpleQueue that receives the reason of a worker that ends itself.
        worker: number of the worker.
    """
    gc.freeze()  # collecting an inherited loader would disturb its queues and copy shared pages
    # The main process needs data until it has saved its checkpoint.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def end(error: BaseException, batch: object) -> None:
        reasons.put(reason(error))
        os._exit(1)

    # The thread that sends batches would print the error, drop the batch, and let the main process wait for ever.
    queues.Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


def watch_children(check: Callable[[], None]) -> None:
    """Call ``check`` when a child process has ended, instead of the handler of PyTorch.

    That one raises RuntimeError wherever the main thread is, for example within an optimizer step.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, lambda number, frame: check())


def ended(workers: Sequence[BaseProcess], patience: float = 0) -> list[BaseProcess]:
    """Return the workers that have ended; wait up to ``patience`` seconds for the first one."""
    if patience:
        connection.wait([worker.sentinel for worker in workers], patience)
    return [worker for worker in workers if worker.exitcode is not None]


def worker_ended(workers: Sequence[BaseProcess], reasons: Any) -> DataError:
    """Return the error for workers of which at least one has ended."""
    lines = [f"process {worker.pid} ended {_how(worker.exitcode or 0)}" for worker in ended(workers)]
    if not reasons.empty():
        lines.append(f"its batch could not be sent: {reasons.get()}")
    return DataError(
        "A process that decodes photographs ended.",
        expected=f"{len(workers)} processes until the end of the training",
        got="\n".join(lines),
        to_do="SIGKILL usually means that the memory is exhausted, SIGBUS or a batch that cannot be sent that the "
        "shared memory is: use fewer data.num_workers; then run the same command again, which continues from the "
        "newest checkpoint",
    )


def too_many_files(error: BaseException) -> DataError:
    """Return the error for a process that has reached its limit of open files while it received batches."""
    return DataError(
        "The decoding processes cannot send their batches.",
        expected="enough open files for one process",
        got=reason(error),
        to_do="raise the limit with ulimit -n 4096, or use fewer data.num_workers",
    )


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
