"""Progress bars for indexing folders and archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

STEPS = 500  # maximum number of updates of a bar: each takes a lock, and a set may have a million entries


@contextmanager
def share_done(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the remaining time; the yielded function takes how much more of ``total`` is done."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
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
    """Show a spinner for work of unknown length; the yielded function takes the number of items found so far."""
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}: {task.completed:,}", markup=False), transient=True
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda found: bar.update(task, completed=found)
