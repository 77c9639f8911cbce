"""Progress bars of the long walks over folders and archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

STEPS = 500  # redraws of a bar: each takes a lock, and there are a million entries


@contextmanager
def share_done(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; the function that it gives takes how much more of ``total`` has been done."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as bar:
        task, since = bar.add_task(title, total=total), 0

        def advance(more: int) -> None:
            nonlocal since
            since += more
            if since * STEPS >= total:
                bar.advance(task, since)
                since = 0

        yield advance


@contextmanager
def number_found(title: str) -> Iterator[Callable[[int], None]]:
    """A spinner for a walk whose end nobody knows; the function that it gives takes the number found so far."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}: {task.completed:,}"), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda found: bar.update(task, completed=found)
