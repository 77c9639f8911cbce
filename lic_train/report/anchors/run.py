"""All pictures of a set through the anchors, and a curve of each: `make`."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from lic_train.errors import AnchorError, DataError
from lic_train.evaluate.results import ImageListHash, decibel
from lic_train.evaluate.run import _new_stem
from lic_train.report.anchors.codecs import Anchor
from lic_train.report.anchors.measure import Row, Rows, measure
from lic_train.report.curves import Curve, ImagePoint, Point

QUALITY = "PSNR and MS-SSIM as lic_train.evaluate gives them: 8-bit RGB, per picture, then the mean"
TIMES = "mean wall-clock seconds a picture on one thread, start of a process included, while {jobs} ran side by side"
BYTES = "whole files are counted; a black picture of 64 x 64 takes {floor} bytes"
_BPP_DIGITS, _DB_DIGITS = 6, 4


@dataclass(frozen=True)
class Pictures:
    """A set's pictures with their names as evaluation writes them.

    Attributes:
        names: in the set's order.
        sha256: as `lic_train.evaluate.results.ImageListHash` gives it, so that an anchor and a model's result are
            known to be of the same pictures.
        images: can be read again and again: pairs of any name and uint8 (3, H, W).
    """

    names: tuple[str, ...]
    sha256: str
    images: Iterable[tuple[str, Tensor]]


def read_pictures(images: Iterable[tuple[str, Tensor]]) -> Pictures:
    """Read every picture once.

    Raises:
        DataError: one is unreadable, two have one name, or there is none.
    """
    stems: dict[str, str] = {}
    image_list = ImageListHash()
    for name, picture in images:
        stems[name] = _new_stem(name, stems)
        image_list.add(stems[name], picture)
    if not stems:
        raise DataError("expected at least one picture, got none")
    return Pictures(tuple(stems.values()), image_list.hexdigest(), images)


def make(
    anchor: Anchor, version: str, pictures: Pictures, set_name: str, cache: Path, jobs: int, step: Callable[[], Any]
) -> Curve:
    """The anchor's curve on ``pictures``; rows that an interrupted call finished are not made again.

    Args:
        anchor: installed here.
        version: what its ``require`` gave.
        pictures: all of the set.
        set_name: of the set, as in file names.
        cache: folder for finished rows.
        jobs: how many pictures are coded at once.
        step: called after each of ``len(pictures.names) * len(anchor.rates)`` rows.

    Raises:
        AnchorError: the codec failed on a picture; the message names it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    rows = Rows(cache / f"{anchor.key}.jsonl")
    found: dict[int, list[Row]] = {rate: [] for rate in anchor.rates}
    for rate, row in _in_order(_tasks(anchor, version, pictures, rows), jobs):
        found[rate].append(row)
        step()
    points = tuple(_point(f"{anchor.parameter} {rate}", found[rate]) for rate in anchor.rates)
    about = _about(anchor, version, found, jobs)
    return Curve(anchor.key, anchor.name, "anchor", set_name, points, pictures.sha256, about)


Task = Callable[[], tuple[int, Row]]


def _tasks(anchor: Anchor, version: str, pictures: Pictures, rows: Rows) -> Iterator[Task]:
    for name, (_, picture) in zip(pictures.names, pictures.images, strict=True):
        content = hashlib.sha256(picture.numpy().tobytes()).hexdigest()
        for rate in anchor.rates:
            about = [anchor.key, anchor.command, anchor.colour, version, rate, name, list(picture.shape), content]
            key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
            yield _task(anchor, rate, name, picture, key, rows)


def _task(anchor: Anchor, rate: int, name: str, picture: Tensor, key: str, rows: Rows) -> Task:
    def task() -> tuple[int, Row]:
        if (row := rows.get(key)) is None:
            try:
                row = measure(anchor, rate, name, picture)
            except AnchorError as error:
                raise AnchorError(f"{name} at {anchor.parameter} {rate}: {error}") from error
            rows.add(key, row)
        return rate, row

    return task


def _in_order(tasks: Iterable[Task], jobs: int) -> Iterator[tuple[int, Row]]:
    """Results in the order of ``tasks``, which are taken as they are needed: a large set never lies in memory."""
    pool = ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[tuple[int, Row]]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _point(parameter: str, rows: Sequence[Row]) -> Point:
    images = [
        ImagePoint(row.name, round(row.bpp, _BPP_DIGITS), _db(row.psnr), _db(decibel(row.ms_ssim))) for row in rows
    ]
    bpp = round(fmean(row.bpp for row in rows), _BPP_DIGITS)
    psnr = _db(_mean([row.psnr for row in rows]))
    return Point(parameter, bpp, psnr, _db(decibel(_mean([row.ms_ssim for row in rows]))), tuple(images))


def _about(anchor: Anchor, version: str, found: dict[int, list[Row]], jobs: int) -> dict[str, Any]:
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
        "seconds": TIMES.format(jobs=jobs),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _db(value: float | None) -> float | None:
    return None if value is None else round(value, _DB_DIGITS)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
