"""Short runs in this process, in forked processes, or as a real ``python train.py``."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train import train
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import LicError
from lic_train.evaluate import run as evaluation
from lic_train.training import environment
from lic_train.training.callbacks import pictures
from lic_train.training.callbacks.interrupt import GracefulStop
from tests.conftest import ROOT

FORK = multiprocessing.get_context("fork")


def make_photographs(folder: Path, count: int = 9, side: int = 70) -> Path:
    """Write small smooth pictures; of nine, `overrides` uses three for validation."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side + 10 + index, side), Image.Resampling.BICUBIC).save(
            folder / f"{index}.png"
        )
    return folder


def overrides(photographs: Path, output: Path, *more: str) -> list[str]:
    """Return the overrides of a run of six steps of four crops; later overrides win."""
    given = [
        "model=mbt2018_mean", "model.N=8", "model.M=12", "data=folder", f"data.root={photographs}",
        "data.source.val_ratio=0.4", "data.num_workers=0", "steps=6", "batch_size=4", "crop=64", "precision=32",
        "logger=csv", "validate.every=3", "validate.bitstreams=0", "checkpoint.every=2", "trainer.accelerator=cpu",
        "trainer.log_every=1", "eval.limit=1", f"output={output}",
    ]  # fmt: skip
    return list({text.partition("=")[0]: text for text in [*given, *more]}.values())


def run_here(command: Sequence[str]) -> int:
    """Run ``train.py`` with these overrides in this process; return the exit code."""
    return train.train(checked(compose(command)))


def command_line(command: Sequence[str]) -> list[str]:
    """Return the command of ``train.py`` with these overrides, for a separate process."""
    return [sys.executable, str(ROOT / "train.py"), *command]


def without_drawing() -> None:
    """Replace the slowest parts of a small run: panels of pictures, and the list of all packages."""
    pictures.panel = evaluation.panel = lambda path, *_, **__: Image.new("RGB", (4, 4)).save(path)
    environment._packages = dict


class Forked:
    """A forked child that calls ``function``; ``result`` waits for its value, or fails with the child's output."""

    def __init__(self, function: Callable[[], Any], log: Path, variables: dict[str, str] | None = None) -> None:
        self.log = log
        self._receiver, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self._main, args=(function, sender, variables or {}))
        self.process.start()
        sender.close()

    def _main(self, function: Callable[[], Any], sender: Any, variables: dict[str, str]) -> None:
        os.environ |= variables
        sys.stdout = sys.stderr = self.log.open("a", buffering=1)
        torch.set_num_threads(1)  # OpenMP threads do not survive a fork: a second thread would never answer
        without_drawing()
        code = 0
        try:
            sender.send(function())
        except LicError as error:
            print(error, flush=True)
            code = error.exit_code
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal if the child is still running."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)

    def result(self) -> Any:
        """Return the value of the function."""
        value = None
        with contextlib.suppress(EOFError):  # the function raised an error
            value = self._receiver.recv() if self._receiver.poll(300) else None
        assert self.wait() == 0, self.log.read_text()
        return value


def in_ranks(function: Callable[[], Any], folder: Path, world: int = 2) -> list[Forked]:
    """Call ``function`` in the processes of one distributed job, all of which this process starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        Forked(function, folder / f"rank_{rank}.txt", {"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)})
        for rank in range(world)
    ]


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Request a stop of a run in this process, as Ctrl-C does, during ``step``."""
    original = GracefulStop.on_train_batch_start

    def request(self: GracefulStop, trainer: Any, *arguments: Any) -> None:
        self.requested = signal.SIGINT if trainer.global_step == step else self.requested
        original(self, trainer, *arguments)

    monkeypatch.setattr(GracefulStop, "on_train_batch_start", request)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the state_dict in last.ckpt."""
    return last_checkpoint(run)["state_dict"]


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv."""
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    """Return the values of one metric, in the order of steps."""
    return [float(row[name]) for row in rows(run) if row[name]]


def last_checkpoint(run: Path) -> dict[str, Any]:
    """Return the content of last.ckpt."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_equal_state(a: Path, b: Path) -> None:
    """Assert that weights, averages and the optimizer's moments are bit-equal."""
    first, second = last_checkpoint(a), last_checkpoint(b)
    for key in ("state_dict", "weight_averaging"):
        assert (key in first) == (key in second)
        assert all(torch.equal(value, second[key][name]) for name, value in first.get(key, {}).items())
    moments = [found["optimizer_states"][0]["state"] for found in (first, second)]
    assert moments[0].keys() == moments[1].keys()
    for index, state in moments[0].items():
        assert all(torch.equal(value, moments[1][index][name]) for name, value in state.items())
