"""Run an anchor on all pictures of a set and return its curve: `make`."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lic_train.anchors.codecs import ANCHORS, Anchor
from lic_train.anchors.measure import Row, measure
from lic_train.anchors.rows import Rows
from lic_train.errors import AnchorError, DataError
from lic_train.evaluate.results import ImageListHash, decibel
from lic_train.evaluate.run import new_stem
from lic_train.rd.curves import Curve, ImagePoint, Point
from lic_train.system.processes import Workers

QUALITY = "PSNR and MS-SSIM as lic_train.evaluate gives them: 8-bit RGB, per picture, then the mean"
SECONDS = (
    "mean processor time of a picture, all threads, colour and the start of ffmpeg included; in the order of points"
)
BYTES = "whole files are counted; a black picture of 64 x 64 takes {floor} bytes"
_BPP_DIGITS, _DB_DIGITS = 6, 4


@dataclass(frozen=True)
class Pictures:
    """A set of pictures.

    Attributes:
        set: name of the set, as in file names.
        names: names of the pictures as in evaluation results, in the order of the set.
        sha256: hash by `lic_train.evaluate.results.ImageListHash`, which proves that an anchor and a model's result are
            of the same pictures.
        images: pairs of name and uint8 (3, H, W), which can be iterated repeatedly.
    """

    set: str
    names: tuple[str, ...]
    sha256: str
    images: Iterable[tuple[str, Tensor]]


def read_pictures(set_name: str, images: Iterable[tuple[str, Tensor]]) -> Pictures:
    """Read every picture of ``images`` once.

    Raises:
        DataError: a picture is unreadable, two pictures have the same name, or there is no picture.
    """
    stems: dict[str, str] = {}
    image_list = ImageListHash()
    for name, picture in images:
        stems[name] = new_stem(name, stems)
        image_list.add(stems[name], picture)
    if not stems:
        raise DataError(f"There are no pictures of {set_name}.", expected="at least one picture", got="none")
    return Pictures(set_name, tuple(stems.values()), image_list.hexdigest(), images)


def make(anchor: Anchor, version: str, pictures: Pictures, cache: Path, jobs: int, step: Callable[[], object]) -> Curve:
    """Return the anchor's curve on ``pictures``; an interrupted call is resumed from its finished rows.

    Args:
        anchor: an installed codec.
        version: result of its ``require``.
        pictures: the whole set.
        cache: folder of the finished rows.
        jobs: number of processes.
        step: called after each of the ``len(pictures.names) * len(anchor.rates)`` rows.

    Raises:
        AnchorError: the codec failed on a picture; the message names the picture.
    """
    cache.mkdir(parents=True, exist_ok=True)
    rows = Rows(cache / f"{anchor.key}.jsonl")
    found: dict[int, list[Row]] = {rate: [] for rate in anchor.rates}
    for task, row in _in_order(anchor, _tasks(anchor, version, pictures), rows, jobs):
        found[task.rate].append(row)
        step()
    points = tuple(_point(f"{anchor.parameter} {rate}", found[rate]) for rate in anchor.rates)
    about = _about(anchor, version, found)
    return Curve(anchor.key, anchor.name, "anchor", pictures.set, points, pictures.sha256, about)


@dataclass(frozen=True)
class Task:
    """One row to measure.

    Attributes:
        anchor: key of the codec.
        rate: value of its parameter.
        name: name of the picture.
        picture: uint8 (3, H, W).
        key: SHA-256 over everything that the row depends on.
    """

    anchor: str
    rate: int
    name: str
    picture: np.ndarray
    key: str


def _tasks(anchor: Anchor, version: str, pictures: Pictures) -> Iterator[Task]:
    for name, (_, picture) in zip(pictures.names, pictures.images, strict=True):
        pixels = picture.contiguous().numpy()
        content = [*pixels.shape, hashlib.sha256(pixels.data).hexdigest()]
        for rate in anchor.rates:
            about = [anchor.key, anchor.command, anchor.colour, version, rate, name, content]
            yield Task(anchor.key, rate, name, pixels, hashlib.sha256(json.dumps(about).encode()).hexdigest())


def _in_order(anchor: Anchor, tasks: Iterable[Task], rows: Rows, jobs: int) -> Iterator[tuple[Task, Row]]:
    """Yield each task with its row, from the cache ``rows`` or measured in ``jobs`` processes and added to the cache.

    Tasks are read when they are needed, so that a large set is never in memory as a whole.
    """
    if jobs == 1:
        for task in tasks:
            yield task, rows.get(task.key) or rows.add(task.key, _row(task))
        return
    died = AnchorError(f"A process of {anchor.name} was killed.", to_do="use fewer --jobs if memory is short")
    waiting: deque[tuple[Task, Row | Future[Row]]] = deque()
    with Workers(jobs, "spawn", died, _start, (anchor.key,)) as workers:

        def first() -> tuple[Task, Row]:
            task, row = waiting.popleft()
            return task, row if isinstance(row, Row) else rows.add(task.key, workers.result(row))

        for task in tasks:
            waiting.append((task, rows.get(task.key) or workers.submit(_row, task)))
            if len(waiting) > 2 * jobs:
                yield first()
        while waiting:
            yield first()


def _start(anchor: str) -> None:
    """Initialize a process: load the codec and use one thread."""
    torch.set_num_threads(1)
    ANCHORS[anchor].require()


def _row(task: Task) -> Row:
    anchor = ANCHORS[task.anchor]
    try:
        return measure(anchor, task.rate, task.name, torch.from_numpy(task.picture))
    except AnchorError as error:
        what = f"{task.name} at {anchor.parameter} {task.rate}: {error.what}"
        raise AnchorError(what, expected=error.expected, got=error.got, to_do=error.to_do) from error


def _point(parameter: str, rows: Sequence[Row]) -> Point:
    images = [
        ImagePoint(row.name, round(row.bpp, _BPP_DIGITS), _db(row.psnr), _db(decibel(row.ms_ssim))) for row in rows
    ]
    bpp = round(fmean(row.bpp for row in rows), _BPP_DIGITS)
    psnr = _db(_mean([row.psnr for row in rows]))
    return Point(parameter, bpp, psnr, _db(decibel(_mean([row.ms_ssim for row in rows]))), tuple(images))


def _about(anchor: Anchor, version: str, found: dict[int, list[Row]]) -> dict[str, Any]:
    floor = measure(anchor, anchor.rates[0], "black", torch.zeros(3, 64, 64, dtype=torch.uint8)).bytes
    return {
        "encoder": version,
        "command": anchor.command,
        "chroma": anchor.chroma,
        "colour": anchor.colour,
        "bytes": BYTES.format(floor=floor),
        "quality": QUALITY,
        "encode_seconds": [round(fmean(row.encode_seconds for row in rows), 3) for rows in found.values()],
        "decode_seconds": [round(fmean(row.decode_seconds for row in rows), 3) for rows in found.values()],
        "seconds": SECONDS,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _db(value: float | None) -> float | None:
    return None if value is None else round(value, _DB_DIGITS)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
