"""What a run directory tells of its run, whoever trained it and wherever."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic_train.checkpoint import read_metadata
from lic_train.errors import CheckpointError
from lic_train.training.callbacks.checkpoints import BEST
from lic_train.training.callbacks.hours import METRICS
from lic_train.training.loggers import CSV_NAME
from lic_train.training.run_directory import CHECKPOINTS, FINISHED

TAIL_BYTES = 2**16  # of metrics.csv, more than the rows of a validation


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        step: the last one that metrics.csv tells of.
        finished: trained and evaluated, every decoded picture equal to the encoder's.
        hours: device hours of training and validation, over all starts; None before the first row.
        device: what the hours are of, "gpu" or "cpu".
        bpp_file, psnr: means over the evaluation photographs, once evaluated.
    """

    step: int
    finished: bool
    hours: float | None
    device: str | None
    bpp_file: float | None
    psnr: float | None


def read_state(directory: Path) -> RunState:
    """Read the state of a run; files that are missing or damaged tell nothing."""
    metrics = _last_values(directory / CSV_NAME)
    done = _finished(directory / FINISHED)
    results = done.get("results", {})
    device = next((device for device, metric in METRICS.items() if metric in metrics), None)
    return RunState(
        step=int(done.get("step", metrics.get("step", 0))),
        finished=bool(results.get("equal")),
        hours=metrics[METRICS[device]] if device else None,
        device=device,
        bpp_file=results.get("bpp_file"),
        psnr=results.get("psnr"),
    )


def validation_loss(directory: Path) -> float | None:
    """The lowest one of the run, that of its best model; None if it has none yet."""
    try:
        return float(read_metadata(directory / CHECKPOINTS / BEST).extra["val_loss"])
    except (CheckpointError, KeyError):
        return None


def _finished(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content["results"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _last_values(path: Path) -> dict[str, float]:
    """The last value of every column near the end of a CSV file, which may be long and may just be written."""
    try:
        with path.open("rb") as file:
            header = file.readline()
            file.seek(max(len(header), path.stat().st_size - TAIL_BYTES))
            tail = file.read()
    except OSError:
        return {}
    lines = tail.decode(errors="replace").split("\n")[:-1]  # what follows the last line's end is half a row
    columns = next(csv.reader([header.decode(errors="replace")]), [])
    rows = [row for row in csv.reader(lines) if len(row) == len(columns)]
    values: dict[str, float] = {}
    for row in rows:
        values |= {name: float(cell) for name, cell in zip(columns, row, strict=True) if _is_number(cell)}
    return values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
