"""train.py as a whole: the same command is the same run, also after a stop; invalid commands change nothing."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lic_train import train
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import CheckpointError, ConfigError, DataError, TrainingError
from lic_train.recipes import losses
from lic_train.training.callbacks.interrupt import Interrupted
from tests.conftest import ROOT
from tests.small_runs import make_photographs, stop_at, weights


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Seven small pictures: an epoch ends inside a batch."""
    return make_photographs(tmp_path / "photographs", 7)


@pytest.fixture
def run(tmp_path, photographs):
    """A function (directory name, *overrides) -> exit code of a run of six steps on the photographs."""

    def start(name: str, *overrides: str) -> int:
        command = [
            "model=mbt2018_mean", "model.N=8", "model.M=12", "data=folder", f"data.root={photographs}",
            "data.source.cache=null", "data.source.val_ratio=0.3", "data.num_workers=0", "steps=6", "batch_size=2",
            "crop=64", "precision=32", "logger=csv", "validate.every=4", "validate.bitstreams=1", "checkpoint.every=2",
            "trainer.accelerator=cpu", "trainer.log_every=1", f"output={tmp_path / name}",
        ]  # fmt: skip
        return train.train(checked(compose([*command, *overrides])))

    return start


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_run_writes_the_documented_files(run, tmp_path):
    assert run("a") == 0
    written = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert written >= {
        ".hydra/config.yaml", ".hydra/overrides.yaml", "environment.json", "metrics.csv", "checkpoints/last.ckpt",
        "checkpoints/step_00000006.ckpt", "checkpoints/best.safetensors", "eval/heldout.json", "data_report.json",
        "card.md",
    }  # fmt: skip
    assert "## heldout: points" in (tmp_path / "a" / "card.md").read_text(encoding="utf-8")
    result = json.loads((tmp_path / "a" / "eval" / "heldout.json").read_text())
    for row in result["rows"]:
        file = tmp_path / "a" / "eval" / "heldout" / f"{Path(row['name']).stem}.lic"
        assert row["bytes"] == file.stat().st_size
        assert row["bpp_file"] == pytest.approx(8 * row["bytes"] / (row["width"] * row["height"]))
        assert row["equal"]
    rows = list(csv.DictReader((tmp_path / "a" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(float(row["train/loss"]) > 0 for row in rows)
    assert [bool(row["val/bpp_gap"]) for row in rows] == [False, False, False, True, False, True]


def test_finished_run_is_not_repeated(run, tmp_path, capsys):
    run("a")
    before = (tmp_path / "a" / "checkpoints" / "last.ckpt").read_bytes()
    capsys.readouterr()
    assert run("a") == 0
    assert "finished" in capsys.readouterr().out
    assert (tmp_path / "a" / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    ("step", "workers", "more"),
    [(3, 0, []), (4, 2, []), (1, 0, ["accumulate=2"]), (3, 0, ["ema=0.9"])],
    ids=["mid_epoch", "other_worker_count", "accumulation", "averaged_weights"],
)
def test_stopped_and_resumed_run_has_bit_equal_weights(run, tmp_path, monkeypatch, step, workers, more):
    run("whole", *more)
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(Interrupted, match=f"after step {step + 1}"):
            run("parts", *more)
    assert run("parts", f"data.num_workers={workers}", *more) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    first, second = (list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("whole", "parts"))
    assert [row["train/loss"] for row in first] == [row["train/loss"] for row in second]
    assert [row["val/loss"] for row in first] == [row["val/loss"] for row in second]


def test_killed_run_resumes_from_its_last_checkpoint(run, tmp_path, monkeypatch):
    run("whole")

    def die(self, *_):
        raise RuntimeError("the machine went away")

    with monkeypatch.context() as patch:
        patch.setattr("lic_train.training.callbacks.guard.NonFiniteGuard.on_after_backward", _after(5, die))
        with pytest.raises(RuntimeError, match="went away"):
            run("parts")
    assert run("parts") == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_longer_budget_continues_a_finished_run_on_moved_photographs(run, tmp_path, photographs, capsys):
    run("a")
    before = (tmp_path / "a" / "metrics.csv").read_text().splitlines()
    photographs.rename(tmp_path / "elsewhere")
    longer = ["steps=8", f"data.root={tmp_path / 'elsewhere'}", "validate.every=3"]
    with pytest.raises(ConfigError, match="extend=true"):
        run("a", *longer)
    assert run("a", *longer, "extend=true") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "to step 8 instead of 6" in shown
    assert f"the same, now in {tmp_path / 'elsewhere'}" in shown
    assert (tmp_path / "a" / "metrics.csv").read_text().splitlines()[: len(before)] == before
    last = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()} == {8}
    (tmp_path / "elsewhere" / "new.png").write_bytes(next((tmp_path / "elsewhere").iterdir()).read_bytes())
    with pytest.raises(DataError, match="other photographs"):
        run("a", *longer, "steps=9", "extend=true")
    stored = (tmp_path / "a" / ".hydra" / "config.yaml").read_text()
    assert "\nsteps: 8\n" in stored  # the refused command changed nothing


def _after(calls: int, action):
    count = iter(range(calls))
    return lambda *arguments: None if next(count, None) is not None else action(*arguments)


def test_damaged_last_checkpoint_is_skipped(run, tmp_path, monkeypatch, capsys):
    run("whole")
    stop_at(4, monkeypatch)
    with pytest.raises(Interrupted):
        run("parts", "checkpoint.keep=3")
    monkeypatch.undo()
    newest = tmp_path / "parts" / "checkpoints" / "step_00000005.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert run("parts") == 0
    assert "step_00000005.ckpt" in capsys.readouterr().out
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_another_configuration_in_the_same_directory_raises(run, tmp_path):
    run("a")
    with pytest.raises(ConfigError) as refusal:
        run("a", "lambda=0.05")
    assert all(word in str(refusal.value) for word in ("lambda", "0.0067", "0.05", "name=", "fresh=true"))
    assert run("a", "lambda=0.05", "fresh=true") == 0
    assert (tmp_path / "a.old-1" / "checkpoints" / "last.ckpt").exists()


def test_non_finite_loss_raises_and_saves_the_batch(run, tmp_path, monkeypatch):
    monkeypatch.setitem(losses.TERMS, "mse", lambda out, x: out["x_hat"].mean() * float("nan"))
    with pytest.raises(TrainingError, match="failing_batch"):
        run("a")
    assert (tmp_path / "a" / "failing_batch" / "batch.safetensors").exists()


def test_too_many_damaged_photographs_raise_and_are_reported(run, tmp_path, photographs):
    (photographs / "6.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="5%"):
        run("a")
    assert json.loads((tmp_path / "a" / "data_report.json").read_text())


def test_weights_can_start_from_another_run(run, tmp_path):
    run("donor")
    assert run("heir", f"init_from={tmp_path / 'donor'}", "steps=1", "validate.bitstreams=0") == 0
    with pytest.raises(ConfigError, match="init_from"):
        run("other", f"init_from={tmp_path / 'donor'}", "model.N=16")
    with pytest.raises(CheckpointError):
        run("none", f"init_from={tmp_path / 'nothing'}")


def test_unwritable_directory_raises(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="output="):
        run("file")


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def test_command_line_reports_errors_without_a_traceback(tmp_path):
    result = subprocess.run(
        command("lambda=-1", f"output={tmp_path / 'a'}"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "lambda: expected a number above 0" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert not (tmp_path / "a").exists()


def test_ctrl_c_saves_a_checkpoint(tmp_path, photographs):
    arguments = command(
        "model=bmshj2018_factorized", "model.N=8", "model.M=8", "data=folder", f"data.root={photographs}", "logger=csv",
        "data.source.val_ratio=0.3", "steps=4000", "batch_size=1", "crop=64", "validate.bitstreams=0", "precision=32",
        "trainer.accelerator=cpu", f"output={tmp_path / 'a'}",
    )  # fmt: skip
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "same command" in printed
    assert (tmp_path / "a" / "checkpoints" / "last.ckpt").exists()
    assert "Traceback" not in printed
