"""Record of damaged data: every damaged file is reported once and counted, and their number is limited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import rich
from rich.console import Console

from lic_train.data.archives.index import Problem
from lic_train.data.stream.loader import Batch
from lic_train.errors import DataError
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, read_json

LIMIT = 0.05  # fraction of the data set that may be damaged
NAMED = 20  # number of damaged files that are printed


class DataReport:
    """Collects the failures in the batches, prints each file once, and writes ``data_report.json``.

    A file in the report of an earlier start of the run is not printed again and stays in the report. It counts towards
    the limit only if it fails again, as it may have been repaired. The counts of samples are those of the current
    start.

    Args:
        path: path of the JSON file; None writes none.
        root: the data set, for messages.
        size: number of photographs in it.
        console: rich console for the output; the global one by default, which keeps a live progress bar intact.
        problems: damage of its archives, printed at once.
    """

    def __init__(
        self,
        path: Path | None,
        root: str,
        size: int,
        console: Console | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        self.path, self.root, self.size, self.problems = path, root, size, problems
        self.damaged: dict[str, str] = {}
        self.samples = self.replaced = self.small = 0
        self._earlier = _read(path)
        self._console = console or rich.get_console()
        for problem in problems[:NAMED]:
            self._print(f"damaged archive: {problem.file} ({problem.reason})")
        if problems:
            self._print(f"{len(problems)} problems in archives: see {self.path or 'above'}")
            self.write()

    def add(self, batch: Batch) -> None:
        """Add the failures of one batch.

        Raises:
            DataError: more than LIMIT of the data set is damaged.
        """
        self.samples += len(batch["x"])
        self.replaced += len(batch["failures"])
        self.small += batch["small"]
        new = {name: reason for name, reason in batch["failures"] if name not in self.damaged}
        self.damaged.update(new)
        for name, reason in new.items():
            self._print_failure(name, reason)
        over = len(self.damaged) > LIMIT * self.size
        # Above 100 files the report is written for every hundredth one, as its size grows with their number.
        if over or (new and (len(self.damaged) <= 100 or len(self.damaged) % 100 == 0)):
            self.write()
        if over:
            raise self._too_many()

    def write(self) -> None:
        """Write the JSON file; called at the end of training."""
        if self.path is None:
            return
        content = {
            "root": self.root,
            "photographs": self.size,
            "limit": LIMIT,
            "samples": self.samples,
            "replaced": self.replaced,
            "small": self.small,
            "archives": [problem._asdict() for problem in self.problems],
            "damaged": [{"file": name, "reason": reason} for name, reason in self._all().items()],
        }
        atomic.replace_bytes(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def _all(self) -> dict[str, str]:
        return self._earlier | self.damaged

    def _print_failure(self, name: str, reason: str) -> None:
        number = len(self._all()) if name not in self._earlier else 0
        if not number or number > NAMED + 1:
            return
        text = f"damaged file skipped: {name} ({reason})"
        if number > NAMED:
            text = f"more damaged files: see {self.path or 'the batches'}"
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _too_many(self) -> DataError:
        first = [f"{name}: {reason}" for name, reason in list(self.damaged.items())[:5]]
        listed = f"; {self.path} lists all of them" if self.path else ""
        return DataError(
            f"Too many damaged photographs in {self.root}.",
            expected=f"at most {LIMIT:.0%} of {self.size}, which is {int(LIMIT * self.size)}",
            got="\n".join([f"{len(self.damaged)}, including", *first]),
            to_do=f"download the data set again, or remove these files{listed}",
        )


def _read(path: Path | None) -> dict[str, str]:
    """Return the damaged files of an earlier start of the same run."""
    if path is None or not path.exists():
        return {}
    try:
        return {str(entry["file"]): str(entry["reason"]) for entry in read_json(path)["damaged"]}
    except (Unreadable, KeyError, TypeError):  # another file or another version: start a new report
        return {}
