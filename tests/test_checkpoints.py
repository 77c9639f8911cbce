"""Checkpoints: atomic writes, checked reads, and bit-equal resumed runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from lic_train.errors import CheckpointError, TrainingError
from lic_train.runs.checkpoints import newest_intact
from lic_train.system.interrupts import Stopped, stopping_on_signals
from lic_train.training.callbacks import (
    AtomicCheckpointIO,
    Checkpoints,
    GracefulStop,
    Interrupted,
    Rows,
    WeightAveraging,
    checkpoints,
)
from lic_train.training.loggers import CsvLogger
from tests.tiny_training import At, Tiny, fit


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """(step, value) of every export of a best model, which is replaced: the tiny module is not a codec."""
    calls: list[tuple[int, float]] = []
    monkeypatch.setattr(
        checkpoints, "save_model", lambda path, model, config, extra: calls.append((extra["step"], extra["val_loss"]))
    )
    return calls


def content(step: int = 1, size: int = 4) -> dict[str, object]:
    return {"state_dict": {"w": torch.full((size,), float(step))}, "global_step": step, "loops": {}}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def interrupt(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


# --- files -----------------------------------------------------------------------------------------------------------


def test_keep_limits_numbered_files_and_last_is_the_newest(tmp_path: Path) -> None:
    fit(Tiny(), [Checkpoints(tmp_path, every=2, keep=2)], steps=7)
    assert names(tmp_path) == ["last.ckpt", "step_00000006.ckpt", "step_00000007.ckpt"]
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "step_00000007.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 7


def test_last_is_a_copy_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    fit(Tiny(), [Checkpoints(tmp_path, every=2, keep=None)], steps=4)
    assert names(tmp_path) == ["last.ckpt", "step_00000002.ckpt", "step_00000004.ckpt"]
    assert not (tmp_path / "last.ckpt").samefile(tmp_path / "step_00000004.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == (tmp_path / "step_00000004.ckpt").read_bytes()


def test_configurations_are_saved_as_plain_containers(tmp_path: Path) -> None:
    fit(Tiny(), [Checkpoints(tmp_path, every=5, run_config={"lambda": 0.01, "data": {"root": None}})], steps=1)
    found = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert found["model_config"] == {"_target_": "tiny", "N": 3}
    assert found["run_config"] == {"lambda": 0.01, "data": {"root": None}}


def test_full_disk_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(step=1), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # larger writes fail, as on a full disk
    try:
        with pytest.raises(TrainingError, match=r"last\.ckpt could not be written"):
            AtomicCheckpointIO().save_checkpoint(content(step=2, size=2**20), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1


def _save_endlessly(directory: Path, states: list[dict[str, object]], sender: object) -> None:
    for state in states:
        AtomicCheckpointIO().save_checkpoint(state, directory / "last.ckpt")
        sender.send(state["global_step"])  # type: ignore[attr-defined]


def test_kill_at_any_moment_leaves_an_intact_checkpoint(tmp_path: Path) -> None:
    states = [content(step, size=300_000) for step in range(200)]
    for attempt in range(4):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_save_endlessly, args=(tmp_path, states, sender))
        child.start()
        sender.close()  # so that the failure of the child ends recv()
        confirmed = [receiver.recv() for _ in range(1 + attempt)][-1]
        time.sleep(0.001 * attempt)  # a different phase of the write each time
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        assert newest_intact(tmp_path) == tmp_path / "last.ckpt"
        found = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
        assert found["global_step"] >= confirmed
        assert found["state_dict"]["w"].eq(found["global_step"]).all()


# --- reading ---------------------------------------------------------------------------------------------------------


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "other", "bomb", "missing"])
def test_damaged_checkpoint_raises_one_typed_error(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step_00000005.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(size=10_000), path)
    data = path.read_bytes()
    middle = len(data) // 2
    contents = {
        "empty": b"",
        "cut": data[:-1],
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "foreign": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "bomb": pickle.dumps(_Bomb()),
    }
    if damage == "other":
        torch.save({"a": 1}, path)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match=r"(?s)step_00000005\.ckpt.*expected: .*got: .*to do: "):
        AtomicCheckpointIO().load_checkpoint(path)
    assert not Path("exploded").exists()


def test_code_inside_an_intact_archive_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**content(), "bomb": _Bomb()}, "last.ckpt")
    with pytest.raises(CheckpointError):
        AtomicCheckpointIO().load_checkpoint("last.ckpt")
    assert not Path("exploded").exists()


def test_damaged_checkpoints_are_named_once_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 10):
        AtomicCheckpointIO().save_checkpoint(content(step), tmp_path / f"step_{step:08d}.ckpt")
    for step in (2, 10):
        path = tmp_path / f"step_{step:08d}.ckpt"
        path.write_bytes(path.read_bytes()[:100])
    assert newest_intact(tmp_path) == tmp_path / "step_00000001.ckpt"
    lines = capsys.readouterr().out.splitlines()
    assert ["step_00000010" in lines[0], "step_00000002" in lines[1], len(lines)] == [True, True, 2]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_intact(tmp_path / "nothing") is None


# --- the best model --------------------------------------------------------------------------------------------------


def test_best_is_the_lowest_also_after_a_resume(tmp_path: Path, exported: list[tuple[int, float]]) -> None:
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5, 5: float("nan"), 6: 0.5}
    fit(Tiny(losses), [Checkpoints(tmp_path, every=1)], steps=3, val_check_interval=1)
    assert exported == [(1, 3.0), (2, 1.0)]
    again = Checkpoints(tmp_path, every=1)
    fit(Tiny(losses), [again], steps=6, resume=newest_intact(tmp_path), val_check_interval=1)
    assert exported == [(1, 3.0), (2, 1.0), (6, 0.5)]
    assert (again.best_value, again.best_step) == (0.5, 6)


def test_checkpoint_contains_the_validation_of_its_step(tmp_path: Path, exported: list[tuple[int, float]]) -> None:
    losses = {3: 1.0, 6: 2.0}

    def crash(*_: object) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fit(Tiny(losses), [At(4, crash), Checkpoints(tmp_path, every=3)], steps=6, val_check_interval=3)
    rest = Tiny(losses)
    fit(rest, [Checkpoints(tmp_path, every=3)], steps=6, resume=newest_intact(tmp_path), val_check_interval=3)
    assert [step for step, _ in rest.validated] == [6]
    assert exported == [(3, 1.0)]


# --- stopping and resuming -------------------------------------------------------------------------------------------


def run(directory: Path, steps: int, accumulate: int, resume: bool = False, stop_at: int | None = None) -> Tiny:
    """Train with averaging and a validation every third step; ``stop_at`` is the micro-batch of the signal."""
    module = Tiny()
    callbacks = [Checkpoints(directory, every=4), WeightAveraging(0.9), GracefulStop()]
    if stop_at is not None:
        callbacks.insert(0, At(stop_at, interrupt))
    fit(
        module,
        callbacks,
        steps,
        resume=newest_intact(directory) if resume else None,
        accumulate_grad_batches=accumulate,
        val_check_interval=3 * accumulate,
    )
    return module


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("step", [2, 3, 4])  # nothing else is due; a validation; a checkpoint
def test_interrupted_and_resumed_run_is_bit_equal(tmp_path: Path, accumulate: int, step: int) -> None:
    whole = run(tmp_path / "whole", 8, accumulate)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path / "parts", 8, accumulate, stop_at=(step - 1) * accumulate)
    assert stopped.value.step == step
    assert stopped.value.checkpoint == tmp_path / "parts" / f"step_{step:08d}.ckpt"
    assert f"step {step}" in str(stopped.value)
    assert "same command" in str(stopped.value)
    rest = run(tmp_path / "parts", 8, accumulate, resume=True)

    assert rest.seen == whole.seen[step * accumulate :]
    assert rest.validated == [row for row in whole.validated if row[0] > step]
    first, second = (
        torch.load(tmp_path / part / "step_00000008.ckpt", weights_only=True) for part in ("whole", "parts")
    )
    for key in ("state_dict", "weight_averaging"):
        assert all(torch.equal(first[key][name], second[key][name]) for name in first[key])
    states = [found["optimizer_states"][0]["state"] for found in (first, second)]
    assert all(torch.equal(states[0][i][name], states[1][i][name]) for i in states[0] for name in states[0][i])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGUSR1, 75)])
def test_exit_code_of_every_signal_also_if_repeated(tmp_path: Path, number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    times = 1 if number == signal.SIGINT else 2

    def send(*_: object) -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=number.name) as stopped:
        fit(Tiny(), [At(1, send), Checkpoints(tmp_path, 100), GracefulStop()], steps=9)
    assert stopped.value.exit_code == code
    assert names(tmp_path) == ["last.ckpt", "step_00000002.ckpt"]
    assert signal.getsignal(number) is before


def signalled_while_reading(number: signal.Signals) -> None:
    with stopping_on_signals(), contextlib.suppress(Exception):  # a file reader that catches every error
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGUSR1, 75)])
def test_signal_outside_of_the_training_ends_the_program(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as ended:
        signalled_while_reading(number)
    assert (ended.value.code, ended.value.name) == (code, number.name)
    assert signal.getsignal(number) is before


def test_signal_in_the_last_step_raises(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(Tiny(), [At(2, interrupt), Checkpoints(tmp_path, 100), GracefulStop()], steps=3)


def test_second_ctrl_c_aborts_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    module = Tiny()
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(module, [At(1, lambda *_: [interrupt(), interrupt()]), Checkpoints(tmp_path, 100), GracefulStop()], 9)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert module.seen == [0, 1]
    assert names(tmp_path) == []


def test_rows_are_flushed_before_their_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recording(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        if name == "metrics.csv":
            name = "row " + (tmp_path / name).read_text().splitlines()[-1].split(",")[0]
        synced.append(name.partition(".ckpt")[0])
        fsync(handle)

    logger = CsvLogger(tmp_path / "metrics.csv")
    callbacks = [Rows(), At(0, lambda *_: monkeypatch.setattr(os, "fsync", recording)), Checkpoints(tmp_path / "c", 2)]
    fit(Tiny(), callbacks, steps=4, logger=logger, log_every_n_steps=1)
    assert [name for name in synced if name.startswith(("row", ".step"))] == [
        "row 2", ".step_00000002", "row 4", ".step_00000004",
    ]  # fmt: skip


def test_saved_step_has_its_row(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    with pytest.raises(Interrupted):
        fit(
            Tiny(),
            [At(1, interrupt), Rows(), Checkpoints(tmp_path / "c", 100), GracefulStop()],
            steps=9,
            logger=logger,
            log_every_n_steps=1,
        )
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 2
