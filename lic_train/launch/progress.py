"""The progress of runs that train elsewhere, read from their directories."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich import get_console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lic_train.launch.plan import Job
from lic_train.runs.state import read_state

SPEED_SECONDS = 3600.0  # over which the speed is measured


class SweepProgress:
    """A bar over the steps of all runs, with the time left; nothing where there is no terminal."""

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

    def update(self, told: str) -> None:
        """Show the steps done since the last call, and ``told``, such as "2 of 6 running"."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=self._steps(), description=told)

    def _steps(self) -> int:
        return sum(read_state(job.directory).step for job in self.jobs)


def clock_face(seconds: float) -> str:
    """Hours and minutes, for example ``123:04 h``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02d} h"
