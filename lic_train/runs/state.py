"""State of a run directory: its configuration, how far it is, and what it cost."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError

from lic_train.errors import CheckpointError
from lic_train.files.checkpoint import read_metadata
from lic_train.runs.layout import CHECKPOINTS, CONFIG, FINISHED, HOURS, METRICS, best_model
from lic_train.system.reading import Unreadable, mistakes, read_json, read_yaml

T = TypeVar("T")
TAIL_BYTES = 2**16  # of metrics.csv, more than the rows of a validation


class Finished(BaseModel):
    """What the end of a training wrote: its last optimizer step, and means over the evaluation photographs."""

    step: NonNegativeInt
    results: dict[str, Any]


_CONFIG = TypeAdapter(dict[str, Any])


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


def read_config(directory: Path) -> dict[str, Any] | None:
    """Return the configuration that a run was started with, None for a directory without a run.

    Raises:
        Unreadable: it is no YAML mapping, or it is missing beside checkpoints.
    """
    if not (directory / CONFIG).exists():
        if (directory / CHECKPOINTS).exists():
            raise Unreadable("checkpoints without their configuration")
        return None
    return _validated(_CONFIG.validate_python, read_yaml(directory / CONFIG))


def read_finished(directory: Path) -> Finished | None:
    """Return what the end of the training wrote, None for a run without an end.

    Raises:
        Unreadable: the file is damaged.
    """
    if not (directory / FINISHED).exists():
        return None
    return _validated(Finished.model_validate, read_json(directory / FINISHED))


def _validated(validate: Callable[[Any], T], content: Any) -> T:
    try:
        return validate(content)
    except ValidationError as error:
        raise Unreadable(mistakes(error)) from error


def read_state(directory: Path) -> RunState:
    """Read the state of a run; files that are missing or damaged tell nothing."""
    metrics = _last_values(directory / METRICS)
    try:
        done = read_finished(directory)
    except Unreadable:
        done = None
    results = done.results if done else {}
    device = next((device for device, column in HOURS.items() if column in metrics), None)
    return RunState(
        step=done.step if done else int(metrics.get("step", 0)),
        finished=bool(results.get("equal")),
        hours=metrics[HOURS[device]] if device else None,
        device=device,
        bpp_file=results.get("bpp_file"),
        psnr=results.get("psnr"),
    )


def validation_loss(directory: Path) -> float | None:
    """The lowest one of the run, that of its best model; None if it has none yet."""
    try:
        return float(read_metadata(best_model(directory)).extra["val_loss"])
    except (CheckpointError, KeyError):
        return None


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
