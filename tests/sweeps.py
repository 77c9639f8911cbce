"""Sweeps of fake runs, in this process: what the tests of plan, launchers and table share."""

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
    """While the block runs, wait for the condition beside it, then act; if it never holds, do nothing."""
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
    """The sweep ``typed`` under ``root``, trained by fake_train.py.

    Args:
        root: holds the run directories lambda_<value> and the sweep's own.
        launcher: conf/launcher as plain values.
    """

    def __init__(self, root: Path, launcher: dict[str, Any] = LOCAL) -> None:
        self.root = root
        hydra = {"sweep": {"dir": str(root / "sweeps")}, "sweeper": {"_target_": "hydra.basic_sweeper"}}
        self.config = OmegaConf.create({"launcher": launcher, "hydra": hydra})
        self.code: object = None

    def run(self, *jobs: str) -> dict[str, str]:
        """Train; every job is written as on the command line. Returns the table: state by run."""
        sweep = Sweep(self.config)
        try:
            sweep.launch([[*job.split(), f"output={self.root}/runs/lambda_${{lambda}}", "steps=10"] for job in jobs])
            self.code = 0
        except SystemExit as error:
            self.code = error.code
        return {Path(row["directory"]).name: row["state"] for row in self.table()["runs"]}

    def table(self) -> dict[str, Any]:
        """The JSON of the one sweep that was run."""
        (path,) = (self.root / "sweeps").glob("*.json")
        return json.loads(path.read_text())

    def events(self) -> list[dict[str, Any]]:
        """What the runs did, in order."""
        path = self.root / "runs" / "calls.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def told(self, what: str) -> list[str]:
        """The runs of which that is told, in order."""
        return [event["run"] for event in self.events() if event["what"] == what]
