"""The runs of a sweep. All are composed and checked, each with its own directory, before the first is started."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from pydantic import Field, PositiveFloat, model_validator

from lic_train.config.compose import Section, compose, validated
from lic_train.config.names import SWEEP_SECTIONS, group_options, key_of
from lic_train.config.networks import differences
from lic_train.config.run import RunConfig, checked
from lic_train.errors import ConfigError, LicError
from lic_train.evaluate.sets import open_images
from lic_train.runs.claim import refuse_another_run
from lic_train.runs.load import check_start
from lic_train.runs.state import read_state
from lic_train.system.screen import say

Made = TypeVar("Made")


class WarmStart(Section):
    """One lambda is trained in full; all others start from its weights, with additional overrides."""

    parent: PositiveFloat
    overrides: list[str]


class SweepSection(Section):
    """The runs that conf/sweep creates from each job on the command line.

    Attributes:
        overrides: overrides of every run.
        rows: one list of overrides for each row of a paper's table.
        grid: values by key; every row is run with every combination.
        warm_start: runs that start from the weights of another one.
        beside: overrides of one more run, whose network all runs have.
    """

    overrides: list[str] = Field(default_factory=list)
    rows: list[list[str]] = Field(default=[[]])
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    warm_start: WarmStart | None = None
    beside: list[str] | None = None

    @model_validator(mode="after")
    def _parent_is_of_the_grid(self) -> SweepSection:
        if self.warm_start is not None and self.warm_start.parent not in self.grid.get("lambda", []):
            raise ValueError(
                f"warm_start.parent: expected one of grid.lambda {self.grid.get('lambda', [])}, got "
                f"{self.warm_start.parent}"
            )
        return self

    def points(self) -> Iterator[list[list[str]]]:
        """Yield, for each row of the table, the overrides of each of its runs."""
        values = itertools.product(*self.grid.values())
        grid = [[f"{key}={value}" for key, value in zip(self.grid, point, strict=True)] for point in values]
        return ([[*self.overrides, *row, *point] for point in grid] for row in self.rows)


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: the arguments of ``lic train`` that start exactly this run.
        config: its validated configuration.
        parent: the run that this one starts from and waits for.
        fresh: whether an earlier run in the directory is moved aside first.
        widths: overrides with the widths of the parent, or of the run beside, where those of this run's lambda are
            others.
    """

    overrides: list[str]
    config: RunConfig
    parent: Job | None = None
    fresh: bool = False
    widths: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """Path of the run directory."""
        return Path(self.config.output)

    @property
    def is_done(self) -> bool:
        """Whether the run is finished, and neither repeated nor extended to more steps."""
        state = read_state(self.directory)
        return not self.fresh and state.finished and state.step >= self.config.steps


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, every parent before its children; ``name`` is also the W&B group."""

    name: str
    jobs: list[Job]


def plan(typed: Sequence[Sequence[str]]) -> Plan:
    """Expand the jobs of the command line by their sweep section.

    Args:
        typed: the overrides of each job.

    Raises:
        ConfigError: lists all runs whose configuration is invalid, whose directory is also that of another run of this
            sweep, or whose directory contains a run with another configuration.
        DataError: the folder of an evaluation set of these runs is missing or contains no image.
    """
    problems: list[str] = []
    bases = [base for overrides in typed for base in _collecting(problems, overrides, _base, overrides)]
    name = next((base.group for base in bases if base.group), _name(bases))
    jobs = [job for base in bases for job in _jobs_of(base, name, problems)]
    if problems:
        raise ConfigError(
            f"{counted(len(problems))} of the sweep cannot be started.",
            got="\n".join(problems),
            to_do="correct the overrides; no run was started",
        )
    _refuse_shared_directories(jobs)
    _require_evaluation_sets(jobs)
    for widths in sorted({job.widths for job in jobs if job.widths}):
        taking = [job.config.lmbda for job in jobs if job.widths == widths]
        lambdas = ", ".join(f"{lmbda:g}" for lmbda in taking)
        say(
            f"Runs that share the network of another one have its widths, {' '.join(widths)}, for lambda {lambdas}.",
            "yellow",
        )
    return Plan(name, jobs)


@dataclass(frozen=True)
class _Base:
    """One job of the command line, with its sweep section."""

    overrides: list[str]
    sweep: SweepSection
    choices: dict[str, str | None]
    group: str | None
    fresh: bool


def _base(typed: Sequence[str]) -> _Base:
    cfg = compose(typed)
    choices = dict(HydraConfig.get().runtime.choices)
    sweep = validated(SweepSection, cfg.sweep if "sweep" in cfg else OmegaConf.create())
    own = [text for text in typed if key_of(text).partition(".")[0] not in (*SWEEP_SECTIONS, "fresh", "group")]
    listed = (sweep.overrides, *sweep.rows, sweep.beside or [])
    fixed = {key_of(text) for some in listed for text in some} | sweep.grid.keys()
    if "model" not in {*map(key_of, own), *fixed}:
        own.insert(0, f"model={choices['model']}")
    if clash := [text for text in own if key_of(text) in fixed]:
        key = key_of(clash[0])
        other_values = f", or set other values with 'sweep.grid.{key}=[...]'" if key in sweep.grid else ""
        raise ConfigError(
            f"{clash[0]} conflicts with sweep={choices['sweep']}.",
            expected="a key that the sweep does not set",
            to_do=f"omit {key}{other_values}",
        )
    return _Base(own, sweep, choices, cfg.group, bool(cfg.fresh))


def _name(bases: Sequence[_Base]) -> str:
    """Return the name of the sweep, for example ``rd_curve-cwam-iblic``."""
    parts = [base.choices.get("sweep") for base in bases[:1]]
    for base in bases:
        model, recipe = base.choices["model"], base.choices["recipe"]
        parts.append(model if recipe == model else f"{model}_{recipe}")
    return "-".join(part for part in dict.fromkeys(parts) if part)


def _jobs_of(base: _Base, name: str, problems: list[str]) -> Iterator[Job]:
    """Yield all runs of a job of the command line; errors are appended to ``problems``."""

    def attempt(more: list[str], parent: Job | None = None, like: Job | None = None) -> list[Job]:
        overrides = merged(base.overrides, [*more, f"group={name}"])
        return _collecting(problems, overrides, _job, overrides, parent, base.fresh, like)

    beside = [] if base.sweep.beside is None else attempt(base.sweep.beside)
    yield from beside
    same = partial(attempt, like=beside[0]) if beside else attempt
    for points in base.sweep.points():
        yield from _jobs(base, points, same)


def _jobs(base: _Base, points: list[list[str]], attempt: Callable[..., list[Job]]) -> Iterator[Job]:
    """Yield the runs of one row, the parent of a warm start first."""
    if (warm_start := base.sweep.warm_start) is None:
        yield from itertools.chain.from_iterable(map(attempt, points))
        return
    first, others = _split(points, warm_start)
    for parent in attempt(first):
        yield parent
        start = [*warm_start.overrides, f"init_from={parent.directory}"]
        for point in others:
            yield from attempt(merged(point, start), parent)


def _split(points: list[list[str]], warm_start: WarmStart) -> tuple[list[str], list[list[str]]]:
    """Return the point with the parent's lambda, and the other points."""
    recipe = next((text.partition("=")[2] for text in warm_start.overrides if key_of(text) == "recipe"), None)
    if recipe is not None and recipe not in group_options("recipe"):
        raise ConfigError(
            f"sweep=warm_start: there is no recipe {recipe}.",
            expected=f"conf/recipe/{recipe}.yaml, the recipe of the runs that start from the first one",
            to_do="add that file, or set the overrides of these runs, for example "
            "'sweep.warm_start.overrides=[\"steps=300000\"]'",
        )
    lambdas = [next(float(text.partition("=")[2]) for text in point if key_of(text) == "lambda") for point in points]
    place = lambdas.index(warm_start.parent)
    return points[place], points[:place] + points[place + 1 :]


