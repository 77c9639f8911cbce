"""Exclusive use of a run directory, and the decision whether its run is new, resumed or finished."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from lic_train.data.sets import manifest
from lic_train.errors import ConfigError
from lic_train.runs.checkpoints import newest_intact, step_files, step_of
from lic_train.runs.layout import (
    CHECKPOINTS,
    CONFIG,
    FINISHED,
    LAST,
    LOCK,
    METRICS,
    OVERRIDES,
    TRAINED,
    WRITTEN,
    best_model,
    is_log,
    is_written,
)
from lic_train.runs.lock import RunLock, require_own_file, require_own_folders
from lic_train.runs.same import differences
from lic_train.runs.state import Finished, read_config, read_finished
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, printable
from lic_train.system.screen import reason, say


@dataclass
class ResumeState:
    """Start state of a run.

    As a context manager it releases the directory at the end of the block; ``release`` does the same.

    Attributes:
        status: "new", "resume" (from ``checkpoint``) or "finished" (see ``results``).
        checkpoint: the newest intact checkpoint; None for a new run.
        step: number of optimizer steps already done.
        results: the values passed to ``finish``.
    """

    run_dir: Path
    status: Literal["new", "resume", "finished"]
    checkpoint: Path | None = None
    step: int = 0
    results: dict[str, Any] = field(default_factory=dict)
    lock: RunLock | None = None

    @property
    def finished(self) -> bool:
        """Whether training is complete."""
        return self.status == "finished"

    def finish(self, step: int, results: dict[str, Any]) -> None:
        """Mark the run as finished, so that the same command does not train again. ``results`` are plain values."""
        content = json.dumps({"step": step, "results": results}, indent=1)
        atomic.replace_text(self.run_dir / FINISHED, content + "\n")

    def plain(self) -> dict[str, Any]:
        """Return the state as plain values, for the other processes of a distributed run, which hold no lock."""
        checkpoint = str(self.checkpoint) if self.checkpoint else None
        return {"run_dir": str(self.run_dir), "status": self.status, "checkpoint": checkpoint, "step": self.step}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ResumeState:
        """Create the state from the values that `plain` returned in the first process."""
        checkpoint = Path(plain["checkpoint"]) if plain["checkpoint"] else None
        return cls(Path(plain["run_dir"]), plain["status"], checkpoint, plain["step"])

    def release(self) -> None:
        """Release the directory for other processes."""
        if self.lock is not None:
            self.lock.release()

    def __enter__(self) -> ResumeState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(run_dir: Path, config: dict[str, Any], fresh: bool, overrides: list[str] | None = None) -> ResumeState:
    """Lock a run directory and determine whether its run is new, resumed or finished.

    Args:
        run_dir: the run directory; created if missing.
        config: the resolved configuration as plain containers.
        fresh: rename an earlier run to ``<name>.old-N`` instead of resuming it.
        overrides: the command-line overrides, stored next to the configuration.

    Raises:
        ConfigError: the directory is not usable, is in use, or contains a run with another configuration, a link in
            place of a folder, or, with ``fresh``, files but no run.
    """
    run_dir = Path(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        require_own_file(run_dir / METRICS)
        if fresh:
            _refuse_other_files(run_dir)
        lock = RunLock(run_dir)
        try:
            if fresh and _contains_run(run_dir):
                lock = _move_aside(run_dir, lock)
            require_own_folders(run_dir / name for name in TRAINED)
            if _check_or_write(run_dir, _plain(config), overrides or []):
                _remove_temporary_files(run_dir)
            return _state(run_dir, lock)
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        raise ConfigError(
            f"The run directory {run_dir} cannot be used.",
            expected="a writable directory with free space",
            got=reason(error),
            to_do="free disk space or correct the permissions, or choose another directory with output=...",
        ) from error


def refuse_another_run(run_dir: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Check that a directory contains no run with another configuration; nothing is written.

    Returns:
        The configuration on disk; None for a new run.

    Raises:
        ConfigError: the directory contains a run with another configuration, or one that cannot be read.
    """
    old, config = _read_config(run_dir), _plain(config)
    found = differences(old, config) if old is not None else []
    if (run_dir / manifest.NAME).exists():  # it decides at the start whether these are the same photographs
        found = [one for one in found if not re.match(r"data\.root\b", one.key)]
    longer = [one.key for one in found] == ["steps"] and found[0].new > found[0].old
    if found and not (longer and config.get("extend")):
        new_run = "give this run its own directory with name=..., or move the old run aside with fresh=true"
        extend = (
            f"continue that run with extend=true, or start a run from its weights with init_from={run_dir} name=..."
        )
        raise ConfigError(
            f"{run_dir} contains a run with another configuration.",
            expected="the configuration that the run was started with",
            got="\n".join(["old -> new", *map(str, found)]),
            to_do=f"{extend}, or {new_run}" if longer else new_run,
        )
    return old


