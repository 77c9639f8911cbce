"""Check a data set before training: ``lic data check ROOT``.

Every image is read and decoded as in training. A table shows the counts, ``report.json`` lists every damaged file, and
an HTML page shows the worst images. Exit status: 0 if every image is usable, 1 if some images are damaged, 2 if
training would stop because of too much damage, or if nothing can be opened.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lic_train.data.archives.indexed import Cache, Indexed, naming
from lic_train.data.archives.opening import open_source
from lic_train.data.arguments import check_parser
from lic_train.data.check.looks import KINDS, Look, Summary, look_at
from lic_train.data.check.page import page
from lic_train.data.damage import LIMIT
from lic_train.data.sets.parts import TRAIN, UNNAMED, parts_of, rows
from lic_train.data.stream.loader import available_cores
from lic_train.errors import DataError
from lic_train.system import atomic
from lic_train.system.command import command
from lic_train.system.processes import Workers
from lic_train.system.screen import ruled_table

CHUNK = 32  # images of one task
NAMED = 10  # damaged files in the table

_source: Indexed  # set before the workers are forked, so that they share its index


class Result(NamedTuple):
    """A checked collection: its root, its images, and the summary."""

    root: str
    source: Indexed
    summary: Summary
    crop: int

    @property
    def status(self) -> int:
        """The exit status of the command."""
        damaged = len(self.summary.damaged)
        if damaged > LIMIT * len(self.source) or not self.summary.whole:
            return 2
        return 1 if damaged or self.source.index.problems else 0


def check(root: str, crop: int, jobs: int) -> Result:
    """Check every image of a collection in ``jobs`` processes, with a progress bar.

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
    table = ruled_table("images", "number")
    table.columns[0].overflow, table.columns[1].justify = "fold", "right"
    table.add_row("usable for training", f"{summary.whole:,}", style="green")
    table.add_row("damaged", f"{len(summary.damaged):,}", style="red" if summary.damaged else "")
    for number, reason in sorted(summary.damaged.items())[:NAMED]:
        table.add_row(f"  {result.source.name(number)}: {reason}", "")
    for problem in index.problems[:NAMED]:
        table.add_row(f"archive: {problem.file}: {problem.reason}", "", style="red")
    for kind, meaning in KINDS.items():
        if summary.notes[kind]:
            table.add_row(meaning, f"{summary.notes[kind]:,}")
    if copies := len(summary.copies()):
        table.add_row("exact copies of others", f"{copies:,}")
    table.add_row("ignored: hidden and system files", f"{index.hidden:,}")
    table.add_row("ignored: not images by their names", f"{sum(index.others.values()):,}")
    for kind, text in rows(parts_of(index), index, [TRAIN, UNNAMED]):
        table.add_row(f"{kind}: {text}", "")
    table.add_row("shorter side in pixels: minimum, median, maximum", "{:,}, {:,}, {:,}".format(*summary.sides()))
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


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = check_parser().parse_args(argv)
    with naming("ROOT"):
        result = check(options.root, options.crop, options.jobs or available_cores())
    folder = options.to / (Path(options.root.rstrip("/")).name or "root")
    write(result, folder)
    show(result)
    verdicts = {0: "Every image is usable.", 1: "Training continues: damaged files are replaced and reported."}
    too_much = f"Training would stop: more than {LIMIT:.0%} of the images are damaged, or none is usable."
    verdict = verdicts.get(result.status, too_much)
    get_console().print(verdict, style=("green", "yellow", "red")[result.status])
    for what, name in (("page", "index.html"), ("report", "report.json")):
        get_console().print(f"{what:8}{folder / name}", markup=False, highlight=False, soft_wrap=True)
    return result.status


def _looks(total: int, crop: int, jobs: int) -> Iterator[list[Look]]:
    """Yield the results of each chunk in order."""
    died = DataError(
        "A decoding process died.",
        expected="enough memory for one large image in each process",
        to_do=f"use fewer than --jobs {jobs}",
    )
    with Workers(jobs, "fork", died, os.nice, (5,)) as workers:
        chunks = ((first, min(first + CHUNK, total), crop) for first in range(0, total, CHUNK))
        yield from workers.in_order(_look_at_some, chunks)


def _look_at_some(chunk: tuple[int, int, int]) -> list[Look]:
    first, last, crop = chunk
    return [look_at(_source, number, crop) for number in range(first, last)]


if __name__ == "__main__":
    sys.exit(main())
