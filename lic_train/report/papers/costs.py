"""Parameters and multiply-adds that ``python -m lic_train.complexity`` left below outputs/complexity/."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, ValidationError

from lic_train.report.results import Record
from lic_train.system.reading import Unreadable, read_json

SIZE = (512, 768)  # height and width at which papers print multiply-adds


@dataclass(frozen=True)
class Cost:
    """One counted network.

    Attributes:
        model: its name.
        config: its arguments.
        parameters: learned numbers.
        macs: multiply-adds of a 768x512 picture, exact; None if another size was counted.
        profiler_macs: as a profiler by module type counts them; None if only the exact number was counted.
    """

    model: str
    config: dict[str, Any]
    parameters: int
    macs: int | None
    profiler_macs: int | None


class _Macs(Record):
    height: NonNegativeInt
    width: NonNegativeInt
    total: NonNegativeInt


class _Model(Record):
    model: str
    config: dict[str, Any]
    parameters: dict[str, NonNegativeInt]
    macs: list[_Macs]

    def costs(self) -> Iterator[Cost]:
        macs = next((count.total for count in self.macs if (count.height, count.width) == SIZE), None)
        yield Cost(self.model, self.config, self.parameters["total"], macs, None)


class _VariantRow(Record):
    parameters: NonNegativeInt
    macs: NonNegativeInt
    profiler_macs: NonNegativeInt
    model: dict[str, Any]


class _Variants(Record):
    model: str
    height: NonNegativeInt
    width: NonNegativeInt
    rows: list[_VariantRow]

    def costs(self) -> Iterator[Cost]:
        if (self.height, self.width) == SIZE:
            yield from (Cost(self.model, r.model, r.parameters, r.macs, r.profiler_macs) for r in self.rows)


def counted(folder: Path) -> list[Cost]:
    """Every network that was counted, in ``folder`` or as a variant; files that are no count are passed over."""
    models = [cost for path in sorted(folder.glob("*.json")) for cost in _read(path, _Model)]
    return models + [cost for path in sorted(folder.glob("variants/*.json")) for cost in _read(path, _Variants)]


def _read(path: Path, kind: type[_Model] | type[_Variants]) -> list[Cost]:
    try:
        return list(kind.model_validate(read_json(path)).costs())
    except (Unreadable, ValidationError, KeyError):
        return []
