"""Stops by an error: the last completed step is saved, and the resumed run equals an uninterrupted one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lic_train.errors import TrainingError
from lic_train.runs.checkpoints import newest_intact, step_of
from lic_train.runs.layout import LAST
from lic_train.training.callbacks import Checkpoints, GracefulStop, NonFiniteGuard, WeightAveraging, checkpoints
from tests.tiny_training import At, Tiny, fit

STEPS = 7  # validations after steps 3, 6


class Failing(Callback):
    """Raises ``error`` in the call number ``number`` of a hook."""

    def __init__(self, hook: str, number: int, error: BaseException) -> None:
        self.calls, self.number, self.error = 0, number, error
        setattr(self, hook, self._fail)

    def _fail(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.number:
            raise self.error


@pytest.fixture(autouse=True)
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "save_model", lambda *_: None)


def run(directory: Path, accumulate: int, first: Callback | None = None) -> Tiny:
    """Train with averaging and no checkpoint before the end, from the newest checkpoint on."""
    module, own = Tiny(), [Checkpoints(directory, every=100), WeightAveraging(0.9), GracefulStop()]
    callbacks = [first, *own] if first else own
    resume = newest_intact(directory)
    fit(module, callbacks, STEPS, resume, accumulate_grad_batches=accumulate, val_check_interval=3 * accumulate)
    return module


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("hook", "step", "validates"),  # the failing hook, the last completed step, whether its validation is repeated
    [
        ("on_train_batch_start", 3, False),  # a lost data folder
        ("on_after_backward", 4, False),  # a loss that is not finite
        ("on_train_batch_end", 3, True),  # a full disk: the row of metrics.csv
        ("on_validation_batch_start", 3, True),
    ],
)
def test_error_saves_the_last_step_and_the_rest_is_bit_equal(
    tmp_path: Path, hook: str, step: int, validates: bool, accumulate: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path / "whole", accumulate)
    number = {"on_train_batch_end": step * accumulate, "on_validation_batch_start": 1}
    second_of_next_step = step * accumulate + min(accumulate, 2)
    failing = Failing(hook, number.get(hook, second_of_next_step), OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        run(tmp_path / "parts", accumulate, failing)
    saved = newest_intact(tmp_path / "parts")
    assert saved is not None
    assert step_of(saved) == step
    assert f"Saved step {step}" in capsys.readouterr().out
    assert (tmp_path / "parts" / LAST).samefile(saved)

    rest = run(tmp_path / "parts", accumulate)
    assert rest.seen == whole.seen[step * accumulate :]
    assert rest.validated == [row for row in whole.validated if row[0] > step or (validates and row[0] == step)]
    first, second = (
        torch.load(tmp_path / part / f"step_{STEPS:08d}.ckpt", weights_only=True) for part in ("whole", "parts")
    )
    for key in ("state_dict", "weight_averaging"):
        assert all(torch.equal(first[key][name], second[key][name]) for name in first[key])


def test_error_within_the_optimizer_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("half of the weights are changed")

    def arm(*_: object) -> None:
        monkeypatch.setattr(sys.modules["torch.optim.adam"], "adam", fail)  # torch.optim.adam is also a function

    with pytest.raises(RuntimeError, match="half of the weights"):
        run(tmp_path, 1, At(3, arm))
    assert newest_intact(tmp_path) is None


def test_unfinished_last_validation_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_stops.STEPS", 6)
    with pytest.raises(OSError, match="gone"):
        run(tmp_path, 1, Failing("on_validation_batch_start", 2, OSError("gone")))
    assert run(tmp_path, 1).validated[-1][0] == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_abort_saves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, 1, Failing("on_after_backward", 3, error))
    assert newest_intact(tmp_path) is None


def test_full_disk_reports_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def arm(*_: object) -> None:
        monkeypatch.setattr(checkpoints.atomic, "replace", full)
        raise OSError("the first error")

    with pytest.raises(OSError, match="the first error"):
        run(tmp_path, 1, At(3, arm))
    assert "step 3 could not be saved" in capsys.readouterr().err


# --- advice of the guard ---------------------------------------------------------------------------------------------


class Diverging(Tiny):
    """The loss of one step is not finite."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.bad = step

    def loss(self, batch: dict[str, object]) -> torch.Tensor:
        loss = super().loss(batch)
        return loss * torch.nan if self.training and self.global_step == self.bad else loss


@pytest.mark.parametrize("step", [0, 2])
def test_guard_recommends_a_checkpoint_only_if_it_exists(tmp_path: Path, step: int) -> None:
    callbacks = [NonFiniteGuard(tmp_path), Checkpoints(tmp_path / "checkpoints", every=100)]
    with pytest.raises(TrainingError) as stopped:
        fit(Diverging(step), callbacks, 5)
    recommended = f"init_from={tmp_path / 'checkpoints' / LAST}"
    assert (recommended in stopped.value.to_do) == (step > 0)
    assert (tmp_path / "checkpoints" / LAST).exists() == (step > 0)
    assert "learning rate" in stopped.value.to_do
