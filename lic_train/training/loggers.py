"""Loggers of a run: metrics.csv always, and optionally Weights & Biases or TensorBoard."""

import csv
import hashlib
import io
import netrc
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lic_train.errors import ConfigError
from lic_train.runs import layout
from lic_train.system import atomic
from lic_train.system.screen import reason, say

KINDS = ("csv", "wandb", "tensorboard")
STEP_AXIS = "trainer/global_step"
FINISH_SECONDS = 300.0  # limit of the last upload; `wandb sync` uploads the rest later


def build_loggers(
    kind: str, run_dir: Path, *, config: dict[str, Any], group: str, tags: list[str], resume_step: int
) -> list[Logger]:
    """Return the loggers of a run; the first one is always the `CsvLogger`.

    Args:
        kind: "csv", "wandb" or "tensorboard".
        run_dir: the run's directory, which contains all files of the loggers.
        config: the resolved configuration as a plain dictionary; its ``logger`` section contains W&B's options
            (``project``, ``entity``, ``init_timeout``).
        group: W&B group, for example the name of the sweep.
        tags: W&B tags: model, recipe, distortion, lambda, data.
        resume_step: the resumed optimizer step, 0 for a new run.

    Raises:
        ConfigError: unknown kind, or TensorBoard is not installed.
    """
    if kind not in KINDS:
        raise ConfigError(f"logger={kind} is unknown.", expected=f"one of {', '.join(KINDS)}", got=repr(kind))
    loggers: list[Logger] = [CsvLogger(run_dir / layout.METRICS, resume_step)]
    if kind == "wandb":
        loggers.append(wandb_logger(run_dir, config=config, group=group, tags=tags))
    elif kind == "tensorboard":
        loggers.append(tensorboard_logger(run_dir, resume_step))
    return loggers


def finish(loggers: list[Logger], exit_code: int) -> None:
    """Close the loggers with the run's exit code. Call it in a finally: W&B must not show a crashed run as finished."""
    for logger in loggers:
        if isinstance(logger, CsvLogger):
            logger.close()
        elif isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=exit_code)


class CsvLogger(Logger):
    """CSV file with one row per step and one column per metric; columns may be added later. Writes are not buffered.

    Metrics that are logged at the same step, such as those of training and validation, share a row. On resume the rows
    after ``resume_step`` are deleted, because the resumed run writes them again.

    Args:
        path: the CSV file.
        resume_step: the last step whose row is kept.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = Path(path)
        self._resume_step = resume_step
        self._columns = ["step"]
        self._row: dict[str, str] = {}  # the last row
        self._offset = 0  # byte offset of the last row
        self._file: BinaryIO | None = None

    @property
    def name(self) -> str:
        """Name of this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: runs have no versions; a directory contains one run."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run directory contains the configuration."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write or complete the row of ``step`` (of the last row, if None)."""
        if self._file is None:
            self._start()
        number = str(step) if step is not None else self._row.get("step", "0")
        cells = {name: f"{float(value):.9g}" for name, value in metrics.items() if name != "epoch"}
        if self._row.get("step") != number:
            self._row, self._offset = {"step": number}, self._end()
        self._row |= cells
        if new := [name for name in cells if name not in self._columns]:
            self._columns += new
            self._rewrite([*_read(self.path, self._offset)[1], self._row])
        else:
            self._write_last_row()

    def save(self) -> None:
        """Flush the rows to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def finalize(self, status: str) -> None:
        """Do nothing: all rows are written."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _start(self) -> None:
        rows: list[dict[str, str]] = []
        if self.path.exists():
            self._columns, rows = _read(self.path)
            rows = [row for row in rows if int(row["step"]) <= self._resume_step]
        self._rewrite(rows)
        self._row = rows[-1] if rows else {}

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        """Replace the whole file; its last row may still be completed."""
        lines = [_line(self._columns), *(_line([row.get(name, "") for name in self._columns]) for row in rows)]
        self.close()
        atomic.replace_text(self.path, "".join(lines))
        self._file = self.path.open("r+b", buffering=0)
        self._offset = self._end() - (len(lines[-1].encode()) if rows else 0)

    def _write_last_row(self) -> None:
        assert self._file is not None
        data = _line([self._row.get(name, "") for name in self._columns]).encode()
        self._file.seek(self._offset)
        self._file.write(data)  # over the old row before truncating, so that the row exists at every moment
        self._file.truncate()

    def _end(self) -> int:
        assert self._file is not None
        return self._file.seek(0, os.SEEK_END)


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _read(path: Path, end: int | None = None) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns, and the rows before byte ``end``; an incomplete last line, left by a power cut, is dropped.

    Raises:
        ConfigError: the file is not a metrics.csv.
    """
    whole, _, _torn = path.read_bytes()[:end].decode(errors="replace").rpartition("\n")
    reader = csv.DictReader(whole.splitlines())
    try:
        columns = list(reader.fieldnames or ["step"])
        rows = list(reader)
    except csv.Error:  # a field of more than 131,072 characters
        columns, rows = [whole], []
    if columns[0] != "step" or not all((row["step"] or "").isdecimal() for row in rows):
        raise ConfigError(
            f"{path} is not a metrics file of this program.",
            expected="a CSV with step as the first column",
            got=",".join(columns)[:80],
            to_do="move the file away",
        )
    return columns, rows


