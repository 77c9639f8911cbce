"""The end of a sweep: every run with its state and result, what it all cost, and where it lies."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from lic_train.launch.engine import Outcome
from lic_train.launch.plan import Job
from lic_train.runs.layout import LOG
from lic_train.runs.state import RunState, read_state, validation_loss
from lic_train.system import atomic
from lic_train.system.screen import ruled_table

FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One run of the table."""

    job: Job
    outcome: Outcome
    state: RunState
    val_loss: float | None

    @property
    def log(self) -> Path | None:
        """Where the run's output is, if it is not on the terminal."""
        path = self.job.directory / LOG
        return path if path.exists() else None

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        state = asdict(self.state)
        del state["finished"]
        return {
            "directory": str(self.job.directory),
            "overrides": self.job.overrides,
            "parent": str(self.job.parent.directory) if self.job.parent else None,
            "state": self.outcome,
            **state,
            "steps": self.job.config.steps,
            "val_loss": self.val_loss,
            "log": str(self.log) if self.log else None,
        }


def rows(jobs: Sequence[Job], outcomes: Mapping[Job, Outcome]) -> list[Row]:
    """The rows of ``jobs``; those without an outcome were finished before, or not started."""
    found = []
    for job in jobs:
        state = read_state(job.directory)
        resting: Outcome = "stopped" if state.step else "not started"
        known: Outcome = "finished" if state.finished else outcomes.get(job, resting)
        found.append(Row(job, known, state, validation_loss(job.directory)))
    return found


@dataclass(frozen=True)
class Cost:
    """Of runs that start from a parent, against training each in full.

    Attributes:
        steps: of all runs.
        independent_steps: if each had the parent's.
        hours: of all runs, None unless all are finished.
        independent_hours: if each had taken the parent's.
    """

    steps: int
    independent_steps: int
    hours: float | None = None
    independent_hours: float | None = None

    def told(self, unit: str) -> str:
        """For example "6,000,000 steps instead of 20,000,000 (0.30)"."""
        text = f"{self.steps:,} steps instead of {self.independent_steps:,} ({self.steps / self.independent_steps:.2f})"
        if self.hours is None or not self.independent_hours:
            return text
        ratio = self.hours / self.independent_hours
        return f"{text}, {_hours(self.hours)} {unit} instead of {_hours(self.independent_hours)} ({ratio:.2f})"


def warm_start_cost(jobs: Sequence[Job]) -> Cost | None:
    """The cost of a sweep in which runs start from others; None for any other sweep."""
    if not any(job.parent for job in jobs):
        return None
    sources = [job.parent or job for job in jobs]
    steps, independent = (sum(job.config.steps for job in some) for some in (jobs, sources))
    states = [read_state(job.directory) for job in jobs]
    if not all(state.finished and state.hours is not None for state in states):
        return Cost(steps, independent)
    hours = sum(state.hours or 0.0 for state in states)
    return Cost(steps, independent, hours, sum(read_state(job.directory).hours or 0.0 for job in sources))


def hours_unit(found: Sequence[Row]) -> str:
    """GPU-h or CPU-h, whichever the runs count."""
    return "GPU-h" if any(row.state.device == "gpu" for row in found) else "CPU-h"


def render(name: str, found: Sequence[Row], with_loss: bool) -> Table:
    """The table for a terminal of 80 columns; ``with_loss`` for a search, whose objective it is."""
    home = common_directory(found)
    table = ruled_table(title=name)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    numbers = ["step", "bpp_file", "PSNR", hours_unit(found)]
    for title in [*(["val loss"] if with_loss else []), *numbers]:
        table.add_column(title, justify="right")
    for row in found:
        state, share = row.state, row.state.step / row.job.config.steps
        cells = [f"{state.step:,}", _told(state.bpp_file, 4), _told(state.psnr, 2), _hours(state.hours)]
        style = {"finished": "green", "failed": "red"}.get(row.outcome, "yellow")
        word = row.outcome if row.state.finished or not state.step else f"{row.outcome} {share:.0%}"
        loss = [_told(row.val_loss, 4)] if with_loss else []
        table.add_row(os.path.relpath(row.job.directory, home), f"[{style}]{word}", *loss, *cells)
    return table


def common_directory(found: Sequence[Row]) -> Path:
    """The innermost directory that holds all runs."""
    return Path(os.path.commonpath([row.job.directory.parent for row in found]))


def write(path: Path, name: str, command: Sequence[str], found: Sequence[Row], cost: Cost | None) -> None:
    """The same as JSON: format, sweep, command, runs, and cost where runs start from others."""
    content = {
        "format": FORMAT,
        "sweep": name,
        "command": list(command),
        "runs": [row.plain() for row in found],
        "cost": asdict(cost) if cost else None,
    }
    atomic.replace_text(path, json.dumps(content, indent=1) + "\n")


def _told(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _hours(value: float | None) -> str:
    return "<0.01" if value is not None and value < 0.01 else _told(value, 2)
