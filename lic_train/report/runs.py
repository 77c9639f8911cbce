"""What lies below outputs/: finished runs with their results, and everything else by name and reason."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from lic_train.report.files import Unreadable, mistakes, printable, read_json, read_yaml
from lic_train.report.results import Record, Result
from lic_train.report.training_log import last_step

CONFIG = ".hydra/config.yaml"
MARKS = (".hydra", "checkpoints", "finished.json", "metrics.csv")  # one of them makes a directory a run
SKIPPED = ("anchors", "complexity", "report")  # of outputs/, no runs in them
_MAX_DEPTH = 8
_ASIDE = re.compile(r"\.old-\d+$")
_Content = TypeVar("_Content", bound=BaseModel)


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the report, or not in a comparison of it, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Run:
    """One finished training.

    Attributes:
        path: its directory.
        where: the same below outputs/, safe to show.
        model: name of the model, ``cwam``; ``recipe`` likewise.
        lmbda: weight of the distortion.
        distortion: "mse" or "ms_ssim".
        name: of a second run with another configuration, or None.
        step: optimiser steps done; ``steps`` is what was asked for.
        config: the resolved configuration.
        results: by set of pictures.
    """

    path: Path
    where: str
    model: str
    recipe: str
    lmbda: float
    distortion: str
    name: str | None
    step: int
    steps: int
    config: dict[str, Any]
    results: dict[str, Result]

    def environment(self) -> dict[str, Any]:
        """Where and by which command it was trained; empty if the record is gone."""
        try:
            content = read_json(self.path / "environment.json")
        except Unreadable:
            return {}
        return content if isinstance(content, dict) else {}


class _Config(Record):
    lmbda: Annotated[float, Field(alias="lambda", gt=0, allow_inf_nan=False)]
    distortion: Literal["mse", "ms_ssim"] = "mse"
    name: str | None = None
    steps: PositiveInt
    model: dict[str, Any]


class _Finished(Record):
    step: NonNegativeInt


def read_runs(outputs: Path, track: Callable[[list[Path]], Iterator[Path]] = iter) -> tuple[list[Run], list[LeftOut]]:
    """Read every run below ``outputs``, in the order of their paths.

    Args:
        outputs: a tree of run directories, or one of them.
        track: wraps the list of directories, to show progress.

    Returns:
        The finished runs, and what was left out: unfinished, broken or moved aside.
    """
    runs, left_out = [], []
    for path in track(list(_find(outputs))):
        where = printable(path.relative_to(outputs) if path != outputs else path.name)
        try:
            run, broken = _read(path, where)
        except Unreadable as error:
            left_out.append(LeftOut(where, str(error)))
            continue
        runs.append(run)
        left_out += broken
    return runs, left_out


def _find(outputs: Path) -> Iterator[Path]:
    """Run directories; links are not followed, and nothing is looked for inside a run."""
    for folder, names, files in os.walk(outputs):
        path = Path(folder)
        if any(mark in names or mark in files for mark in MARKS):
            names.clear()
            yield path
        elif len(path.relative_to(outputs).parts) >= _MAX_DEPTH:
            names.clear()
        else:
            names[:] = sorted(name for name in names if not name.startswith(".") and name not in SKIPPED)


def _read(path: Path, where: str) -> tuple[Run, list[LeftOut]]:
    if _ASIDE.search(path.name):
        raise Unreadable("moved aside by fresh=true")
    raw = _part(path, CONFIG, read_yaml)
    config = _checked(_Config, raw, CONFIG)
    if not (path / "finished.json").exists():
        raise Unreadable(
            f"unfinished: step {last_step(path / 'metrics.csv')} of {config.steps}; the same command goes on"
        )
    done = _checked(_Finished, _part(path, "finished.json", read_json), "finished.json")
    results, left_out = _results(path, where)
    run = Run(
        path=path,
        where=where,
        **_names(path, config),
        lmbda=config.lmbda,
        distortion=config.distortion,
        name=None if config.name is None else printable(config.name),
        step=done.step,
        steps=config.steps,
        config=raw,
        results=results,
    )
    return run, left_out


def _names(path: Path, config: _Config) -> dict[str, str]:
    """Names of model and recipe, from the layout of outputs/; of a run that was put elsewhere, from its class."""
    if path.name.startswith("lambda_"):
        return {"model": printable(path.parent.parent.name), "recipe": printable(path.parent.name)}
    module = str(config.model.get("_target_", "")).split(".")
    return {"model": printable(module[-2] if len(module) > 1 else path.name), "recipe": "unknown"}


def _results(path: Path, where: str) -> tuple[dict[str, Result], list[LeftOut]]:
    results, left_out = {}, []
    for file in sorted((path / "eval").glob("*.json")):
        name = f"eval/{file.name}"
        try:
            result = _checked(Result, _part(path, name, read_json), name)
            if result.set != file.stem:
                raise Unreadable(f"{printable(name)} is of the set {printable(result.set)}")
        except Unreadable as error:
            left_out.append(LeftOut(where, str(error)))
        else:
            results[result.set] = result
    return results, left_out


def _part(path: Path, name: str, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path / name)
    except Unreadable as error:
        raise Unreadable(f"{printable(name)}: {error}") from error


def _checked(kind: type[_Content], content: Any, name: str) -> _Content:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise Unreadable(f"{printable(name)}: {mistakes(error)}") from error
