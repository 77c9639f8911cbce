"""Read the finished runs and the imported models below outputs/ with their results; list the rest with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from lic_train.errors import LicError
from lic_train.evaluate.results import Record, Result
from lic_train.files.checkpoint import read_metadata
from lic_train.rd.style import lambda_label
from lic_train.runs.find import model_files, moved_aside, run_directories
from lic_train.runs.layout import CONFIG, ENVIRONMENT, EVAL, FINISHED, METRICS, results_folder
from lic_train.runs.state import read_config, read_finished
from lic_train.runs.training_log import last_step
from lic_train.system.reading import Unreadable, mistakes, printable, read_json

IMPORTED = "imported"  # in place of a recipe
VARIABLE = "variable"
_Content = TypeVar("_Content", bound=BaseModel)
_Any = TypeVar("_Any")


@dataclass(frozen=True)
class LeftOut:
    """Something that the report, or one of its comparisons, does not contain, and the reason."""

    what: str
    reason: str


@dataclass(frozen=True)
class Run:
    """One finished training, or an imported model, whose training is not known; of a variable rate, one of its levels.

    Attributes:
        path: run directory; of an imported model, the folder of its results.
        where: the directory relative to outputs/, printable.
        model: name of the file in conf/model.
        recipe: name of the file in conf/recipe, or `IMPORTED`.
        lmbda: weight of the distortion; of a variable rate, that of the level.
        distortion: "mse" or "ms_ssim".
        name: name that separates runs of other configurations, or None; of a variable rate it begins with `VARIABLE`.
        step: optimizer steps done; None of an imported model.
        steps: optimizer steps in the configuration; None of an imported model.
        config: resolved configuration; of an imported model, only the model, lambda and distortion.
        results: evaluations by name of the picture set.
        file: the imported model, or None.
        level: level of a variable rate, or None; all levels of a run have its path.
    """

    path: Path
    where: str
    model: str
    recipe: str
    lmbda: float
    distortion: str
    name: str | None
    step: int | None
    steps: int | None
    config: dict[str, Any]
    results: dict[str, Result]
    file: Path | None = None
    level: float | None = None

    @property
    def trained_for(self) -> float | str:
        """Lambda of the training, or the range of a variable rate."""
        lambdas = _lambdas(self.config)
        return f"{lambdas[0]:g} to {lambdas[-1]:g}" if lambdas else self.lmbda

    @property
    def is_imported(self) -> bool:
        """Whether the weights are those of other authors."""
        return self.file is not None

    @property
    def order(self) -> tuple[float, int, str]:
        """Key that sorts runs by lambda, and at one lambda by decreasing number of steps and by path."""
        return self.lmbda, -(self.step or 0), self.where

    @property
    def family(self) -> tuple[str, str, str, str]:
        """Model, recipe, distortion and name: runs of one family differ in lambda only."""
        return self.model, self.recipe, self.distortion, self.name or ""

    @property
    def parameter(self) -> str:
        """Label of the run's rate, ``λ 0.0067``."""
        return lambda_label(self.lmbda)

    def environment(self) -> dict[str, Any]:
        """Return the record of machine, code and command; empty if it cannot be read."""
        try:
            content = read_json(self.path / ENVIRONMENT)
        except Unreadable:
            return {}
        return content if isinstance(content, dict) else {}


class _Choice(Record):
    model: str
    recipe: str


class _Rate(Record):
    lambdas: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)] | None = None


class _Config(Record):
    rate: _Rate = _Rate()
    choice: _Choice | None = None
    lmbda: Annotated[float, Field(alias="lambda", gt=0, allow_inf_nan=False)]
    distortion: Literal["mse", "ms_ssim"] = "mse"
    name: str | None = None
    steps: PositiveInt
    model: dict[str, Any]


class _Imported(Record):
    """What ``lic zoo`` stores in a model file."""

    lmbda: Annotated[float, Field(alias="lambda", gt=0, allow_inf_nan=False)]
    distortion: Literal["mse", "ms_ssim"]
    source: str


def _lambdas(config: dict[str, Any]) -> list[float] | None:
    """Return the lambdas of a variable rate in a configuration that was checked."""
    return _Rate.model_validate(config.get("rate") or {}).lambdas


