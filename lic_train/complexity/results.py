"""Result files of the complexity command: ``outputs/complexity/<model>.json`` and ``variants/<table>.json``.

This module defines both formats, writes them and reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from lic_train.complexity import count, measure
from lic_train.complexity.options import Variants
from lic_train.complexity.variants import DEFINITIONS as ROW_DEFINITIONS
from lic_train.complexity.variants import Row
from lic_train.errors import DataError
from lic_train.evaluate.results import Record
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, mistakes, read_json

FORMAT: Literal[1] = 1
DEFINITIONS = count.DEFINITIONS | measure.DEFINITIONS
PAPER_SIZE = (512, 768)  # height and width at which papers print multiply-adds


class Macs(Record):
    """Multiply-adds of one forward pass of an image of ``height`` x ``width`` pixels; further fields: sub-networks."""

    model_config = ConfigDict(extra="allow")

    height: PositiveInt
    width: PositiveInt
    total: NonNegativeInt
    __pydantic_extra__: dict[str, NonNegativeInt]

    @property
    def parts(self) -> dict[str, int]:
        """Multiply-adds of the sub-networks, which sum to the total."""
        return self.__pydantic_extra__


class Times(Record):
    """Time and memory of the phases forward, encode and decode for an image of ``height`` x ``width`` pixels."""

    height: PositiveInt
    width: PositiveInt
    device: str
    forward_ms: FiniteFloat
    forward_runs: NonNegativeInt
    forward_peak_bytes: NonNegativeInt
    encode_ms: FiniteFloat
    encode_runs: NonNegativeInt
    encode_peak_bytes: NonNegativeInt
    decode_ms: FiniteFloat
    decode_runs: NonNegativeInt
    decode_peak_bytes: NonNegativeInt

    def phase(self, name: str) -> measure.Phase:
        """Return the measurement of "forward", "encode" or "decode"."""
        return measure.Phase(*(getattr(self, f"{name}_{what}") for what in ("ms", "runs", "peak_bytes")))


class Complexity(Record):
    """Content of ``<model>.json``: the complexity of one model; ``definitions`` defines each number.

    Attributes:
        model: name of its conf/model file.
        config: its resolved configuration, ``_target_`` and arguments.
        parameters: "total", then by sub-network; the others sum to the total.
        quantiles: number of the parameters that are quantiles.
        macs: multiply-adds for each size.
        environment: in which the model was counted and timed.
        time: None if nothing was timed.
        peak_bytes: maximum over the three phases; None if nothing was timed.
    """

    format: Literal[1]
    model: str
    config: dict[str, Any]
    parameters: dict[str, NonNegativeInt]
    quantiles: NonNegativeInt
    macs: list[Macs]
    environment: dict[str, Any] = Field(default_factory=dict)
    time: Times | None = None
    peak_bytes: NonNegativeInt | None = None
    definitions: dict[str, Any] = Field(default_factory=dict)

    def costs(self) -> Iterator[Cost]:
        """Yield the costs of the model."""
        macs = next((count.total for count in self.macs if (count.height, count.width) == PAPER_SIZE), None)
        yield Cost(self.model, self.config, self.parameters["total"], macs, None)


class VariantTable(Record):
    """Content of ``variants/<table>.json``: variants of the conf/model file ``model``, counted at one size."""

    format: Literal[1]
    title: str
    model: str
    height: PositiveInt
    width: PositiveInt
    note: str
    rows: list[Row]
    definitions: dict[str, Any] = Field(default_factory=dict)

    def costs(self) -> Iterator[Cost]:
        """Yield the costs of the variants; nothing if they were counted at another size than `PAPER_SIZE`."""
        if (self.height, self.width) == PAPER_SIZE:
            yield from (Cost(self.model, r.model, r.parameters, r.macs, r.profiler_macs) for r in self.rows)


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds of one network.

    Attributes:
        model: name of its conf/model file.
        config: its configuration.
        parameters: number of learned parameters.
        macs: exact multiply-adds of an image of 768x512 pixels; None if only other sizes were counted.
        profiler_macs: multiply-adds as a profiler by module type counts them; None if only the exact ones were counted.
    """

    model: str
    config: dict[str, Any]
    parameters: int
    macs: int | None
    profiler_macs: int | None


def timed(result: Complexity, height: int, width: int, device: str, phases: Mapping[str, measure.Phase]) -> Complexity:
    """Return ``result`` with the times and memory that `lic_train.complexity.measure.measure` returned."""
    time: dict[str, Any] = {"height": height, "width": width, "device": device}
    for name, phase in phases.items():
        time[f"{name}_ms"] = phase.milliseconds
        time[f"{name}_runs"] = phase.runs
        time[f"{name}_peak_bytes"] = phase.peak_bytes
    peak_bytes = max(phase.peak_bytes for phase in phases.values())
    return result.model_copy(update={"time": Times(**time), "peak_bytes": peak_bytes})


def save(path: Path, result: Complexity) -> None:
    """Write ``result`` as JSON, atomically."""
    _write(path, result)


def load(path: Path) -> Complexity:
    """Read a file that `save` wrote.

    Raises:
        DataError: the file cannot be read, or has another format.
    """
    try:
        return Complexity.model_validate(read_json(path))
    except (Unreadable, ValidationError) as error:
        raise DataError(
            f"{path} does not contain the complexity of a model.",
            expected=f"a JSON file of format {FORMAT}, written by lic complexity",
            got=mistakes(error) if isinstance(error, ValidationError) else str(error),
            to_do="repeat lic complexity",
        ) from error


def save_rows(path: Path, model: str, variants: Variants, rows: Sequence[Row]) -> None:
    """Write the counted rows of a table as JSON, atomically; ``model`` is the conf/model file that they modify."""
    height, width = variants.size
    table = VariantTable(
        format=FORMAT,
        title=variants.title,
        model=model,
        height=height,
        width=width,
        note=variants.note,
        rows=list(rows),
        definitions=dict(ROW_DEFINITIONS),
    )
    _write(path, table)


def counted(folder: Path) -> list[Cost]:
    """Return the costs of all models in ``folder`` and all variants in ``folder``/variants; other files are ignored."""
    models = [cost for path in sorted(folder.glob("*.json")) for cost in _costs(path, Complexity)]
    return models + [cost for path in sorted(folder.glob("variants/*.json")) for cost in _costs(path, VariantTable)]


def _costs(path: Path, kind: type[Complexity] | type[VariantTable]) -> list[Cost]:
    try:
        return list(kind.model_validate(read_json(path)).costs())
    except (Unreadable, ValidationError, KeyError):
        return []


def _write(path: Path, content: Record) -> None:
    plain = content.model_dump()
    atomic.replace_text(path, json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
