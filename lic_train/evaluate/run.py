"""Evaluate a model on a set of pictures: files, panels, JSON and table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from lic_train.data.sets.sources import SUFFIXES
from lic_train.errors import DataError
from lic_train.evaluate import results
from lic_train.evaluate.bench import Bench, Task, Wish, load_bench, measure_all, threads_of_a_job
from lic_train.evaluate.table import table
from lic_train.files.checkpoint import load_file, move
from lic_train.models.base import Codec
from lic_train.runs import layout
from lic_train.runs.load import load_run


def evaluate_run(
    run: Path,
    images: Iterable[tuple[str, Tensor]],
    set_name: str,
    checkpoint: str = "best",
    device: str = "cpu",
    wish: Wish | None = None,
) -> dict[str, Any]:
    """Load a run's model twice, one object to encode and a fresh one to decode, and `evaluate` it.

    Args:
        run: a run directory, or an exported model; results of a model go to the directory that it lies in.
        images: as in `evaluate`.
        set_name: as in `evaluate`.
        checkpoint: ``best``, ``last`` or a path.
        device: where both objects compute.
        wish: as in `evaluate`; with several jobs each process loads the model.

    Raises:
        CheckpointError: no intact model.
        ConfigError: this machine has no such device.
        DataError: no picture, or two of one name.
    """
    wish = wish or Wish()
    encoder, metadata = load_run(run, checkpoint)
    encoder = move(encoder, device)
    info = results.describe(metadata)
    out_dir = run if run.is_dir() else run.parent
    if wish.jobs == 1:
        decoder = move(load_file(metadata.path)[0], device)
        return evaluate(encoder, decoder, images, out_dir, set_name, info, wish)
    make = partial(load_bench, metadata.path, device, info, layout.coded(out_dir, set_name), wish)
    return _evaluate(make, images, out_dir, set_name, info, wish, next(encoder.parameters()).device)


def evaluate(
    encoder: Codec,
    decoder: Codec,
    images: Iterable[tuple[str, Tensor]],
    out_dir: Path,
    set_name: str,
    info: dict[str, Any],
    wish: Wish | None = None,
) -> dict[str, Any]:
    """Code every picture for real and write ``eval/<set>.json``, ``eval/<set>/<name>.lic`` and the first panels.

    What an interrupted evaluation of the same model on this machine measured is not measured again.

    Args:
        encoder: ready to code.
        decoder: another object with the same weights, on the same device.
        images: names and pictures, uint8 (3, H, W); one with ``len`` gives the progress bar its end.
        out_dir: the run directory; panels go to its ``pictures/<set>_<name>.png``.
        set_name: of the data set, as in file names.
        info: what `lic_train.evaluate.results.describe` gives; ``fingerprint`` is needed.
        wish: what to keep and how to measure; in this process, whatever its ``jobs``.

    Returns:
        The content of the JSON file.

    Raises:
        CheckpointError: the model's coding tables are stale.
        DataError: no picture, or two of one name.
    """
    wish = replace(wish or Wish(), jobs=1)
    bench = Bench(encoder, decoder, info, layout.coded(out_dir, set_name), wish)
    return _evaluate(lambda: bench, images, out_dir, set_name, info, wish, next(encoder.parameters()).device)


def show(result: dict[str, Any], out_dir: Path, console: Console | None = None) -> None:
    """Print the table, and where everything lies."""
    console = console or Console()
    name = result["set"]
    console.print(table(result))
    pictures = f"{name}_*.png"
    places = [("results", layout.result(out_dir, name)), ("files", layout.coded(out_dir, name) / "*.lic")]
    if any((out_dir / layout.PICTURES).glob(pictures)):
        places.append(("pictures", out_dir / layout.PICTURES / pictures))
    for what, place in places:
        console.print(Text(f"{what:9} {place}"), soft_wrap=True)
    if not result["mean"]["equal"]:
        different = ", ".join(row["name"] for row in result["rows"] if not row["equal"])
        console.print(Text(f"not what the encoder reconstructed: {different}", "bold red"), soft_wrap=True)


def _evaluate(
    make: Callable[[], Bench],
    images: Iterable[tuple[str, Tensor]],
    out_dir: Path,
    set_name: str,
    info: dict[str, Any],
    wish: Wish,
    device: torch.device,
) -> dict[str, Any]:
    image_list = results.ImageListHash()
    tasks = _tasks(images, image_list, out_dir / layout.PICTURES / set_name, wish.panels)
    total = len(images) if isinstance(images, Sized) else None
    rows = list(_with_progress(measure_all(tasks, make, wish.jobs), total, set_name))
    if not rows:
        raise DataError(f"expected at least one picture in {set_name}, got none")
    machine = {**results.environment(device), "jobs": wish.jobs, "repeats": wish.repeats}
    machine["threads"] = threads_of_a_job(wish.jobs)
    result = results.assemble(set_name, rows, info, image_list, machine)
    results.write(layout.result(out_dir, set_name), result)
    return result


def _tasks(
    images: Iterable[tuple[str, Tensor]], image_list: results.ImageListHash, prefix: Path, panels: int
) -> Iterator[Task]:
    """Number and name the pictures, and take each into the list's hash as it passes."""
    stems: dict[str, str] = {}
    for number, (name, picture) in enumerate(images):
        stem = stems[name] = new_stem(name, stems)
        image_list.add(stem, picture)
        drawn = prefix.with_name(f"{prefix.name}_{stem}.png") if number < panels else None
        yield Task(stem, picture.contiguous().numpy(), drawn)


def new_stem(name: str, stems: dict[str, str]) -> str:
    """``name`` as one path component, without the ending of a picture if no earlier one in ``stems`` has that name.

    Raises:
        DataError: two pictures have one name.
    """
    flat = name.replace("/", "_").replace("\\", "_").lstrip(".") or "_"
    stem, suffix = os.path.splitext(flat)
    candidates = (stem, flat) if suffix.lower() in SUFFIXES else (flat,)
    free = [candidate for candidate in candidates if candidate not in stems.values()]
    if name in stems or not free:
        raise DataError(f"expected pictures of different names, got {name!r} twice; rename one")
    return free[0]


def _with_progress(rows: Iterable[dict[str, Any]], total: int | None, set_name: str) -> Iterator[dict[str, Any]]:
    left = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), left)
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(rows, total=total, description=set_name)
