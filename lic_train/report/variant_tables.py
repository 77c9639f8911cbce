"""Ablation tables: runs of one model that differ by ``name``, compared at equal lambda."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lic_train.rd.curves import Curve
from lic_train.rd.style import METRIC_LABELS
from lic_train.report.elements import Cell, Table
from lic_train.report.gather import Gathered
from lic_train.report.runs import Run
from lic_train.runs.same import ABSENT, Difference, differences
from lic_train.system.reading import printable

_SHOWN = 4  # differences of a run
COLUMNS = {
    "λ": None,
    "Variant": None,
    "Differs in": None,
    "Steps": None,
    "bpp": 4,
    **dict.fromkeys(METRIC_LABELS.values(), 2),
    "Δ bpp [%]": 2,
    **{f"Δ {label}": 3 for label in METRIC_LABELS.values()},
}


def variant_tables(gathered: Gathered) -> list[Table]:
    """Return one table for each model with named variants: the differing keys and the effect at equal lambda."""
    families: dict[tuple[Any, ...], list[Curve]] = {}
    for curve in gathered.curves:
        about = curve.about
        families.setdefault((about["model"], about["recipe"], about["distortion"]), []).append(curve)
    return [_variants(gathered, family) for family in families.values() if len(family) > 1]


def _variants(gathered: Gathered, family: list[Curve]) -> Table:
    """Return rows sorted by lambda, then variant. The base has no name, or else the most rates."""
    base = min(family, key=lambda curve: (curve.about["name"] is not None, -len(curve.points)))
    base_runs = {run.lmbda: run for run in gathered.members[base.key]}
    others = [run for curve in family if curve is not base for run in gathered.members[curve.key]]
    compared = sorted({run.lmbda for run in others} & base_runs.keys())
    rows = []
    for lmbda in compared:
        rows.append(_variant_row(base_runs[lmbda], None, gathered.set))
        rows += [_variant_row(run, base_runs[lmbda], gathered.set) for run in others if run.lmbda == lmbda]
    alone = sorted({run.where for run in others if run.lmbda not in base_runs})
    missing = f" Without a run of {base.name} at the same λ: {', '.join(alone)}." if alone else ""
    return Table(
        key=f"variants_{base.key}",
        title=f"Variants of {base.name}, {gathered.set}",
        columns=list(COLUMNS),
        rows=rows,
        digits=list(COLUMNS.values()),
        note=f"Differences are relative to {base.name} at the same λ.{missing}",
    )


def _variant_row(run: Run, base: Run | None, set_name: str) -> list[Cell]:
    here = run.results[set_name].mean
    row: list[Cell] = [run.lmbda, run.name or run.model, None, run.step, here.bpp_file, here.psnr, here.ms_ssim_db]
    if base is None:
        return [*row, None, None, None]
    there = base.results[set_name].mean
    row[2] = "; ".join(described(differences(base.config, run.config))) or None
    return [
        *row,
        100 * (here.bpp_file / there.bpp_file - 1),
        _minus(here.psnr, there.psnr),
        _minus(here.ms_ssim_db, there.ms_ssim_db),
    ]


def described(found: Sequence[Difference]) -> list[str]:
    """Return ``model.N: 128 → 64`` for the first differences, and the number of the others."""
    lines = [f"{printable(d.key)}: {_value(d.old)} → {_value(d.new)}" for d in found if d.key != "name"]
    return lines[:_SHOWN] + ([f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])


def _value(value: object) -> str:
    return "absent" if value == ABSENT else printable(value, 40)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