def wandb_logger(run_dir: Path, *, config: dict[str, Any], group: str, tags: list[str]) -> WandbLogger:
    """Return a W&B logger, online if there are credentials and a network, otherwise offline; prints which.

    The run's id is stored in the run directory: a resumed run continues the same W&B run, a fresh one gets a new id.
    """
    options = config.get("logger") or {}
    arguments: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT") or options.get("project") or "lic_train",
        "entity": options.get("entity"),
        "dir": str(run_dir),
        "name": f"{run_dir.resolve().parent.name}/{run_dir.resolve().name}",
        "group": group,
        "tags": tags,
        "config": config,
        "job_type": "train",
        "resume": "allow",
        "reinit": "finish_previous",
    }
    run = _start_run({**arguments, "id": _run_id(run_dir)}, float(options.get("init_timeout", 30)))
    run.define_metric(STEP_AXIS)
    run.define_metric("*", step_metric=STEP_AXIS, step_sync=True)
    return WandbLogger(experiment=run, project=arguments["project"])


def _run_id(run_dir: Path) -> str:
    file = run_dir / layout.WANDB / "run_id.txt"
    if not file.exists():
        created = f"{run_dir.resolve()} {time.time_ns()}"
        atomic.replace_text(file, hashlib.sha256(created.encode()).hexdigest()[:16])
    return file.read_text().strip()


def _start_run(arguments: dict[str, Any], timeout: float) -> "wandb.Run":
    """Start the W&B run, offline if the server does not answer within ``timeout`` seconds, and print its address."""
    settings = wandb.Settings(
        init_timeout=timeout,
        login_timeout=timeout,
        finish_timeout=FINISH_SECONDS,
        console="off",  # do not record the progress bar
        silent=True,
    )
    mode, why = _mode()
    try:
        run = wandb.init(**arguments, mode=mode, settings=settings)
    except (wandb.Error, TimeoutError) as error:
        wandb.teardown()  # the failed attempt still occupies the run's id
        why = f"the server is not available: {reason(error)}"
        run = wandb.init(**arguments, mode="offline", settings=settings)
    if run.settings.mode in ("offline", "dryrun"):
        say(f"W&B: offline ({why}). Upload later: wandb sync {_short(Path(run.settings.sync_dir))}")
    elif run.settings.mode != "disabled":
        say(f"W&B: online, {run.url}")
    return run


def _short(path: Path) -> Path:
    """Return the path relative to the current directory, if it is inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _mode() -> tuple[Literal["offline"] | None, str]:
    """Return W&B's mode (None: W&B's own settings decide), and the reason if the run is offline."""
    if wanted := os.environ.get("WANDB_MODE"):
        return None, f"WANDB_MODE={wanted}"
    if has_credentials():
        return None, "set in W&B's settings"
    return "offline", "no credentials; run `wandb login` to change this"


def has_credentials() -> bool:
    """Return whether W&B finds an API key without a prompt: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any(host == server or "wandb" in host for host in hosts)


def tensorboard_logger(run_dir: Path, resume_step: int) -> TensorBoardLogger:
    """Return a TensorBoard logger in ``run_dir/tensorboard``; on resume, events after ``resume_step`` are hidden.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "logger=tensorboard needs the package tensorboard.",
            expected="an installed tensorboard",
            got=reason(error),
            to_do="pip install 'lic-train[tensorboard]', or choose logger=csv",
        ) from error
    purge_step = resume_step + 1 if resume_step else None
    return TensorBoardLogger(
        run_dir, name=layout.TENSORBOARD, version="", default_hp_metric=False, purge_step=purge_step, flush_secs=10
    )
