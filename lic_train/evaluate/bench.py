"""Measurement of many images with two instances of one model, resumable, in one process or several."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lic_train.data.decode.images import save_png
from lic_train.errors import ConfigError
from lic_train.evaluate import image_metrics, results
from lic_train.evaluate.measure import Coded, Measured, code, compare
from lic_train.evaluate.pictures import panel, save_bits_map, save_error_map
from lic_train.evaluate.protocol import HOUSE, Protocol
from lic_train.files.checkpoint import load_file, move
from lic_train.models.base import Codec
from lic_train.runs import layout
from lic_train.system import atomic
from lic_train.system.ahead import one_ahead
from lic_train.system.memory import keep_freed_memory
from lic_train.system.processes import Workers
from lic_train.system.reading import Unreadable, read_json


@dataclass(frozen=True)
class Settings:
    """How images are measured, and what is kept of them besides the .lic file.

    Attributes:
        panels: number of images, from the first, for which a panel with error map and bits map is drawn.
        repeats: times are medians of this many calls.
        jobs: processes that share the images; each one computes with an equal part of the threads.
        save_images: keep every decoded image as ``decoded/<name>.png``.
        quality_map: keep maps of the error and of the bits as ``error/<name>.png`` and ``bits/<name>.png``.
        fresh: measure again images that have already been measured.
        metrics: names of further metrics in `lic_train.evaluate.image_metrics.METRICS`.
        protocol: padding and kind of PSNR.
        levels: levels of a variable rate; None: those of its ladder.
    """

    panels: int = 4
    repeats: int = 1
    jobs: int = 1
    save_images: bool = False
    quality_map: bool = False
    fresh: bool = False
    metrics: tuple[str, ...] = ()
    protocol: Protocol = HOUSE
    levels: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if min(self.repeats, self.jobs) < 1 or self.panels < 0:
            raise ValueError(f"settings: expected repeats and jobs of at least 1 and panels of at least 0, got {self}")


@dataclass(frozen=True)
class Task:
    """One image, uint8 (3, H, W), its name, the path of its panel if it has one, and the level of a variable rate."""

    name: str
    picture: np.ndarray
    panel: Path | None
    level: float | None = None

    @property
    def stem(self) -> str:
        """Name of the files, without suffix."""
        return results.stem_of(self.name, self.level)


class Bench:
    """Measures images with two instances of one model, and stores the row of each image.

    Args:
        encoder: ready to code.
        decoder: another instance with the same weights, on the same device.
        info: returned by `lic_train.evaluate.results.describe`.
        folder: receives ``<stem>.lic``, ``<stem>.json`` and the images that ``settings`` requests.
        settings: see `Settings`.
    """

    def __init__(self, encoder: Codec, decoder: Codec, info: dict[str, Any], folder: Path, settings: Settings) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._info, self._folder, self._settings = info, folder, settings
        self._device = next(encoder.parameters()).device
        self._environment = results.environment(self._device)

    @property
    def overlaps(self) -> bool:
        """Whether a thread compares and stores each image while the next one is coded.

        Only on a GPU: on a CPU the comparison would take cores from the calls that are timed. After an error or a
        signal, images that were coded are stored before the exception is raised.
        """
        return self._device.type == "cuda"

    def __call__(self, task: Task) -> dict[str, Any]:
        """Measure one image, or return the row of an earlier evaluation that was made under the same conditions."""
        return self.begin(task)()

    def begin(self, task: Task) -> Callable[[], dict[str, Any]]:
        """Code one image; return the function that compares and stores it, which can run in another thread."""
        record, key = self._folder / f"{task.stem}.json", self._key(task)
        if not self._settings.fresh and (row := self._earlier(record, key, task)) is not None:
            return lambda: row
        path = self._folder / f"{task.stem}{layout.LIC}"
        fingerprint = bytes.fromhex(self._info["fingerprint"])
        picture = torch.from_numpy(task.picture)
        repeats, protocol = self._settings.repeats, self._settings.protocol
        pair, level = (self._encoder, self._decoder), task.level
        coded = code(*pair, task.name, picture, fingerprint, path, repeats, protocol, level)
        # These compute on the device, where they must not run during the next timed call.
        metrics = image_metrics.compare(self._settings.metrics, coded.x, coded.x_hat, self._device)
        return partial(self._finish, task, record, key, coded, metrics)

    def _finish(self, task: Task, record: Path, key: str, coded: Coded, metrics: dict[str, Any]) -> dict[str, Any]:
        """Compare a coded image; write its pictures and its record, which marks it as measured. Returns the row."""
        measured = compare(coded, self._settings.protocol)
        self._keep_pictures(task, measured)
        row = {**measured.row.model_dump(exclude={"level", "lmbda"}), **self._rate(task.level), **metrics}
        atomic.replace_text(record, json.dumps({"key": key, "row": row}, allow_nan=False, ensure_ascii=False) + "\n")
        return row

    def _rate(self, level: float | None) -> dict[str, float]:
        """Return level and lambda of a row; nothing for a model with one rate."""
        ladder = self._encoder.ladder
        return {} if ladder is None or level is None else {"level": level, "lambda": ladder.lambda_at(level)}

    def _key(self, task: Task) -> str:
        """Return a hash of everything that determines a row: model, image, machine, threads, repeats, protocol, ..."""
        about = {
            "format": results.FORMAT,
            "fingerprint": self._info["fingerprint"],
            "picture": [*task.picture.shape, hashlib.sha256(task.picture.data).hexdigest()],
            "environment": self._environment,
            "repeats": self._settings.repeats,
            "metrics": image_metrics.definitions(self._settings.metrics),
            "protocol": self._settings.protocol.model_dump(),
            **({} if task.level is None else {"level": task.level}),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _earlier(self, record: Path, key: str, task: Task) -> dict[str, Any] | None:
        """Return the stored row if it has this key and all of its files exist, else None."""
        try:
            stored = read_json(record)
            row: dict[str, Any] = stored["row"] if stored["key"] == key else {}
        except (Unreadable, KeyError, TypeError):
            return None  # missing, or not completely written
        if not results.is_complete(row, self._settings.metrics):
            return None
        wanted = [task.panel, *self._pictures(task.stem).values()]
        complete = all(path is None or path.exists() for path in wanted)
        path = self._folder / f"{task.stem}{layout.LIC}"
        return row if complete and path.exists() and path.stat().st_size == row["bytes"] else None

    def _pictures(self, stem: str) -> dict[str, Path]:
        """Paths of the images that ``settings`` requests, by kind; each kind has its own folder."""
        kinds = [layout.DECODED] * self._settings.save_images + list(layout.MAPS) * self._settings.quality_map
        return {kind: self._folder / kind / f"{stem}.png" for kind in kinds}

    def _keep_pictures(self, task: Task, measured: Measured) -> None:
        paths = self._pictures(task.stem)
        if layout.DECODED in paths:
            save_png(paths[layout.DECODED], measured.x_hat)
        if layout.ERROR in paths:
            save_error_map(paths[layout.ERROR], measured.x, measured.x_hat)
            save_bits_map(paths[layout.BITS], measured.bits)
        if task.panel is not None:
            self._draw(task.panel, measured, task.level)

    def _draw(self, path: Path, measured: Measured, level: float | None) -> None:
        row = measured.row
        path.parent.mkdir(parents=True, exist_ok=True)
        name = self._info.get("model", {}).get("_target_", "").rpartition(".")[2]
        lmbda = self._rate(level).get("lambda", self._info.get("training", {}).get("lambda"))
        title = " · ".join([row.name, name, *([] if lmbda is None else [f"λ = {lmbda:g}"])])
        panel(
            path,
            measured.x,
            measured.x_hat,
            measured.bits,
            title=title,
            bpp=row.bpp_file,
            psnr=math.inf if row.psnr is None else row.psnr,
            ms_ssim=row.ms_ssim,
        )


def load_bench(path: Path, device: str, info: dict[str, Any], folder: Path, settings: Settings) -> Bench:
    """Load the model in the file ``path`` twice and return a bench with both instances.

    Raises:
        CheckpointError: the file contains no intact model.
        ConfigError: this machine does not have the device.
    """
    if device == "cpu":
        keep_freed_memory()
    encoder, decoder = (move(load_file(path)[0], device) for _ in range(2))
    return Bench(encoder, decoder, info, folder, settings)


def measure_all(tasks: Iterable[Task], make: Callable[[], Bench], jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of all ``tasks`` in order, measured in this process or in several new ones.

    Args:
        tasks: read as needed, so that a large set is never completely in memory.
        make: returns a bench; picklable if ``jobs`` is above 1.
        jobs: number of processes; 1 measures in this process.

    Raises:
        ConfigError: a process was killed, most likely because the memory was exhausted.
    """
    if jobs == 1:
        bench = make()
        yield from one_ahead(map(bench.begin, tasks)) if bench.overlaps else map(bench, tasks)
        return
    died = ConfigError(
        "jobs: a process that measures images ended early.",
        expected=f"{jobs} processes that run to the end",
        got="a process that was killed or could not load the model",
        to_do="use fewer jobs if the memory is too small; the same command continues after the measured images",
    )
    with Workers(jobs, "spawn", died, _start, (make, threads_of_a_job(jobs))) as workers:
        yield from workers.in_order(_work, tasks)


def threads_of_a_job(jobs: int) -> int:
    """Return the number of threads with which each of ``jobs`` processes computes."""
    return max(1, torch.get_num_threads() // jobs)


_bench: Bench | None = None  # set in worker processes only


def _start(make: Callable[[], Bench], threads: int) -> None:
    global _bench
    torch.set_num_threads(threads)
    _bench = make()


def _work(task: Task) -> dict[str, Any]:
    assert _bench is not None
    return _bench(task)
