"""Progress of runs that train on other machines, read from their run directories."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich import get_console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lic_train.launch.plan import Job
from lic_train.runs.state import read_state

SPEED_SECONDS = 3600.0  # window over which the speed is averaged


class SweepProgress:
    """A progress bar over the steps of all runs, with the remaining time; disabled if the output is not a terminal."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=get_console(),
            expand=True,
            speed_estimate_period=SPEED_SECONDS,
            disable=not get_console().is_terminal,
        )

    def __enter__(self) -> SweepProgress:
        self._task = self._bar.add_task("", total=sum(job.config.steps for job in self.jobs), completed=self._steps())
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, status: str) -> None:
        """Show the steps done so far, and ``status``, such as "2 of 6 running"."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=self._steps(), description=status)

    def _steps(self) -> int:
        return sum(read_state(job.directory).step for job in self.jobs)


def clock_face(seconds: float) -> str:
    """Format a duration as hours and minutes, for example ``123:04 h``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02d} h"
