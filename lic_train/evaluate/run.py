"""Evaluate a model on a set of pictures: files, panels, JSON and table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from lic_train.checkpoint import load_file, load_run, move
from lic_train.data.sources import SUFFIXES
from lic_train.errors import DataError
from lic_train.evaluate import results
from lic_train.evaluate.measure import Measured, Row, measure
from lic_train.evaluate.table import table
from lic_train.models.base import Codec
from lic_train.pictures import panel


def evaluate_run(
    run: Path,
    images: Iterable[tuple[str, Tensor]],
    set_name: str,
    checkpoint: str = "best",
    panels: int = 4,
    device: str = "cpu",
) -> dict[str, Any]:
    """Load a run's model twice, one object to encode and a fresh one to decode, and `evaluate` it.

    Args:
        run: a run directory, or an exported model; results of a model go to the directory that it lies in.
        images: as in `evaluate`.
        set_name: as in `evaluate`.
        checkpoint: ``best``, ``last`` or a path.
        panels: as in `evaluate`.
        device: where both objects compute.

    Raises:
        CheckpointError: no intact model.
        ConfigError: this machine has no such device.
        DataError: no picture, or two of one name.
    """
    encoder, metadata = load_run(run, checkpoint)
    decoder, _ = load_file(metadata.path)
    out_dir = run if run.is_dir() else run.parent
    info = results.describe(metadata)
    encoder, decoder = move(encoder, device), move(decoder, device)
    return evaluate(encoder, decoder, images, out_dir, set_name, info, panels)


def evaluate(
    encoder: Codec,
    decoder: Codec,
    images: Iterable[tuple[str, Tensor]],
    out_dir: Path,
    set_name: str,
    info: dict[str, Any],
    panels: int = 4,
) -> dict[str, Any]:
    """Code every picture for real and write ``eval/<set>.json``, ``eval/<set>/<name>.lic`` and the first panels.

    Args:
        encoder: ready to code.
        decoder: another object with the same weights, on the same device.
        images: names and pictures, uint8 (3, H, W); one with ``len`` gives the progress bar its end.
        out_dir: the run directory; panels go to its ``pictures/<set>_<name>.png``.
        set_name: of the data set, as in file names.
        info: what `lic_train.evaluate.results.describe` gives; ``fingerprint`` is needed.
        panels: number of pictures to draw.

    Returns:
        The content of the JSON file.

    Raises:
        DataError: no picture, or two of one name.
    """
    fingerprint = bytes.fromhex(info["fingerprint"])
    rows: list[Row] = []
    stems: dict[str, str] = {}
    image_list = results.ImageListHash()
    for name, picture in _with_progress(images, set_name):
        stem = stems[name] = _new_stem(name, stems)
        path = out_dir / "eval" / set_name / f"{stem}.lic"
        measured = measure(encoder, decoder, stem, picture, fingerprint, path)
        rows.append(measured.row)
        image_list.add(stem, picture)
        if len(rows) <= panels:
            _draw(out_dir / "pictures" / f"{set_name}_{stem}.png", measured, info)
    if not rows:
        raise DataError(f"expected at least one picture in {set_name}, got none")
    result = results.assemble(set_name, rows, info, image_list, next(encoder.parameters()).device)
    results.write(out_dir / "eval" / f"{set_name}.json", result)
    return result


def show(result: dict[str, Any], out_dir: Path, console: Console | None = None) -> None:
    """Print the table, and where everything lies."""
    console = console or Console()
    name = result["set"]
    console.print(table(result))
    drawn = sorted(out_dir.glob(f"pictures/{name}_*.png"))
    places = [("results", f"eval/{name}.json"), ("files", f"eval/{name}/*.lic")]
    places += [("pictures", f"pictures/{name}_*.png")] if drawn else []
    for what, place in places:
        console.print(Text(f"{what:9} {out_dir / place}"), soft_wrap=True)
    if not result["mean"]["equal"]:
        different = ", ".join(row["name"] for row in result["rows"] if not row["equal"])
        console.print(Text(f"not what the encoder reconstructed: {different}", "bold red"), soft_wrap=True)


def _new_stem(name: str, stems: dict[str, str]) -> str:
    """``name`` as one path component, without the ending of a picture if no earlier one in ``stems`` has that name."""
    flat = name.replace("/", "_").replace("\\", "_").lstrip(".") or "_"
    stem, suffix = os.path.splitext(flat)
    candidates = (stem, flat) if suffix.lower() in SUFFIXES else (flat,)
    free = [candidate for candidate in candidates if candidate not in stems.values()]
    if name in stems or not free:
        raise DataError(f"expected pictures of different names, got {name!r} twice; rename one")
    return free[0]


def _with_progress(images: Iterable[tuple[str, Tensor]], set_name: str) -> Iterator[tuple[str, Tensor]]:
    left = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), left)
    total = len(images) if isinstance(images, Sized) else None
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(images, total=total, description=set_name)


def _draw(path: Path, measured: Measured, info: dict[str, Any]) -> None:
    row = measured.row
    path.parent.mkdir(parents=True, exist_ok=True)
    name = info.get("model", {}).get("_target_", "").rpartition(".")[2]
    lmbda = info.get("training", {}).get("lambda")
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
