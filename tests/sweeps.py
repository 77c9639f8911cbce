"""Sweeps of fake runs in this process, shared by the tests of plan, launchers and table."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lic_train.launch.sweep import Sweep

FAKE_TRAIN = (str(Path(__file__).resolve().parent / "fake_train.py"),)
LOCAL = {"_target_": "lic_train.launch.local.Local"}


@contextmanager
def once(condition: Callable[[], bool], action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` in another thread as soon as the condition holds; do nothing if the block ends before that."""
    over = threading.Event()

    def watch() -> None:
        while not condition():
            if over.wait(0.02):
                return
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class FakeSweep:
    """A sweep under ``root`` whose runs are fake_train.py.

    Args:
        root: folder for the run directories lambda_<value> and the sweep's own directory.
        launcher: conf/launcher as plain values.
    """

    def __init__(self, root: Path, launcher: dict[str, Any] = LOCAL) -> None:
        self.root = root
        hydra = {"sweep": {"dir": str(root / "sweeps")}, "sweeper": {"_target_": "hydra.basic_sweeper"}}
        self.config = OmegaConf.create({"launcher": launcher, "hydra": hydra})
        self.code: object = None

    def run(self, *jobs: str) -> dict[str, str]:
        """Train jobs written as on the command line; return the state of each run in the table."""
        sweep = Sweep(self.config)
        try:
            sweep.launch([[*job.split(), f"output={self.root}/runs/lambda_${{lambda}}", "steps=10"] for job in jobs])
            self.code = 0
        except SystemExit as error:
            self.code = error.code
        return {Path(row["directory"]).name: row["state"] for row in self.table()["runs"]}

    def table(self) -> dict[str, Any]:
        """Return the JSON of the only sweep that was run."""
        (path,) = (self.root / "sweeps").glob("*.json")
        return json.loads(path.read_text())

    def events(self) -> list[dict[str, Any]]:
        """Return the events of all runs in order."""
        path = self.root / "runs" / "calls.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def runs_with(self, what: str) -> list[str]:
        """Return the names of the runs with such an event, in order."""
        return [event["run"] for event in self.events() if event["what"] == what]
