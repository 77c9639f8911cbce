"""A stage of a recipe: its steps, learning rate, loss and quantiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

DEFAULT_LOSS = {"bpp": 1.0, "distortion": 1.0}


@dataclass(frozen=True)
class Stage:
    """Steps ``[start, stop)`` of a run with constant settings."""

    name: str
    start: int
    stop: int
    lr: float
    loss: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_LOSS))
    quantizer: str | None = None  # None selects the model's default


def lay_out(specs: Sequence[Mapping[str, Any]], total: int) -> list[Stage]:
    """Convert stage specifications to stages that together cover ``total`` steps.

    A specification has ``name``, ``share`` of the run (a number or a fraction such as "1/3") and ``lr``, and optionally
    ``loss`` and ``quantizer``. Boundaries are rounded from the exact cumulative share, so the proportions hold for any
    ``total``.

    Raises:
        ValueError: the shares do not sum to 1.
    """
    shares = [Fraction(str(spec["share"])) for spec in specs]
    if sum(shares) != 1:
        given = " + ".join(str(spec["share"]) for spec in specs)
        raise ValueError(f"stages: expected shares that sum to 1, got {given} = {float(sum(shares)):g}")
    stages, covered = [], Fraction(0)
    for spec, share in zip(specs, shares, strict=True):
        start, covered = round(covered * total), covered + share
        options = {name: spec[name] for name in ("loss", "quantizer") if spec.get(name)}
        stages.append(Stage(spec["name"], start, round(covered * total), float(spec["lr"]), **options))
    return stages
