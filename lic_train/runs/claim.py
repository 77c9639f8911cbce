"""One directory, one run: the same command continues it; another configuration or a second process is refused."""

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from lic_train.errors import ConfigError
from lic_train.runs.checkpoints import newest_intact, step_of
from lic_train.runs.layout import CHECKPOINTS, CONFIG, FINISHED, LOCK, OVERRIDES
from lic_train.runs.same import differences
from lic_train.runs.state import Finished, read_config, read_finished
from lic_train.system import atomic
from lic_train.system.reading import Unreadable
from lic_train.system.screen import reason, say


class RunLock:
    """Exclusive hold on a run directory; it ends with the process, however that ends.

    Args:
        directory: the run directory.

    Raises:
        ConfigError: another process holds it.
        OSError: the directory is not writable.
    """

    def __init__(self, directory: Path) -> None:
        self._handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._handle, 200, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise ConfigError(
                f"{directory} is in use.\nexpected: one process to a run directory\n"
                f"got: {owner or 'another process'} is training in it\n"
                "what to do: wait for it or stop it, or give this run its own directory with name=..."
            ) from error
        except OSError as error:  # a network file system without locks
            say(f"No lock on {directory} ({reason(error)}): take care that only one process trains in it", "yellow")
        _held.add(self._handle)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        if self._handle in _held:
            with contextlib.suppress(OSError):  # there may have been none, see above
                fcntl.flock(self._handle, fcntl.LOCK_UN)
            _held.remove(self._handle)
            os.close(self._handle)
            self._handle = -1


def _close_in_child() -> None:
    """A forked data worker that outlives a killed run for a moment must not keep the directory locked."""
    while _held:
        os.close(_held.pop())


_held: set[int] = set()
os.register_at_fork(after_in_child=_close_in_child)


@dataclass
class ResumeState:
    """How a run begins. Use it as a context manager, or call ``release``, to let go of the directory.

    Attributes:
        status: "new", "resume" (from ``checkpoint``) or "finished" (``results`` tells how).
        checkpoint: the newest intact checkpoint, None for a new run.
        step: optimizer steps already done.
        results: what ``finish`` was given.
    """

    run_dir: Path
    status: Literal["new", "resume", "finished"]
    checkpoint: Path | None = None
    step: int = 0
    results: dict[str, Any] = field(default_factory=dict)
    lock: RunLock | None = None

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.status == "finished"

    def finish(self, step: int, results: dict[str, Any]) -> None:
        """Mark the run as done: the same command will say so instead of training. ``results`` are plain values."""
        content = json.dumps({"step": step, "results": results}, indent=1)
        atomic.replace_text(self.run_dir / FINISHED, content + "\n")

    def plain(self) -> dict[str, Any]:
        """What the first process tells the others, which hold no lock."""
        checkpoint = str(self.checkpoint) if self.checkpoint else None
        return {"run_dir": str(self.run_dir), "status": self.status, "checkpoint": checkpoint, "step": self.step}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "ResumeState":
        """What `plain` gave in the first process."""
        checkpoint = Path(plain["checkpoint"]) if plain["checkpoint"] else None
        return cls(Path(plain["run_dir"]), plain["status"], checkpoint, plain["step"])

    def release(self) -> None:
        """Let another process use the directory."""
        if self.lock is not None:
            self.lock.release()

    def __enter__(self) -> "ResumeState":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(run_dir: Path, config: dict[str, Any], fresh: bool, overrides: list[str] | None = None) -> ResumeState:
    """Take the run directory, or find out that it holds this very run, finished or not.

    Args:
        run_dir: may exist or not.
        config: the resolved configuration as plain containers.
        fresh: move an earlier run aside to ``<name>.old-N`` instead of continuing it.
        overrides: what was typed, for the record.

    Raises:
        ConfigError: the directory cannot be used, is in use, or holds a run with another configuration.
    """
    run_dir = Path(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = RunLock(run_dir)
        try:
            if fresh and any(entry.name != LOCK for entry in run_dir.iterdir()):
                lock = _move_aside(run_dir, lock)
            _sweep(run_dir)
            _check_or_write(run_dir, _plain(config), overrides or [])
            return _state(run_dir, lock)
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        raise ConfigError(
            f"The run directory {run_dir} cannot be used.\nexpected: a writable directory with free space\n"
            f"got: {reason(error)}\nwhat to do: free the place, or choose another with output=..."
        ) from error


def refuse_another_run(run_dir: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Compare with the configuration on disk, which is returned, None for a new run; nothing is written.

    Raises:
        ConfigError: the directory holds a run with another configuration, or one that cannot be read.
    """
    old, config = _read_config(run_dir), _plain(config)
    if old is not None and old != config and (found := differences(old, config)):
        raise ConfigError(
            f"{run_dir} holds a run with another configuration.\nexpected: the configuration that it began with\n"
            "got (old -> new):\n  " + "\n  ".join(map(str, found)) + "\n"
            "what to do: name=... gives this one its own directory; fresh=true moves the old run aside and starts anew"
        )
    return old


def _check_or_write(run_dir: Path, config: dict[str, Any], overrides: list[str]) -> None:
    """Write the configuration if it is new, or differs from the one on disk in free keys only."""
    old = refuse_another_run(run_dir, config)
    if old == config:
        return
    if old is not None and (run_dir / FINISHED).exists():
        return  # the record of a finished run stays as it was
    atomic.replace_text(run_dir / OVERRIDES, yaml.safe_dump(overrides))
    atomic.replace_text(run_dir / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _read_config(run_dir: Path) -> dict[str, Any] | None:
    try:
        return read_config(run_dir)
    except Unreadable as error:
        raise _unreadable(run_dir / CONFIG, str(error)) from error


def _unreadable(file: Path, got: str) -> ConfigError:
    return ConfigError(
        f"The configuration of the run that lies there cannot be read: {file}\nexpected: a YAML mapping\ngot: {got}\n"
        "what to do: put the file back, or start elsewhere with name=..."
    )


def _state(run_dir: Path, lock: RunLock) -> ResumeState:
    if (done := _finished(run_dir)) is not None:
        return ResumeState(run_dir, "finished", step=done.step, results=done.results, lock=lock)
    checkpoint = newest_intact(run_dir / CHECKPOINTS)
    if checkpoint is None:
        return ResumeState(run_dir, "new", lock=lock)
    return ResumeState(run_dir, "resume", checkpoint, step_of(checkpoint), lock=lock)


def _finished(run_dir: Path) -> Finished | None:
    """What ``finish`` wrote; a file that somebody damaged counts for nothing, the run then ends anew."""
    try:
        return read_finished(run_dir)
    except Unreadable as error:
        say(f"{run_dir / FINISHED} cannot be read ({error}): the run counts as not finished", "yellow")
        return None


def _sweep(run_dir: Path) -> None:
    """Remove what a killed process left half written; nobody else writes here now."""
    for leftover in run_dir.rglob(atomic.TEMPORARY):
        leftover.unlink(missing_ok=True)


def _move_aside(run_dir: Path, lock: RunLock) -> RunLock:
    """Rename the directory, which we hold, and take a new one in its place."""
    numbers = (number for number in range(1, 10**6))
    aside = next(path for n in numbers if not (path := run_dir.with_name(f"{run_dir.name}.old-{n}")).exists())
    run_dir.rename(aside)
    lock.release()
    say(f"The earlier run was moved to {aside}")
    run_dir.mkdir()
    return RunLock(run_dir)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as it will be read back."""
    return yaml.safe_load(yaml.safe_dump(config, allow_unicode=True))
