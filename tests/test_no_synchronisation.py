"""A training step never waits for the device: reads of its tensors, counted over the whole path of train.py."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.data.stream.loader import CropLoader
from lic_train.models.base import build
from lic_train.training import setup
from lic_train.training.callbacks import ProgressBar
from lic_train.training.module import LitCodec
from tests.conftest import SMALL, small_config
from tests.small_runs import in_ranks, make_photographs, overrides
from tests.test_golden_losses import train_only

# On a GPU, reading a value waits for the device, and so does a tensor from Python numbers (`torch.tensor` copies from
# memory that is not pinned) and a result whose size depends on values.
WAITING = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "_unique2", "equal")
# The dispatcher does not see these on a CPU.
METHODS = ("cpu", "numpy", "tolist", "__array__")
EVERY = 10
OURS = "/lic_train/"


class Reads(TorchDispatchMode):
    """Records operations that wait for a GPU, by step. The backward pass of a CPU runs in the thread of its caller."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0  # number of the step, from 1; 0: not counted
        self.found: list[tuple[int, str]] = []
        self.due: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.note(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def note(self, name: str) -> None:
        if self.step and name in (*WAITING, *METHODS):
            stack = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
            self.found.append((self.step, f"{name} in {next((at for at in stack[::-1] if OURS in at), stack[-3])}"))

    def outside_of_due_steps(self) -> list[tuple[int, str]]:
        return [(step, name) for step, name in self.found if step not in self.due]


class Counter(Callback):
    """Sets the step of ``reads``. It is the first callback."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.reads.step = trainer.global_step + 1

    def on_fit_end(self, *_: Any) -> None:
        self.reads.step = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Reads of a run in this process; due are the last step, and those that draw the bar or write a row."""
    reads = Reads()

    def noted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            reads.note(name)
            return original(tensor, *arguments, **options)

        return method

    for name in METHODS:
        monkeypatch.setattr(Tensor, name, noted(name, getattr(Tensor, name)))
    following, show, make_trainer = CropLoader._next, ProgressBar._show, setup.make_trainer

    def next_batch(loader: CropLoader, batches: Any) -> Any:
        step, reads.step = reads.step, 0  # decoding in this process, without workers, is not part of the step
        batch = following(loader, batches)
        reads.step = step
        return batch

    def shown(bar: ProgressBar, trainer: Trainer) -> None:
        reads.due.add(reads.step)
        show(bar, trainer)

    def counted(*arguments: Any) -> Trainer:
        trainer = make_trainer(*arguments)
        trainer.callbacks.insert(0, Counter(reads))  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr(CropLoader, "_next", next_batch)
    monkeypatch.setattr(ProgressBar, "_show", shown)
    monkeypatch.setattr(setup, "make_trainer", counted)
    return reads


def train(reads: Reads, folder: Path, steps: int, *more: str) -> Reads:
    """Train a small codec with rows every `EVERY` steps, validations and checkpoints every 50 steps."""
    options = (f"steps={steps}", f"trainer.log_every={EVERY}", "validate.every=50", "checkpoint.every=50")
    command = overrides(
        make_photographs(folder / "photographs"), folder / "run", *options, "batch_size=1", "validate.crops=1", *more
    )
    reads.due = {*range(EVERY, steps + 1, EVERY), steps}
    with reads:
        train_only(checked(compose(command)))
    return reads


def test_no_step_reads_a_value_unless_it_is_shown_or_written(reads: Reads, tmp_path: Path) -> None:
    train(reads, tmp_path, 100)
    assert reads.outside_of_due_steps() == []
    assert {step for step, _ in reads.found} == reads.due  # the recorder works
    assert len(reads.due) < 25


def test_one_read_in_the_training_step_is_found(reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = LitCodec.training_step

    def reading(self: LitCodec, batch: Any, batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        assert loss.item() > 0
        return loss

    monkeypatch.setattr(LitCodec, "training_step", reading)
    train(reads, tmp_path, 8)
    assert {step for step, _ in reads.outside_of_due_steps()} == set(range(1, 9)) - reads.due


@pytest.mark.parametrize("read", ["tolist", "cpu", "numpy", "item", "__bool__", "__float__", "__int__"])
def test_every_kind_of_read_is_found(reads: Reads, read: str) -> None:
    value = torch.ones(())
    with reads:
        reads.step = 1
        getattr(value, read)()
    assert len(reads.found) == 1


def test_averaging_accumulation_and_bf16_read_nothing(reads: Reads, tmp_path: Path) -> None:
    train(reads, tmp_path, 4, "ema=0.9", "batch_size=2", "accumulate=2", "precision=bf16-mixed")
    assert reads.outside_of_due_steps() == []


def test_two_processes_read_nothing(reads: Reads, tmp_path: Path) -> None:
    photographs = make_photographs(tmp_path / "pictures")
    more = (f"data.root={photographs}", "trainer=ddp", "trainer.devices=2", "batch_size=2")

    def found() -> list[tuple[int, str]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_no_synchronisation.make_photographs", lambda _: photographs)
            return train(reads, tmp_path, 4, *more).outside_of_due_steps()

    assert [rank.result() for rank in in_ranks(found, tmp_path)] == [[], []]


@pytest.mark.parametrize("name", SMALL)
def test_no_model_reads_a_value_in_training(name: str) -> None:
    torch.manual_seed(0)
    recipe = checked(compose([f"model={name}"])).make_recipe()
    model, x = build(small_config(name)).train(), torch.rand(1, 3, 64, 64)
    for stage in {(stage.quantizer, *stage.loss): stage for stage in recipe.stages}.values():
        model.use_quantizer(stage.quantizer)
        for _ in range(2):  # tensors that depend on the size of the image only are created in the first step
            with Reads() as reads:
                reads.step = 1
                recipe(model(x), x, stage.start)
                model.aux_loss()
            if not reads.found:
                break
        assert reads.found == []