def _levels(run: Run) -> list[Run]:
    """Return one run for each level at which a run with a variable rate was evaluated; any other run as it is."""
    if not _lambdas(run.config):
        return [run]
    name = " ".join(filter(None, (VARIABLE, run.name)))
    found: dict[float, dict[str, Result]] = {}
    lambdas: dict[float, float] = {}
    for set_name, result in run.results.items():
        for level in result.levels:
            found.setdefault(level.level, {})[set_name] = result.at(level)
            lambdas[level.level] = level.lmbda
    levels = [
        replace(run, name=name, level=level, lmbda=lambdas[level], results=results)
        for level, results in sorted(found.items())
    ]
    return levels or [replace(run, name=name)]


def trainings(runs: Sequence[Run]) -> list[Run]:
    """Return one run of each training: levels of a variable rate share theirs."""
    return list({run.path: run for run in reversed(runs)}.values())[::-1]


def one_line(error: LicError) -> str:
    """Return the message of an error on one line, for a table cell: ``what Expected: ...; got: ...; to do: ...``."""
    labelled = {"expected": error.expected, "got": error.got, "to do": error.to_do}
    details = "; ".join(f"{label}: {' '.join(text.split())}" for label, text in labelled.items() if text)
    return f"{error.what} {details[:1].upper()}{details[1:]}".strip()


def read_runs(outputs: Path, track: Callable[[list[Path]], Iterator[Path]] = iter) -> tuple[list[Run], list[LeftOut]]:
    """Read every run below ``outputs``, sorted by path.

    Args:
        outputs: a tree of run directories, or one run directory.
        track: wraps the list of directories to show progress.

    Returns:
        The finished runs, by level if they have a variable rate, and the imported models; and the unfinished, damaged
        or superseded ones with the reason.
    """
    runs, left_out = [], []
    for path in track([*run_directories(outputs), *model_files(outputs)]):
        where = printable(path.relative_to(outputs) if path != outputs else path.name)
        try:
            run, broken = _read_imported(path, where) if path.is_file() else _read(path, where)
        except Unreadable as error:
            left_out.append(LeftOut(where, str(error)))
            continue
        runs += _levels(run)
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
        raise Unreadable(f"unfinished: step {step} of {config.steps}; the same command resumes it")
    results, left_out = _results(path, where)
    run = Run(
        path=path,
        where=where,
        model=printable(config.choice.model if config.choice else _model_of_class(path, config.model)),
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


def _read_imported(file: Path, where: str) -> tuple[Run, list[LeftOut]]:
    try:
        metadata = read_metadata(file)
    except LicError as error:
        raise Unreadable(one_line(error)) from error
    if "source" not in metadata.extra:
        raise Unreadable("an exported model; its run directory is drawn instead")
    if "lambda" not in metadata.extra:
        raise Unreadable("lambda is not known; to do: lic zoo ... lambda=...")
    about = _checked(_Imported, metadata.extra, "header")
    folder = results_folder(file)
    results, left_out = _results(folder, where)
    others = [name for name, result in results.items() if result.fingerprint != metadata.fingerprint.hex()]
    left_out += [LeftOut(where, f"{EVAL}/{name}.json is an evaluation of another model") for name in others]
    run = Run(
        path=folder,
        where=where,
        model=printable(_model_of_class(file, metadata.config)),
        recipe=IMPORTED,
        lmbda=about.lmbda,
        distortion=about.distortion,
        name=None,
        step=None,
        steps=None,
        config={"model": metadata.config, "lambda": about.lmbda, "distortion": about.distortion},
        results={name: result for name, result in results.items() if name not in others},
        file=file,
    )
    return run, left_out


def _model_of_class(path: Path, model: dict[str, Any]) -> str:
    """Return the name of the module of the model's class, for a configuration without the chosen names."""
    module = str(model.get("_target_", "")).split(".")
    return module[-2] if len(module) > 1 else path.name


def _results(path: Path, where: str) -> tuple[dict[str, Result], list[LeftOut]]:
    results, left_out = {}, []
    for file in sorted((path / EVAL).glob("*.json")):
        name = f"{EVAL}/{file.name}"
        try:
            result = _checked(Result, _part(name, read_json, file), name)
            if result.set != file.stem:
                raise Unreadable(f"{printable(name)} is an evaluation on the set {printable(result.set)}")
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
