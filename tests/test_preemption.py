"""Kills, scheduler signals and full disks: the same command resumes to bit-equal results."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from lic_train import train
from lic_train.config.compose import compose
from lic_train.config.run import RunConfig, checked
from lic_train.files.checkpoint import read_metadata
from lic_train.runs.checkpoints import newest_intact, step_of
from lic_train.system import atomic
from lic_train.system.interrupts import INTERRUPTED, REQUEUE
from lic_train.training.callbacks.checkpoints import Checkpoints
from tests.small_runs import (
    Forked,
    assert_equal_state,
    column,
    command_line,
    make_photographs,
    overrides,
    rows,
)

EVERY = 3
STEPS = 90


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("data") / "photographs")


def composed(photographs: Path, run: Path, steps: int = STEPS) -> RunConfig:
    model = ("model=bmshj2018_factorized", "model.N=8", "model.M=8", "batch_size=2", "ema=0.9")
    when = (f"steps={steps}", f"checkpoint.every={EVERY}", "validate.every=20", "validate.crops=1")
    return checked(compose(overrides(photographs, run, *model, *when)))


def before_step(action: Callable[[Any], None]) -> None:
    """Call ``action(trainer)`` before every micro-batch, in this process only."""
    original = Checkpoints.on_train_batch_start

    def hooked(self: Callback, trainer: Any, *arguments: Any) -> None:
        action(trainer)
        original(self, trainer, *arguments)

    Checkpoints.on_train_batch_start = hooked  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, float]:
    """An uninterrupted run; CPU seconds until its training begins, and of one step."""
    folder = tmp_path_factory.mktemp("whole")
    config = composed(photographs, folder / "run")

    def measured() -> tuple[float, float]:
        began: list[float] = []
        before_step(lambda trainer: began.append(time.process_time()))
        assert train.train(config) == 0
        return began[0], (began[-1] - began[0]) / (len(began) - 1)

    return folder / "run", *Forked(measured, folder / "log").result()


def train_until(config: RunConfig, seconds: float, steps: int | None, sent: signal.Signals | None) -> int:
    """Train until SIGPROF kills the process or sends ``sent``, after CPU seconds from now or after some steps."""

    def arm(trainer: Any) -> None:
        begun.append(trainer.global_step)
        if trainer.global_step == begun[0] + (steps or 0):
            signal.setitimer(signal.ITIMER_PROF, seconds)

    begun: list[int] = []
    if sent is not None:
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), sent))
    if steps is None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
    else:
        before_step(arm)
    return train.train(config)


def random_moments(start: float, step: float) -> Iterator[tuple[float, int | None, signal.Signals | None]]:
    """Yield thirty kills and six signals: alternately during the start of the run and within its steps."""
    chance = random.Random(5)
    sent: list[signal.Signals | None] = [None] * 30 + [signal.SIGTERM, signal.SIGUSR1] * 3
    chance.shuffle(sent)
    for number, request in enumerate(sent):
        begins = number % 2 == 0
        seconds = max(chance.uniform(0, start if begins else 2 * step), 1e-4)
        yield seconds, None if begins else chance.randrange(5), request


def test_run_with_thirty_random_kills_is_bit_equal(
    photographs: Path, whole: tuple[Path, float, float], tmp_path: Path
) -> None:
    run, config, (reference, start, step) = tmp_path / "run", composed(photographs, tmp_path / "run"), whole
    progress: list[int] = []
    for seconds, steps, request in random_moments(start, step):
        child = Forked(partial(train_until, config, seconds, steps, request), tmp_path / "log")
        ended = {None: (-signal.SIGPROF,), signal.SIGTERM: (INTERRUPTED, -signal.SIGTERM)}
        assert child.wait() in ended.get(request, (REQUEUE, -signal.SIGUSR1)), (tmp_path / "log").read_text()
        newest = newest_intact(run / "checkpoints")
        progress.append(step_of(newest) if newest else 0)
        seen = int(rows(run)[-1]["step"]) if (run / "metrics.csv").exists() and rows(run) else 0
        assert seen - progress[-1] <= EVERY
    assert progress == sorted(progress)
    assert 15 < progress[-1] < STEPS
    assert Forked(lambda: train.train(config), tmp_path / "log").result() == 0
    assert_equal_state(run, reference)
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        assert column(run, name) == column(reference, name)
    best = [read_metadata(path / "checkpoints" / "best.safetensors").fingerprint for path in (run, reference)]
    assert best[0] == best[1]
    assert list(run.rglob(atomic.TEMPORARY)) == []


def test_kill_after_a_checkpoint_loses_no_row(
    photographs: Path, whole: tuple[Path, float, float], tmp_path: Path
) -> None:
    """Lightning's own ``log`` writes a step's row after all callbacks, so the killed run would not have the row."""
    run, config = tmp_path / "run", composed(photographs, tmp_path / "run")

    def kill(self: Checkpoints, step: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def train_until_the_next_checkpoint() -> int:
        Checkpoints._remove_old = kill  # type: ignore[method-assign]
        return train.train(config)

    for saved in (EVERY, 2 * EVERY):
        assert Forked(train_until_the_next_checkpoint, tmp_path / "log").wait() == -signal.SIGKILL
        assert [int(row["step"]) for row in rows(run)] == list(range(1, saved + 1))
    assert Forked(lambda: train.train(config), tmp_path / "log").result() == 0
    for name in ("train/loss", "train/grad_norm", "train/lr", "val/loss"):
        assert column(run, name) == column(whole[0], name)


def wait_for_step(run: Path, number: int, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 300
    while not ((run / "metrics.csv").exists() and any(int(row["step"]) >= number for row in rows(run))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_killed_process_is_resumed_by_another(
    photographs: Path, whole: tuple[Path, float, float], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = composed(photographs, run)
    typed = overrides(
        photographs, run, "model=bmshj2018_factorized", "model.N=8", "model.M=8", "batch_size=2", "ema=0.9",
        f"steps={STEPS}", f"checkpoint.every={EVERY}", "validate.every=20", "validate.crops=1",
    )  # fmt: skip
    process = subprocess.Popen(
        command_line(typed), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(run, 5, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    seen = int(rows(run)[-1]["step"])
    assert 0 < step_of(newest_intact(run / "checkpoints") or Path()) >= seen - EVERY
    assert Forked(lambda: train.train(config), tmp_path / "log").result() == 0
    assert_equal_state(run, whole[0])


@pytest.mark.parametrize("full", ["checkpoint", "metrics"])
def test_run_resumes_after_a_full_disk(
    photographs: Path, whole: tuple[Path, float, float], tmp_path: Path, full: str
) -> None:
    """Writes beyond a file size limit fail, as on a full disk, from the fifth step on."""
    run, config = tmp_path / "run", composed(photographs, tmp_path / "run")
    size = (whole[0] / "checkpoints" / "last.ckpt").stat().st_size
    limit = {"checkpoint": size // 2, "metrics": 1}[full]

    def fill_up(trainer: Any) -> None:
        if trainer.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def train_on_a_small_disk() -> int:
        before_step(fill_up)
        return train.train(config)

    read, write = os.pipe()  # the limit must not apply to the child's output
    child = Forked(train_on_a_small_disk, Path(f"/dev/fd/{write}"))
    os.close(write)
    assert child.wait() == 2
    printed = os.read(read, 10**6).decode()
    os.close(read)
    assert "could not be written" in printed
    assert "same command" in printed
    assert "Traceback" not in printed
    assert step_of(newest_intact(run / "checkpoints") or Path()) == EVERY
    assert Forked(lambda: train.train(config), tmp_path / "log").result() == 0
    assert_equal_state(run, whole[0])
