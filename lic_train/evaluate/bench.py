"""Where pictures are measured: one model twice, and what is kept of each picture, in one process or several."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lic_train.data.decode.images import save_png
from lic_train.errors import ConfigError
from lic_train.evaluate import results
from lic_train.evaluate.measure import Measured, measure
from lic_train.evaluate.pictures import panel, save_bits_map, save_error_map
from lic_train.files.checkpoint import load_file, move
from lic_train.models.base import Codec
from lic_train.system import atomic
from lic_train.system.memory import keep_freed_memory


@dataclass(frozen=True)
class Wish:
    """How pictures are measured, and what is kept of them besides the file.

    Attributes:
        panels: the first so many pictures are drawn with error and bits map beside each other.
        repeats: times are medians of so many calls.
        jobs: processes that share the pictures; each has its part of the threads.
        save_images: keep every decoded picture as ``decoded/<name>.png``.
        quality_map: keep where it erred and where its bits went as ``error/<name>.png`` and ``bits/<name>.png``.
        fresh: measure again what was measured before.
    """

    panels: int = 4
    repeats: int = 1
    jobs: int = 1
    save_images: bool = False
    quality_map: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Task:
    """One picture, uint8 (3, H, W), under the name of its files, and where its panel goes if it has one."""

    stem: str
    picture: np.ndarray
    panel: Path | None


class Bench:
    """Two objects of one model, and the folder for the files.

    Args:
        encoder: ready to code.
        decoder: another object with the same weights, on the same device.
        info: what `lic_train.evaluate.results.describe` gives.
        folder: gets ``<stem>.lic``, ``<stem>.json`` and what ``wish`` asks for.
        wish: see `Wish`.
    """

    def __init__(self, encoder: Codec, decoder: Codec, info: dict[str, Any], folder: Path, wish: Wish) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._info, self._folder, self._wish = info, folder, wish
        self._environment = results.environment(next(encoder.parameters()).device)

    def __call__(self, task: Task) -> dict[str, Any]:
        """Measure one picture, or take the row of an earlier, interrupted evaluation that was made just so."""
        record, key = self._folder / f"{task.stem}.json", self._key(task)
        if not self._wish.fresh and (row := self._earlier(record, key, task)) is not None:
            return row
        path = self._folder / f"{task.stem}.lic"
        fingerprint = bytes.fromhex(self._info["fingerprint"])
        picture = torch.from_numpy(task.picture)
        measured = measure(self._encoder, self._decoder, task.stem, picture, fingerprint, path, self._wish.repeats)
        self._keep_pictures(task, measured)
        row = results.plain(measured.row)
        atomic.replace_text(record, json.dumps({"key": key, "row": row}, allow_nan=False, ensure_ascii=False) + "\n")
        return row

    def _key(self, task: Task) -> str:
        """SHA-256 over all that the row depends on: format, model, picture, machine, threads, repeats."""
        about = {
            "format": results.FORMAT,
            "fingerprint": self._info["fingerprint"],
            "picture": [*task.picture.shape, hashlib.sha256(task.picture.data).hexdigest()],
            "environment": self._environment,
            "repeats": self._wish.repeats,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _earlier(self, record: Path, key: str, task: Task) -> dict[str, Any] | None:
        """The stored row, if it has this key and all its files are there."""
        try:
            stored = json.loads(record.read_bytes())
            row = stored["row"] if stored["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none, or half of one
        wanted = [task.panel, *self._pictures(task.stem).values()]
        complete = all(path is None or path.exists() for path in wanted)
        path = self._folder / f"{task.stem}.lic"
        return row if row and complete and path.exists() and path.stat().st_size == row["bytes"] else None

    def _pictures(self, stem: str) -> dict[str, Path]:
        """Pictures that are wished for, by kind, each kind in a folder of its own."""
        kinds = ["decoded"] * self._wish.save_images + ["error", "bits"] * self._wish.quality_map
        return {kind: self._folder / kind / f"{stem}.png" for kind in kinds}

    def _keep_pictures(self, task: Task, measured: Measured) -> None:
        paths = self._pictures(task.stem)
        if "decoded" in paths:
            save_png(paths["decoded"], measured.x_hat)
        if "error" in paths:
            save_error_map(paths["error"], measured.x, measured.x_hat)
            save_bits_map(paths["bits"], measured.bits)
        if task.panel is not None:
            self._draw(task.panel, measured)

    def _draw(self, path: Path, measured: Measured) -> None:
        row = measured.row
        path.parent.mkdir(parents=True, exist_ok=True)
        name = self._info.get("model", {}).get("_target_", "").rpartition(".")[2]
        lmbda = self._info.get("training", {}).get("lambda")
        title = " · ".join([row.name, name, *([] if lmbda is None else [f"λ = {lmbda:g}"])])
        panel(
            path,
            measured.x,
            measured.x_hat,
            measured.bits,
            title=title,
            bpp=row.bpp_file,
            psnr=row.psnr,
            ms_ssim=row.ms_ssim,
        )


def load_bench(path: Path, device: str, info: dict[str, Any], folder: Path, wish: Wish) -> Bench:
    """A bench around the model in the file ``path``, loaded twice.

    Raises:
        CheckpointError: the file holds no intact model.
        ConfigError: this machine has no such device.
    """
    if device == "cpu":
        keep_freed_memory()
    encoder, decoder = (move(load_file(path)[0], device) for _ in range(2))
    return Bench(encoder, decoder, info, folder, wish)


def measure_all(tasks: Iterable[Task], make: Callable[[], Bench], jobs: int) -> Iterator[dict[str, Any]]:
    """The rows of all ``tasks`` in their order, measured here (``jobs`` 1) or in so many fresh processes.

    Args:
        tasks: read as they are needed, so that a large set never lies in memory.
        make: gives a bench; for several processes it must be picklable.
        jobs: number of processes.

    Raises:
        ConfigError: a process was killed, most likely for its memory.
    """
    if jobs == 1:
        yield from map(make(), tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start, (make, threads_of_a_job(jobs)))
    try:
        yield from _in_order(pool, tasks, jobs)
    except BrokenProcessPool as error:
        raise ConfigError(
            f"jobs: expected {jobs} processes to last, got one that was killed or could not load the model; "
            "use fewer jobs if memory is short. The same command goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def threads_of_a_job(jobs: int) -> int:
    """The share of this process's threads that each of ``jobs`` processes computes with."""
    return max(1, torch.get_num_threads() // jobs)


def _in_order(pool: ProcessPoolExecutor, tasks: Iterable[Task], jobs: int) -> Iterator[dict[str, Any]]:
    waiting: deque[Future[dict[str, Any]]] = deque()
    for task in tasks:
        waiting.append(pool.submit(_work, task))
        if len(waiting) > 2 * jobs:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_bench: Bench | None = None  # of a worker process


def _start(make: Callable[[], Bench], threads: int) -> None:
    global _bench
    torch.set_num_threads(threads)
    _bench = make()


def _work(task: Task) -> dict[str, Any]:
    assert _bench is not None
    return _bench(task)
