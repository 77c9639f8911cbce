"""What lies below outputs/: finished runs with their results, and everything else by name and reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from lic_train.evaluate.results import Record, Result
from lic_train.runs.find import moved_aside, run_directories
from lic_train.runs.layout import CONFIG, ENVIRONMENT, EVAL, FINISHED, METRICS
from lic_train.runs.state import read_config, read_finished
from lic_train.runs.training_log import last_step
from lic_train.system.reading import Unreadable, mistakes, printable, read_json

_Content = TypeVar("_Content", bound=BaseModel)
_Any = TypeVar("_Any")


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
            content = read_json(self.path / ENVIRONMENT)
        except Unreadable:
            return {}
        return content if isinstance(content, dict) else {}


class _Choice(Record):
    model: str
    recipe: str


class _Config(Record):
    choice: _Choice | None = None
    lmbda: Annotated[float, Field(alias="lambda", gt=0, allow_inf_nan=False)]
    distortion: Literal["mse", "ms_ssim"] = "mse"
    name: str | None = None
    steps: PositiveInt
    model: dict[str, Any]


def read_runs(outputs: Path, track: Callable[[list[Path]], Iterator[Path]] = iter) -> tuple[list[Run], list[LeftOut]]:
    """Read every run below ``outputs``, in the order of their paths.

    Args:
        outputs: a tree of run directories, or one of them.
        track: wraps the list of directories, to show progress.

    Returns:
        The finished runs, and what was left out: unfinished, broken or moved aside.
    """
    runs, left_out = [], []
    for path in track(list(run_directories(outputs))):
        where = printable(path.relative_to(outputs) if path != outputs else path.name)
        try:
            run, broken = _read(path, where)
        except Unreadable as error:
            left_out.append(LeftOut(where, str(error)))
            continue
        runs.append(run)
        left_out += broken
    return runs, left_out


def _read(path: Path, where: str) -> tuple[Run, list[LeftOut]]:
    if moved_aside(path):
        raise Unreadable("moved aside by fresh=true")
    raw = _part(str(CONFIG), read_config, path)
    if raw is None:
        raise Unreadable(f"{CONFIG}: the file is missing")
    config = _checked(_Config, raw, str(CONFIG))
    done = _part(FINISHED, read_finished, path)
    if done is None:
        step = last_step(path / METRICS)
        raise Unreadable(f"unfinished: step {step} of {config.steps}; the same command goes on")
    results, left_out = _results(path, where)
    run = Run(
        path=path,
        where=where,
        model=printable(config.choice.model if config.choice else _model_of_class(path, config)),
        recipe=printable(config.choice.recipe) if config.choice else "unknown",
        lmbda=config.lmbda,
        distortion=config.distortion,
        name=None if config.name is None else printable(config.name),
        step=done.step,
        steps=config.steps,
        config=raw,
        results=results,
    )
    return run, left_out


def _model_of_class(path: Path, config: _Config) -> str:
    """Name of the model by its class, for a configuration without the names of its files."""
    module = str(config.model.get("_target_", "")).split(".")
    return module[-2] if len(module) > 1 else path.name


def _results(path: Path, where: str) -> tuple[dict[str, Result], list[LeftOut]]:
    results, left_out = {}, []
    for file in sorted((path / EVAL).glob("*.json")):
        name = f"{EVAL}/{file.name}"
        try:
            result = _checked(Result, _part(name, read_json, file), name)
            if result.set != file.stem:
                raise Unreadable(f"{printable(name)} is of the set {printable(result.set)}")
        except Unreadable as error:
            left_out.append(LeftOut(where, str(error)))
        else:
            results[result.set] = result
    return results, left_out


def _part(name: str, read: Callable[[Path], _Any], path: Path) -> _Any:
    try:
        return read(path)
    except Unreadable as error:
        raise Unreadable(f"{printable(name)}: {error}") from error


def _checked(kind: type[_Content], content: Any, name: str) -> _Content:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise Unreadable(f"{printable(name)}: {mistakes(error)}") from error
