"""See what is in a collection before a GPU does: ``python -m lic_train.data.check ROOT``.

Every picture is read and decoded as training would. A table tells what was found, ``report.json`` names every damaged
file, and one HTML page shows the worst. Exit status: 0 if everything can be trained on, 1 if some of it is damaged, 2
if so much is that training would stop, or nothing can be opened.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lic_train.data.archives.indexed import Cache, Indexed
from lic_train.data.archives.opening import open_source
from lic_train.data.check.looks import KINDS, Look, Summary, look_at
from lic_train.data.check.page import page
from lic_train.data.damage import LIMIT
from lic_train.data.stream.loader import available_cores
from lic_train.errors import DataError
from lic_train.system import atomic
from lic_train.system.screen import errors_without_traceback, ruled_table

CHUNK = 32  # pictures of one task: they travel as numbers, only what was seen comes back
NAMED = 10  # damaged files in the table

_source: Indexed  # set before the workers are forked, which share its index


class Result(NamedTuple):
    """A checked collection: where it lies, its pictures, and what they add up to."""

    root: str
    source: Indexed
    summary: Summary
    crop: int

    @property
    def status(self) -> int:
        """The exit status."""
        damaged = len(self.summary.damaged)
        if damaged > LIMIT * len(self.source) or not self.summary.whole:
            return 2
        return 1 if damaged or self.source.index.problems else 0


def check(root: str, crop: int, jobs: int) -> Result:
    """Look at every picture of a collection, in ``jobs`` processes, with a progress bar.

    Raises:
        DataError: nothing can be opened there, or a process died.
    """
    global _source
    _source, summary = open_source(root, Cache()), Summary()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("Checking", total=len(_source))
        for looks in _looks(len(_source), crop, jobs):
            for look in looks:
                summary.add(look)
            bar.advance(task, len(looks))
    return Result(root, _source, summary, crop)


def show(result: Result) -> None:
    """Print the table."""
    summary, index = result.summary, result.source.index
    table = ruled_table("found", "number")
    table.columns[0].overflow, table.columns[1].justify = "fold", "right"
    table.add_row("pictures that can be trained on", f"{summary.whole:,}", style="green")
    table.add_row("damaged", f"{len(summary.damaged):,}", style="red" if summary.damaged else "")
    for number, reason in sorted(summary.damaged.items())[:NAMED]:
        table.add_row(Text(f"  {result.source.name(number)}: {reason}"), "")
    for problem in index.problems[:NAMED]:
        table.add_row(Text(f"archive: {problem.file}: {problem.reason}"), "", style="red")
    for kind, meaning in KINDS.items():
        if summary.notes[kind]:
            table.add_row(meaning, f"{summary.notes[kind]:,}")
    if copies := len(summary.copies()):
        table.add_row("exact copies of others", f"{copies:,}")
    table.add_row("passed over: hidden and system files", f"{index.hidden:,}")
    table.add_row("passed over: no pictures by their names", f"{index.others:,}")
    table.add_row("shorter side, pixels: smallest, median, largest", "{:,}, {:,}, {:,}".format(*summary.sides()))
    get_console().print(table)


def write(result: Result, folder: Path) -> None:
    """Write ``report.json`` and ``index.html``."""
    summary, index = result.summary, result.source.index
    name = result.source.name
    content = {
        "root": result.root,
        "photographs": len(result.source),
        "crop": result.crop,
        "limit": LIMIT,
        "status": result.status,
        "notes": {kind: summary.notes[kind] for kind in KINDS},
        "hidden": index.hidden,
        "others": index.others,
        "archives": [problem._asdict() for problem in index.problems],
        "damaged": [{"file": name(number), "reason": reason} for number, reason in sorted(summary.damaged.items())],
        "copies": [{"file": name(number), "of": name(first)} for number, first in summary.copies()],
    }
    atomic.replace_text(folder / "report.json", json.dumps(content, indent=1) + "\n")
    atomic.replace_text(folder / "index.html", page(result.root, result.source, summary, result.crop))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lic_train.data.check", description=__doc__)
    parser.add_argument("root", help="whatever data.root= takes: a folder, an archive, a pattern, an address")
    parser.add_argument("--crop", type=int, default=256, help="side of the training crops, pixels (256)")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="processes (one for each core)")
    parser.add_argument("--to", type=Path, default=Path("outputs/data_check"), help="folder of report and page")
    options = parser.parse_args(arguments)
    with errors_without_traceback():
        result = check(options.root, options.crop, max(options.jobs, 1))
        folder = options.to / (Path(options.root.rstrip("/")).name or "root")
        write(result, folder)
    show(result)
    said = {0: "Everything can be trained on.", 1: "Training goes on: it replaces what is damaged and says so."}
    verdict = said.get(result.status, f"Training would stop: more than {LIMIT:.0%} is damaged, or nothing is whole.")
    get_console().print(verdict, style=("green", "yellow", "red")[result.status])
    for what, name in (("page", "index.html"), ("report", "report.json")):
        get_console().print(f"{what:8}{folder / name}", markup=False, highlight=False, soft_wrap=True)
    return result.status


def _looks(total: int, crop: int, jobs: int) -> Iterator[list[Look]]:
    """What was seen, chunk by chunk as they are done; few chunks wait at any time, however many there are."""
    chunks = iter(range(0, total, CHUNK))
    with ProcessPoolExecutor(jobs, get_context("fork"), os.nice, (5,)) as pool:
        pending: set[Future[list[Look]]] = set()
        try:
            while True:
                while len(pending) < 4 * jobs and (first := next(chunks, None)) is not None:
                    pending.add(pool.submit(partial(_look_at_some, first, min(first + CHUNK, total), crop)))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that decoded pictures died.\n  expected  memory for one large picture in each process\n"
                f"  to do     take fewer than --jobs {jobs}"
            ) from error


def _look_at_some(first: int, last: int, crop: int) -> list[Look]:
    return [look_at(_source, number, crop) for number in range(first, last)]


if __name__ == "__main__":
    sys.exit(main())