def counted(number: int) -> str:
    """Return ``1 run``, ``2 runs`` and so on."""
    return f"{number} run{'s' if number != 1 else ''}"


def merged(overrides: Sequence[str], more: Sequence[str]) -> list[str]:
    """Return ``overrides`` followed by ``more``; for a key in both, the value in ``more`` is used."""
    keys = {key_of(text) for text in more}
    return [*(text for text in overrides if key_of(text) not in keys), *more]


def _job(overrides: list[str], parent: Job | None, fresh: bool, like: Job | None) -> Job:
    config = checked(compose(overrides))
    model = parent or like  # whose network the run has
    widths = _widths(model.config, config, overrides) if model else []
    if widths:
        overrides = merged(overrides, widths)
        config = checked(compose(overrides))
    if parent is None and config.init_from is not None:
        check_start(config.network, Path(config.init_from))
    if not fresh:
        refuse_another_run(Path(config.output), config.plain())
    return Job(overrides, config, parent, fresh, tuple(widths))


def _widths(parent: RunConfig, child: RunConfig, overrides: Sequence[str]) -> list[str]:
    """Return the overrides with which a run has the network of another one; none if it has it already.

    Raises:
        ConfigError: the overrides of the run themselves set another network.
    """
    if not (found := differences(parent.model, child.model)):
        return []
    other = {key: value for key, value in parent.model.items() if child.model.get(key) != value}
    widths = [f"model.{key}={json.dumps(value)}" for key, value in other.items() if key != "_target_"]
    typed = [text for text in overrides if key_of(text) in map(key_of, widths)]
    if typed or "_target_" in other or other.keys() - child.model.keys():
        raise ConfigError(
            f"This run cannot have the network of {parent.output}.",
            expected=f"the network of that run: {' '.join(widths)}",
            got="\n".join(["that run -> this run", *found]),
            to_do=f"omit {' '.join(typed)}" if typed else "use one model for all runs of the sweep",
        )
    return widths


def _collecting(
    problems: list[str], overrides: Sequence[str], make: Callable[..., Made], *arguments: object
) -> list[Made]:
    """Return ``[make(*arguments)]``, or an empty list after appending the error to ``problems``."""
    try:
        return [make(*arguments)]
    except LicError as error:
        problems.append("\n  ".join([" ".join(overrides), *str(error).splitlines()]))
        return []


def _require_evaluation_sets(jobs: Sequence[Job]) -> None:
    """Check, once for each set, that the folders which the runs are evaluated on at their end contain images."""
    for job in {repr(job.config.eval): job for job in jobs if not job.is_done}.values():
        if job.config.eval.root is not None:
            open_images(job.config.eval, job.directory)


def _refuse_shared_directories(jobs: Sequence[Job]) -> None:
    by_directory: dict[Path, list[Job]] = {}
    for job in jobs:
        by_directory.setdefault(job.directory.resolve(), []).append(job)
    shared = [group for group in by_directory.values() if len(group) > 1]
    if not shared:
        return
    lines = []
    for group in shared:
        lines += [str(group[0].directory), *(f"  {' '.join(job.overrides)}" for job in group)]
    first, second = shared[0][:2]
    key = next((key_of(text) for text in first.overrides if text not in second.overrides), "")
    naming = f"give each run its own name, for example 'name={key.replace('.', '_')}_${{{key}}}'"
    raise ConfigError(
        "Runs of this sweep would share a directory.",
        expected="one run per directory",
        got="\n".join(lines),
        to_do="omit one of the two" if first.config == second.config else naming,
    )
