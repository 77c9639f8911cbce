"""State of a run directory: configuration, progress, cost and results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from lic_train.errors import CheckpointError
from lic_train.files.checkpoint import read_metadata
from lic_train.runs.layout import CHECKPOINTS, CONFIG, FINISHED, METRICS, best_model
from lic_train.runs.metric_names import HOURS
from lic_train.runs.training_log import last_values
from lic_train.system.reading import Unreadable, mistakes, read_json, read_yaml

T = TypeVar("T")


class Finished(BaseModel):
    """Record of a finished training: its last optimizer step, and means over the evaluation images."""

    step: Annotated[int, Field(ge=0, lt=2**53)]
    results: dict[str, Any]


_CONFIG = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class RunState:
    """Progress of a run.

    Attributes:
        step: the last step in metrics.csv, or of the finished training.
        finished: trained and evaluated, and every decoded image equals the encoder's reconstruction.
        hours: device hours of training and validation, summed over all starts; None before the first logged row.
        device: kind of device that the hours refer to, "gpu" or "cpu".
        bpp_file, psnr: means over the evaluation images; None before the evaluation.
    """

    step: int
    finished: bool
    hours: float | None
    device: str | None
    bpp_file: float | None
    psnr: float | None


def read_config(directory: Path) -> dict[str, Any] | None:
    """Return the configuration that a run was started with; None for a directory without a run.

    Raises:
        Unreadable: the file is not a YAML mapping, or it is missing although there are checkpoints.
    """
    if not (directory / CONFIG).exists():
        if (directory / CHECKPOINTS).exists():
            raise Unreadable("checkpoints without their configuration")
        return None
    return _validated(_CONFIG.validate_python, read_yaml(directory / CONFIG))


def read_finished(directory: Path) -> Finished | None:
    """Return the record of a finished training; None for an unfinished run.

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
    """Read the state of a run; missing and damaged files are ignored."""
    metrics = last_values(directory / METRICS)
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
        bpp_file=_number(results.get("bpp_file")),
        psnr=_number(results.get("psnr")),
    )


def validation_loss(directory: Path) -> float | None:
    """Return the validation loss of the best model, the lowest of the run; None if there is no such model."""
    try:
        return _number(read_metadata(best_model(directory)).extra.get("val_loss"))
    except CheckpointError:
        return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