def _check_or_write(run_dir: Path, config: dict[str, Any], overrides: list[str]) -> bool:
    """Write the configuration if it is new, or if it differs from the one on disk in free keys only.

    Returns:
        Whether the directory contained this run before.
    """
    old = refuse_another_run(run_dir, config)
    if old == config:
        return True
    if old is not None and config.get("steps", 0) > old.get("steps", 0):
        _extend(run_dir, old["steps"], config["steps"])
    elif old is not None and (run_dir / FINISHED).exists():
        return True  # the record of a finished run does not change
    atomic.replace_text(run_dir / OVERRIDES, yaml.safe_dump(overrides))
    atomic.replace_text(run_dir / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return old is not None


def _extend(run_dir: Path, old: int, new: int) -> None:
    """Turn a run of ``old`` steps into an unfinished one of ``new`` steps, before its configuration is replaced."""
    (run_dir / FINISHED).unlink(missing_ok=True)
    say(
        f"extend=true: the run continues from its newest checkpoint to step {new:,} instead of {old:,}, with its "
        f"optimizer state. The stages are scaled to {new:,} steps. The steps so far had the stages of the shorter run, "
        f"so the weights will differ from those of a run that had steps={new} from the start.",
        "yellow",
    )


def _read_config(run_dir: Path) -> dict[str, Any] | None:
    try:
        return read_config(run_dir)
    except Unreadable as error:
        raise ConfigError(
            f"The configuration of the run in {run_dir} cannot be read.",
            expected=f"a YAML mapping in {run_dir / CONFIG}",
            got=str(error),
            to_do="restore the file, or use another directory with name=...",
        ) from error


def _state(run_dir: Path, lock: RunLock) -> ResumeState:
    if (done := _finished(run_dir)) is not None:
        return ResumeState(run_dir, "finished", step=done.step, results=done.results, lock=lock)
    checkpoint = newest_intact(run_dir / CHECKPOINTS)
    if checkpoint is None:
        return ResumeState(run_dir, "new", lock=lock)
    return ResumeState(run_dir, "resume", checkpoint, step_of(checkpoint), lock=lock)


def _finished(run_dir: Path) -> Finished | None:
    """Return the record that ``finish`` wrote; a damaged one counts as absent, and the run then finishes again."""
    try:
        return read_finished(run_dir)
    except Unreadable as error:
        say(f"{run_dir / FINISHED} cannot be read ({error}): the run counts as not finished", "yellow")
        return None


def _remove_temporary_files(run_dir: Path) -> None:
    """Remove the temporary files of a killed process; the lock guarantees that no other process writes here.

    Only files are removed that a run writes, as ``output=`` may be a directory with other files.
    """
    folders = [run_dir / name for name in WRITTEN]
    inside = (path for folder in folders if not folder.is_symlink() for path in folder.rglob(atomic.TEMPORARY))
    for leftover in [*run_dir.glob(atomic.TEMPORARY), *inside]:
        name = atomic.target_of(leftover)
        if name is not None and (leftover.parent != run_dir or is_written(name)):
            leftover.unlink(missing_ok=True)


def _contains_run(run_dir: Path) -> bool:
    """Return whether a run of this program has been started in the directory."""
    try:
        config = read_config(run_dir) or {}
    except Unreadable:
        config = {}
    folder = run_dir / CHECKPOINTS
    models = [*step_files(folder), folder / LAST, best_model(run_dir)]
    return {"lambda", "model"} <= config.keys() or any(path.is_file() for path in models)


def _refuse_other_files(run_dir: Path) -> None:
    """Check that ``fresh`` would move a run aside, and not a directory with other files.

    Raises:
        ConfigError: there are files, but no run.
    """
    others = [path.name for path in run_dir.iterdir() if not (path.name == LOCK or is_log(path.name))]
    if others and not _contains_run(run_dir):
        shown = ", ".join(map(printable, sorted(others)[:5]))
        raise ConfigError(
            f"{run_dir} is not moved aside: it contains files, but no run of lic_train.",
            expected="a run directory, or an empty or missing one, because of fresh=true",
            got=f"{shown} and {len(others) - 5} more" if len(others) > 5 else shown,
            to_do="choose another directory with output=... or name=..., or move the files yourself",
        )


def _move_aside(run_dir: Path, lock: RunLock) -> RunLock:
    """Rename the locked directory, create an empty one in its place and lock that."""
    candidates = (run_dir.with_name(f"{run_dir.name}.old-{number}") for number in itertools.count(1))
    aside = next(path for path in candidates if not path.exists())
    run_dir.rename(aside)
    lock.release()
    say(f"The earlier run was moved to {aside}")
    run_dir.mkdir()
    return RunLock(run_dir)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration as it is read back from YAML."""
    return yaml.safe_load(yaml.safe_dump(config, allow_unicode=True))
