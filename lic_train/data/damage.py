"""What was wrong with the data: each damaged file named once, counted, and a limit on how many there may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich
from rich.console import Console

from lic_train.data.archives.index import Problem
from lic_train.data.stream.loader import Batch
from lic_train.errors import DataError
from lic_train.system import atomic

LIMIT = 0.05  # share of the data set that may be damaged
NAMED = 20  # files that are named on the screen


class DataReport:
    """Collects the failures that travel in the batches, prints each file once, and keeps ``data_report.json``.

    A file that stands in the report of an earlier start of the run is not printed again and stays in the report, but
    counts towards the limit only when it is met again: it may have been mended in between. The counts of samples are
    those of this start.

    Args:
        path: of the JSON file; null to keep none.
        root: where the data set lies, for messages.
        size: photographs in it.
        console: where to print; rich's global one by default, so that a live progress bar stays whole.
        problems: what is wrong with its archives; told at once.
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
            self._say(f"left out: {problem.file} ({problem.reason})")
        if problems:
            self._say(f"{len(problems)} problems of the archives in all: see {self.path or 'above'}")
            self.write()

    def add(self, batch: Batch) -> None:
        """Take note of one batch.

        Raises:
            DataError: more than LIMIT of the data set is damaged.
        """
        self.samples += len(batch["x"])
        self.replaced += len(batch["failures"])
        self.small += batch["small"]
        new = {name: reason for name, reason in batch["failures"] if name not in self.damaged}
        self.damaged.update(new)
        for name, reason in new.items():
            self._tell(name, reason)
        over = len(self.damaged) > LIMIT * self.size
        if over or (new and (len(self.damaged) <= 100 or len(self.damaged) % 100 == 0)):  # no rewriting without end
            self.write()
        if over:
            raise DataError(self._too_many())

    def write(self) -> None:
        """Write the JSON file; a training run calls this when it ends."""
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

    def _tell(self, name: str, reason: str) -> None:
        number = len(self._all()) if name not in self._earlier else 0
        if not number or number > NAMED + 1:
            return
        text = f"damaged, left out: {name} ({reason})"
        if number > NAMED:
            text = f"more damaged files: see {self.path or 'the batches'}"
        self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _too_many(self) -> str:
        first = [f"    {name}: {reason}" for name, reason in list(self.damaged.items())[:5]]
        return "\n".join(
            [
                f"too many damaged photographs in {self.root}.",
                f"  expected  at most {LIMIT:.0%} of {self.size}, that is {int(LIMIT * self.size)}",
                f"  got       {len(self.damaged)}, among them",
                *first,
                "  to do     fetch the data set again, or remove these files"
                + (f"; all are listed in {self.path}" if self.path else ""),
            ]
        )


def _read(path: Path | None) -> dict[str, str]:
    """Damaged files of an earlier start of the same run."""
    if path is None or not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return {entry["file"]: entry["reason"] for entry in content["damaged"]}
    except (ValueError, KeyError, TypeError):  # not ours, or of another version: start anew
        return {}
