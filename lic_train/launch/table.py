"""The final table of a sweep: state, result and cost of every run, for the terminal and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lic_train.launch.engine import Outcome
from lic_train.launch.plan import Job
from lic_train.launch.rates import Comparison
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
        """Path of the run's output; None if the run printed to the terminal."""
        path = self.job.directory / LOG
        return path if path.exists() else None

    def plain(self) -> dict[str, Any]:
        """Return the row as plain values."""
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
    """Return the rows of ``jobs``; a job without an outcome was finished before the sweep, or was not started."""
    found = []
    for job in jobs:
        state = read_state(job.directory)
        default: Outcome = "stopped" if state.step else "not started"
        known: Outcome = "finished" if state.finished else outcomes.get(job, default)
        found.append(Row(job, known, state, validation_loss(job.directory)))
    return found


@dataclass(frozen=True)
class Cost:
    """Cost of runs that start from a parent, compared with full training of each.

    Attributes:
        steps: sum over all runs.
        independent_steps: the sum if every run had as many steps as its parent.
        hours: sum of device hours; None unless all runs are finished.
        independent_hours: the sum if every run had taken as long as its parent.
    """

    steps: int
    independent_steps: int
    hours: float | None = None
    independent_hours: float | None = None

    def describe(self, unit: str) -> str:
        """Return, for example, "6,000,000 steps instead of 20,000,000 (0.30)"."""
        text = f"{self.steps:,} steps instead of {self.independent_steps:,} ({self.steps / self.independent_steps:.2f})"
        if self.hours is None or not self.independent_hours:
            return text
        ratio = self.hours / self.independent_hours
        return f"{text}, {_hours(self.hours)} {unit} instead of {_hours(self.independent_hours)} ({ratio:.2f})"


def warm_start_cost(jobs: Sequence[Job]) -> Cost | None:
    """Return the cost of a sweep in which runs start from others; None for any other sweep."""
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
    """Return "GPU-h" if any run was trained on a GPU, otherwise "CPU-h"."""
    return "GPU-h" if any(row.state.device == "gpu" for row in found) else "CPU-h"


def render(name: str, found: Sequence[Row], with_loss: bool) -> Table:
    """Return the table for a terminal of 80 columns.

    Args:
        name: name of the sweep, the title.
        found: the rows.
        with_loss: add the validation loss, which is the objective of a search.
    """
    home = common_directory(found)
    table = ruled_table(title=name)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    numbers = ["step", "bpp_file", "PSNR", hours_unit(found)]
    for title in [*(["val loss"] if with_loss else []), *numbers]:
        table.add_column(title, justify="right")
    for row in found:
        state, share = row.state, row.state.step / row.job.config.steps
        cells = [f"{state.step:,}", _number(state.bpp_file, 4), _number(state.psnr, 2), _hours(state.hours)]
        style = {"finished": "green", "failed": "red"}.get(row.outcome, "yellow")
        word = row.outcome if row.state.finished or not state.step else f"{row.outcome} {share:.0%}"
        loss = [_number(row.val_loss, 4)] if with_loss else []
        table.add_row(os.path.relpath(row.job.directory, home), Text(word, style), *loss, *cells)
    return table


def common_directory(found: Sequence[Row]) -> Path:
    """Return the innermost directory that contains all runs."""
    return Path(os.path.commonpath([row.job.directory.parent for row in found]))


def write(
    path: Path,
    name: str,
    command: Sequence[str],
    found: Sequence[Row],
    cost: Cost | None,
    comparisons: Sequence[Comparison] = (),
) -> None:
    """Write the table as JSON: format, sweep, command, runs, cost and comparisons of rates."""
    content = {
        "format": FORMAT,
        "sweep": name,
        "command": list(command),
        "runs": [row.plain() for row in found],
        "cost": asdict(cost) if cost else None,
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    atomic.replace_text(path, json.dumps(content, indent=1) + "\n")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _hours(value: float | None) -> str:
    return "<0.01" if value is not None and value < 0.01 else _number(value, 2)
