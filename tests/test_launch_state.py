"""State and cost read from a run directory; damaged files are ignored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch import Callback, Trainer

from lic_train.files.checkpoint import save_model
from lic_train.runs.state import RunState, read_state, validation_loss
from lic_train.runs.training_log import TAIL_BYTES
from lic_train.training.callbacks import Checkpoints
from lic_train.training.callbacks.hours import DeviceHours
from lic_train.training.loggers import CsvLogger
from tests.tiny import FACTORIZED, make_codec, make_run
from tests.tiny_training import Tiny, fit


def test_state_without_a_run(tmp_path):
    assert read_state(tmp_path / "none") == RunState(0, False, None, None, None, None)
    assert validation_loss(tmp_path / "none") is None


def test_state_of_running_run_is_the_last_row_of_metrics(tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    logger.log_metrics({"train/loss": 2.0, "train/gpu_hours": 0.5}, step=10)
    logger.log_metrics({"val/loss": 1.0}, step=20)
    assert read_state(tmp_path) == RunState(20, False, 0.5, "gpu", None, None)


def test_incomplete_row_of_long_file_is_ignored(tmp_path):
    rows = "".join(f"{step},{step / 100},\n" for step in range(1, TAIL_BYTES // 8))
    (tmp_path / "metrics.csv").write_text(f"step,train/cpu_hours,val/loss\n{rows}99999,9")
    state = read_state(tmp_path)
    assert state.step == TAIL_BYTES // 8 - 1
    assert state.hours == pytest.approx(state.step / 100)


def test_state_of_finished_run(tmp_path):
    results = {"bpp_file": 0.25, "psnr": 31.5, "equal": True}
    (tmp_path / "finished.json").write_text(json.dumps({"step": 7, "results": results}))
    assert read_state(tmp_path) == RunState(7, True, None, None, 0.25, 31.5)


def test_run_with_wrong_decoded_images_is_not_finished(tmp_path):
    (tmp_path / "finished.json").write_text(json.dumps({"step": 7, "results": {"bpp_file": 0.25, "equal": False}}))
    assert not read_state(tmp_path).finished


@pytest.mark.parametrize("name", ["finished.json", "metrics.csv", "checkpoints/best.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"results": 3}', b"\xff\xfe\x00", b"step\n", b"\n\n,,\n"])
def test_damaged_files_are_ignored(tmp_path, name, content):
    path: Path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert read_state(tmp_path) == RunState(0, False, None, None, None, None)
    assert validation_loss(tmp_path) is None


def test_validation_loss_is_read_from_the_best_model(tmp_path):
    make_run(tmp_path)
    assert validation_loss(tmp_path) is None  # exported without one
    save_model(tmp_path / "checkpoints" / "best.safetensors", make_codec(), FACTORIZED, {"step": 4, "val_loss": 0.25})
    assert validation_loss(tmp_path) == 0.25


class Clock:
    """A clock that advances by ten hours at every call."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 36_000
        return self.seconds


class HoursLog(Callback):
    """Records the hours logged at each step."""

    def __init__(self) -> None:
        self.hours: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Tiny, *_: object) -> None:
        self.hours.append(pl_module.step_metrics["train/cpu_hours"])


def test_hours_continue_after_resume(tmp_path):
    def train(steps: int, resume: Path | None = None) -> list[float]:
        log = HoursLog()
        fit(Tiny(), [DeviceHours(Clock()), log, Checkpoints(tmp_path, every=2)], steps, resume)
        return log.hours

    assert train(2) == [10, 20]
    # Saving the checkpoint called the clock once more, at 30; the time until the second start does not count.
    assert train(4, tmp_path / "last.ckpt") == [40, 50]
