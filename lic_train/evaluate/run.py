"""Evaluation of a model on a set of images: .lic files, panels, result file and table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from lic_train.data.sets.sources import SUFFIXES
from lic_train.errors import ConfigError, DataError
from lic_train.evaluate import image_metrics, results
from lic_train.evaluate.bench import Bench, Settings, Task, load_bench, measure_all, threads_of_a_job
from lic_train.evaluate.protocol import HOUSE, Protocol
from lic_train.evaluate.sets import FolderImages
from lic_train.evaluate.table import notes, row_name, table
from lic_train.files.bitstream import stored_level
from lic_train.files.checkpoint import load_file, move
from lic_train.files.tiles import plan
from lic_train.models.base import Codec
from lic_train.runs import layout
from lic_train.runs.load import load_run
from lic_train.runs.lock import require_own_folders
from lic_train.system.machine import memory_bytes
from lic_train.system.reading import Unreadable, read_json

_MAX_NAME_BYTES = 120
_BYTES_PER_PIXEL = 80  # memory of a measurement, besides that of the networks; measured


def evaluate_run(
    run: Path,
    images: Iterable[tuple[str, Tensor]],
    set_name: str,
    checkpoint: str = "best",
    device: str = "cpu",
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Load a run's model twice, one instance to encode and one to decode, and `evaluate` it.

    Args:
        run: a run directory, or a model file; the results of a file are written to a folder with its name beside it.
        images: as in `evaluate`.
        set_name: as in `evaluate`.
        checkpoint: ``best``, ``last`` or a path.
        device: on which both instances compute.
        settings: as in `evaluate`; if its ``jobs`` is above 1, each process loads the model.

    Raises:
        CheckpointError: there is no intact model.
        ConfigError: this machine does not have the device, or a metric is unknown or cannot be loaded.
        DataError: there is no image, or two images have the same name.
    """
    settings = settings or Settings()
    encoder, metadata = load_run(run, checkpoint)
    encoder = move(encoder, device)
    info = results.describe(metadata)
    out_dir = layout.results_folder(run)
    settings = _with_levels(settings, encoder)
    require_all(images, encoder, settings.protocol)
    if settings.jobs == 1:
        decoder = move(load_file(metadata.path)[0], device)
        bench = Bench(encoder, decoder, info, layout.coded(out_dir, set_name), settings)
        return _evaluate(lambda: bench, images, out_dir, set_name, info, settings, _device(encoder))
    make = partial(load_bench, metadata.path, device, info, layout.coded(out_dir, set_name), settings)
    return _evaluate(make, images, out_dir, set_name, info, settings, _device(encoder))


def _with_levels(settings: Settings, model: Codec) -> Settings:
    """Return the settings with the levels at which ``model`` is evaluated.

    Raises:
        ConfigError: the model has one rate, or not one of the given levels.
    """
    if model.ladder is None:
        if settings.levels is not None:
            raise ConfigError(
                "The model has one rate.",
                expected="no eval.levels, or a model that was trained with rate=variable",
                got=f"eval.levels={list(settings.levels)}",
            )
        return settings
    given = range(len(model.ladder)) if settings.levels is None else settings.levels
    levels = {level for each in given if (level := stored_level(model, float(each))) is not None}
    return replace(settings, levels=tuple(sorted(levels)))


def require_all(images: Iterable[tuple[str, Tensor]], model: Codec, protocol: Protocol = HOUSE) -> None:
    """Check that every image of a folder can be read, coded by ``model`` and measured, before any is coded.

    Raises:
        DataError: an image cannot; the message names all of them.
    """
    available = memory_bytes()

    def problem(height: int, width: int) -> str:
        try:
            plan(height, width, model.downsampling_factor, protocol.tile)
        except ValueError as error:
            return str(error)
        if (needed := _BYTES_PER_PIXEL * height * width) > available:
            gib = 2**30
            return f"{height * width:,} pixels need {needed / gib:.3g} GiB to be measured, of {available / gib:.3g} GiB"
        return ""

    if isinstance(images, FolderImages):
        images.require_all(problem)


