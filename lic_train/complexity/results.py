"""What a codec costs, as data: ``outputs/complexity/<model>.json``, and ``variants/<table>.json`` beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lic_train.complexity import count, measure
from lic_train.complexity.options import Variants
from lic_train.complexity.variants import DEFINITIONS as ROW_DEFINITIONS
from lic_train.complexity.variants import Row
from lic_train.errors import DataError
from lic_train.system import atomic

FORMAT = 1


@dataclass(frozen=True)
class Complexity:
    """The costs of one model; ``definitions`` says what each number means.

    Attributes:
        model: name of its conf/model file.
        config: its resolved configuration, ``_target_`` and arguments.
        parameters: "total", then by sub-network; the others sum to the total.
        quantiles: how many of the parameters are quantiles.
        macs: for every size "height", "width", "total" and the sub-networks, which sum to the total.
        environment: of the count, and of the times.
        time: "height", "width", "device", and of forward, encode and decode "<phase>_ms", "<phase>_runs" and
            "<phase>_peak_bytes"; None if nothing was timed.
        peak_bytes: the largest of the three phases'; None if nothing was timed.
    """

    model: str
    config: dict[str, Any]
    parameters: dict[str, int]
    quantiles: int
    macs: list[dict[str, int]]
    environment: dict[str, Any]
    time: dict[str, int | float | str] | None = None
    peak_bytes: int | None = None
    definitions: dict[str, str] = field(default_factory=lambda: count.DEFINITIONS | measure.DEFINITIONS)


def timed(result: Complexity, height: int, width: int, device: str, phases: Mapping[str, measure.Phase]) -> Complexity:
    """``result`` with what `lic_train.complexity.measure.measure` found."""
    time: dict[str, int | float | str] = {"height": height, "width": width, "device": device}
    for name, phase in phases.items():
        time[f"{name}_ms"] = phase.milliseconds
        time[f"{name}_runs"] = phase.runs
        time[f"{name}_peak_bytes"] = phase.peak_bytes
    return replace(result, time=time, peak_bytes=max(phase.peak_bytes for phase in phases.values()))


def save(path: Path, result: Complexity) -> None:
    """Write ``result`` as JSON, all or nothing."""
    _write(path, {"format": FORMAT, **asdict(result)})


def load(path: Path) -> Complexity:
    """Read what `save` wrote.

    Raises:
        DataError: the file is unreadable, of another format, or no such result.
    """
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        return TypeAdapter(Complexity).validate_python(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"expected the complexity of a model, format {FORMAT}, in {path}, got: {error}; count again"
        ) from error


def save_rows(path: Path, model: str, variants: Variants, rows: Sequence[Row]) -> None:
    """Write the counted rows of a table as JSON, all or nothing; ``model`` is the conf/model file they start from."""
    height, width = variants.size
    content = {"title": variants.title, "model": model, "height": height, "width": width, "note": variants.note}
    counted = [asdict(row) for row in rows]
    _write(path, {"format": FORMAT, **content, "rows": counted, "definitions": ROW_DEFINITIONS})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    atomic.replace_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