def evaluate(
    encoder: Codec,
    decoder: Codec,
    images: Iterable[tuple[str, Tensor]],
    out_dir: Path,
    set_name: str,
    info: dict[str, Any],
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Code every image and write ``eval/<set>.json``, ``eval/<set>/<name>.lic`` and the panels of the first images.

    Images that an interrupted evaluation of the same model on this machine measured are not measured again.

    Args:
        encoder: ready to code.
        decoder: another instance with the same weights, on the same device.
        images: names and images, uint8 (3, H, W); if it has ``len``, the progress bar shows the total.
        out_dir: the run directory; panels are written to its ``pictures/<set>_<name>.png``.
        set_name: name of the set of images, used in file names.
        info: returned by `lic_train.evaluate.results.describe`; ``fingerprint`` is required.
        settings: how to measure and what to keep; ``jobs`` is ignored, everything runs in this process.

    Returns:
        The content of the JSON file.

    Raises:
        CheckpointError: the model's coding tables are stale.
        ConfigError: a metric is unknown or cannot be loaded.
        DataError: there is no image, or two images have the same name.
    """
    settings = _with_levels(replace(settings or Settings(), jobs=1), encoder)
    require_all(images, encoder, settings.protocol)
    bench = Bench(encoder, decoder, info, layout.coded(out_dir, set_name), settings)
    return _evaluate(lambda: bench, images, out_dir, set_name, info, settings, _device(encoder))


def _device(model: Codec) -> torch.device:
    return next(model.parameters()).device


class _Shown(results.Result):
    """A result with the fields that its table shows."""

    model: dict[str, Any]


def stored_result(path: Path) -> dict[str, Any] | None:
    """Return the content of a result file; None if it is missing or damaged, so that it must be measured again."""
    try:
        content: dict[str, Any] = read_json(path)
        _Shown.model_validate(content)
    except (Unreadable, ValidationError):
        return None
    metrics = [name for name in image_metrics.METRICS if name in content["mean"]]
    means = results.has_numbers(content["mean"], metrics)
    return content if means and all(results.is_complete(row, metrics) for row in content["rows"]) else None


def show(result: dict[str, Any], out_dir: Path, console: Console | None = None) -> None:
    """Print the table of results and the paths of all files."""
    console = console or Console()
    name = result["set"]
    console.print(table(result))
    for line in notes(result):
        console.print(Text(line), soft_wrap=True)
    pictures = f"{name}_*.png"
    places = [("results", layout.result(out_dir, name)), ("files", layout.coded(out_dir, name) / f"*{layout.LIC}")]
    if any((out_dir / layout.PICTURES).glob(pictures)):
        places.append(("pictures", out_dir / layout.PICTURES / pictures))
    for what, place in places:
        console.print(Text(f"{what:9} {place}"), soft_wrap=True)
    if not result["mean"]["equal"]:
        different = ", ".join(row_name(row) for row in result["rows"] if not row["equal"])
        console.print(Text(f"decoded differently from the encoder: {different}", "bold red"), soft_wrap=True)


def _evaluate(
    make: Callable[[], Bench],
    images: Iterable[tuple[str, Tensor]],
    out_dir: Path,
    set_name: str,
    info: dict[str, Any],
    settings: Settings,
    device: torch.device,
) -> dict[str, Any]:
    require_own_folders([out_dir / layout.EVAL, layout.coded(out_dir, set_name), out_dir / layout.PICTURES])
    image_metrics.prepare(settings.metrics)
    image_list = results.ImageListHash()
    levels = settings.levels or (None,)
    tasks = _tasks(images, image_list, out_dir / layout.PICTURES / set_name, settings.panels, levels)
    total = len(images) * len(levels) if isinstance(images, Sized) else None
    rows = list(_with_progress(measure_all(tasks, make, settings.jobs), total, set_name))
    if not rows:
        raise DataError(f"The evaluation set {set_name} is empty.", expected="at least one image", got="none")
    machine = {**results.environment(device), "jobs": settings.jobs, "repeats": settings.repeats}
    machine["threads"] = threads_of_a_job(settings.jobs)
    metrics = image_metrics.definitions(settings.metrics)
    result = results.assemble(set_name, rows, info, image_list, machine, metrics, settings.protocol)
    results.write(layout.result(out_dir, set_name), result)
    return result


def _tasks(
    images: Iterable[tuple[str, Tensor]],
    image_list: results.ImageListHash,
    prefix: Path,
    panels: int,
    levels: Sequence[float | None],
) -> Iterator[Task]:
    """Yield a task for each image and level, and add each image to the hash of the list.

    The first ``panels`` images have a panel, at the level in the middle.
    """
    stems: dict[str, str] = {}
    for number, (name, picture) in enumerate(images):
        stem = stems[name] = new_stem(name, stems)
        image_list.add(stem, picture)
        drawn = prefix.with_name(f"{prefix.name}_{stem}.png") if number < panels else None
        for place, level in enumerate(levels):
            yield Task(stem, picture.contiguous().numpy(), drawn if place == len(levels) // 2 else None, level)


def _shortened(name: str) -> str:
    """Return a name that leaves space for suffixes below the limit of 255 bytes; a hash keeps long names different."""
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: _MAX_NAME_BYTES - 13].decode(errors='ignore')}_{digest}"


def new_stem(name: str, stems: dict[str, str]) -> str:
    """Return ``name`` as one path component, without an image suffix unless an earlier stem is the same without it.

    Args:
        name: of an image, possibly with folders.
        stems: stems of the earlier images by their names.

    Raises:
        DataError: two images have the same name.
    """
    flat = _shortened(name.replace("/", "_").replace("\\", "_").lstrip(".") or "_")
    stem, suffix = os.path.splitext(flat)
    candidates = (stem, flat) if suffix.lower() in SUFFIXES else (flat,)
    free = [candidate for candidate in candidates if candidate not in stems.values()]
    if name in stems or not free:
        raise DataError(
            "Two images of the evaluation set have the same name.",
            expected="different names",
            got=f"{name!r} twice",
            to_do="rename one of them",
        )
    return free[0]


def _with_progress(rows: Iterable[dict[str, Any]], total: int | None, set_name: str) -> Iterator[dict[str, Any]]:
    left = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), left)
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(rows, total=total, description=set_name)
