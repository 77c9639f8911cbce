"""Run directories: new, resumed, finished, refused and moved-aside runs, and the lock."""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lic_train.errors import ConfigError
from lic_train.runs.claim import ResumeState, claim
from lic_train.runs.same import differences
from lic_train.training.callbacks import AtomicCheckpointIO

CONFIG: dict[str, Any] = {
    "lambda": 0.0067,
    "model": {"_target_": "lic_train.models.cwam.CWAM", "N": 320},
    "recipe": {"stages": [{"name": "all", "lr": 1e-4}], "tags": []},
    "data": {"root": None, "num_workers": "auto"},
    "trainer": {"devices": 1},
    "logger": {"kind": "wandb"},
    "checkpoint": {"every": 1000, "keep": 1},
    "compile": False,
    "fresh": False,
}


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *path, last = key.split(".")
    section = config
    for name in path:
        section = section[name]
    section[last] = value
    return config


def begin(run: Path, config: dict[str, Any] = CONFIG, fresh: bool = False) -> ResumeState:
    """Claim the directory and release it."""
    with claim(run, config, fresh, ["model=cwam"]) as state:
        return state


def add_checkpoint(run: Path, step: int, name: str | None = None) -> Path:
    path = run / "checkpoints" / (name or f"step_{step:08d}.ckpt")
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": step, "loops": {}}, path)
    return path


# --- new, resumed and finished runs -----------------------------------------------------------------------------------


def test_new_run_writes_its_configuration(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "cwam" / "lambda_0.0067"
    state = begin(run)
    assert (state.status, state.checkpoint, state.step) == ("new", None, 0)
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text()) == CONFIG
    assert yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text()) == ["model=cwam"]


def test_written_configuration_is_independent_of_the_directory(tmp_path: Path) -> None:
    begin(tmp_path / "a")
    begin(tmp_path / "b")
    first, second = (tmp_path / name / ".hydra" / "config.yaml" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_same_configuration_resumes_from_the_newest_intact_checkpoint(tmp_path: Path) -> None:
    begin(tmp_path)
    add_checkpoint(tmp_path, 1000)
    newest = add_checkpoint(tmp_path, 2000)
    state = begin(tmp_path)
    assert (state.status, state.checkpoint, state.step) == ("resume", newest, 2000)
    newest.write_bytes(newest.read_bytes()[:-5])
    assert begin(tmp_path).step == 1000


def test_resume_from_last_checkpoint_alone(tmp_path: Path) -> None:
    begin(tmp_path)
    add_checkpoint(tmp_path, 123, "last.ckpt")
    assert begin(tmp_path).step == 123


def test_finished_run_returns_its_results(tmp_path: Path) -> None:
    begin(tmp_path).finish(5000, {"bpp_file": 0.5, "psnr": 32.25})
    state = begin(tmp_path)
    assert state.finished
    assert (state.step, state.results) == (5000, {"bpp_file": 0.5, "psnr": 32.25})


def test_damaged_finished_file_is_ignored(tmp_path: Path) -> None:
    begin(tmp_path).finish(5000, {})
    (tmp_path / "finished.json").write_text("{")
    add_checkpoint(tmp_path, 5000)
    assert begin(tmp_path).status == "resume"


# --- other configurations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("lambda", 0.013, "lambda: 0.0067 -> 0.013"),
        ("model.N", 192, "model.N: 320 -> 192"),
        ("data.root", "/elsewhere", "data.root: None -> /elsewhere"),
        ("recipe.stages", [{"name": "all", "lr": 1e-5}], "recipe.stages.0.lr: 0.0001 -> 1e-05"),
        ("recipe.tags", ["x"], "recipe.tags.0: (absent) -> x"),
        ("precision", "32", "precision: (absent) -> 32"),
    ],
)
def test_other_configuration_raises_with_the_difference(tmp_path: Path, key: str, value: Any, line: str) -> None:
    begin(tmp_path)
    before = (tmp_path / ".hydra" / "config.yaml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        begin(tmp_path, changed(key, value))
    assert f"  {line}\n" in str(caught.value)
    assert "name=..." in str(caught.value)
    assert "fresh=true" in str(caught.value)
    assert (tmp_path / ".hydra" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer", {"devices": 8, "strategy": "ddp"}),
        ("logger", {"kind": "csv"}),
        ("data.num_workers", 8),
        ("checkpoint.every", 10),
        ("compile", True),
        ("fresh", True),
    ],
)
def test_keys_without_effect_on_the_result_may_differ(tmp_path: Path, key: str, value: Any) -> None:
    begin(tmp_path)
    add_checkpoint(tmp_path, 7)
    assert begin(tmp_path, changed(key, value)).step == 7
    assert yaml.safe_load((tmp_path / ".hydra" / "config.yaml").read_text()) == changed(key, value)


def test_moved_photographs_are_left_to_the_manifest(tmp_path: Path) -> None:
    moved = {**CONFIG, "data": {**CONFIG["data"], "root": "/local/photographs"}}
    begin(tmp_path)
    assert "data.root: None -> /local/photographs" in error_message_of(tmp_path, moved)
    (tmp_path / "data_manifest.json").write_text("{}")
    begin(tmp_path, moved)
    stored = yaml.safe_load((tmp_path / ".hydra" / "config.yaml").read_text())
    assert stored["data"]["root"] == "/local/photographs"
    other = {**moved, "data": {**moved["data"], "source": "imagenet"}}
    assert "data.source" in error_message_of(tmp_path, other)


def test_finished_run_can_be_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, long = {**CONFIG, "steps": 6}, {**CONFIG, "steps": 12}
    run = claim(tmp_path, short, False)
    add_checkpoint(tmp_path, 6)
    run.finish(6, {"equal": True})
    run.release()
    message = error_message_of(tmp_path, long)
    assert "steps: 6 -> 12" in message
    assert "extend=true" in message
    assert f"init_from={tmp_path}" in message
    assert "extend=true" not in error_message_of(tmp_path, {**CONFIG, "steps": 3, "extend": True})
    assert "crop" in error_message_of(tmp_path, {**long, "extend": True, "crop": 64})
    extended = begin(tmp_path, {**long, "extend": True})
    assert (extended.status, extended.step) == ("resume", 6)
    assert "to step 12 instead of 6" in capsys.readouterr().out
    assert begin(tmp_path, long).status == "resume"  # the option is not needed again


def error_message_of(run: Path, config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refusal:
        begin(run, config)
    return str(refusal.value)


def test_runs_of_earlier_versions_resume():
    old = {"data": {"flip": True}, "recipe": {"steps": 6}}
    new = {
        "data": {"flip": True, "downscale": None},
        "recipe": {"steps": 6, "flip": False, "downscale": [0.6, 1.0]},
        "rate": {"kind": "fixed", "lambdas": None},
    }
    assert differences(old, new) == []
    assert [one.key for one in differences(old, new | {"rate": {"kind": "variable", "lambdas": [0.1, 0.2]}})] == [
        "rate.kind",
        "rate.lambdas.0",
        "rate.lambdas.1",
    ]


def test_keys_with_the_prefix_of_a_free_key_are_compared() -> None:
    found = differences({"trainer_x": 1, "compile": True}, {"trainer_x": 2, "compile": False})
    assert [str(line) for line in found] == ["trainer_x: 1 -> 2"]


# --- fresh -----------------------------------------------------------------------------------------------------------


def test_fresh_moves_the_old_run_aside_each_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run)
    add_checkpoint(run, 5)
    begin(run, changed("lambda", 0.1), fresh=True).finish(9, {})
    state = begin(run, fresh=True)
    assert state.status == "new"
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["lambda"] == 0.0067
    assert (tmp_path / "run.old-1" / "checkpoints" / "step_00000005.ckpt").exists()
    assert json.loads((tmp_path / "run.old-2" / "finished.json").read_text())["step"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]


def test_fresh_without_an_old_run(tmp_path: Path) -> None:
    begin(tmp_path / "run", fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- unusable directories ---------------------------------------------------------------------------------------------


def error_message(run: Path, fresh: bool = False) -> str:
    with pytest.raises(ConfigError, match=r"(?s)expected: .*got: .*to do: ") as caught:
        begin(run, fresh=fresh)
    return str(caught.value)


def test_file_in_place_of_the_directory_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "File exists" in error_message(tmp_path / "file")
    assert "Not a directory" in error_message(tmp_path / "file" / "run")


def test_unwritable_directory_raises(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root can write everywhere except in kernel file systems
        error_message(Path("/proc/self/run"))
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "Permission denied" in error_message(tmp_path / "closed" / "run")


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00"])
def test_unreadable_configuration_raises(tmp_path: Path, text: str) -> None:
    begin(tmp_path)
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    assert "config.yaml" in error_message(tmp_path)


def test_checkpoints_without_configuration_raise(tmp_path: Path) -> None:
    add_checkpoint(tmp_path / "run", 5)
    error_message(tmp_path / "run")
    assert begin(tmp_path / "run", fresh=True).status == "new"


# --- the lock ---------------------------------------------------------------------------------------------------------


def _hold(run: Path, tell: Any) -> None:
    state = claim(run, CONFIG, False)
    tell.send(state.status)
    signal.pause()


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """A process that holds the lock of ``tmp_path / "run"``."""
    hear, tell = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "run", tell))
    process.start()
    tell.close()
    assert hear.recv() == "new"
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("fresh", [False, True])
def test_second_process_raises_with_the_owner(tmp_path: Path, other: Any, fresh: bool) -> None:
    text = error_message(tmp_path / "run", fresh)
    assert "in use" in text
    assert f"process {other.pid}" in text
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_lock_is_released_when_its_process_is_killed(tmp_path: Path, other: Any) -> None:
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert begin(tmp_path / "run").status == "new"


def _hold_with_a_worker(run: Path, tell: Any) -> None:
    claim(run, CONFIG, False)
    if worker := os.fork():
        os.waitpid(worker, 0)
    tell.send(os.getpid())
    signal.pause()


def test_lock_is_not_kept_by_a_worker_that_outlives_its_run(tmp_path: Path) -> None:
    hear, tell = multiprocessing.Pipe(duplex=False)
    run = multiprocessing.get_context("fork").Process(target=_hold_with_a_worker, args=(tmp_path, tell))
    run.start()
    tell.close()
    worker = hear.recv()
    try:
        error_message(tmp_path)  # the fork did not release the lock of the run
        run.kill()
        run.join()
        os.kill(worker, 0)  # the worker is still running
        assert begin(tmp_path).status == "new"
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_gives_a_warning(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with claim(tmp_path, CONFIG, False) as first:
        assert (first.status, begin(tmp_path).status) == ("new", "new")  # no lock: the second claim succeeds
    assert f"No lock on {tmp_path} ({os.strerror(code)})" in capsys.readouterr().out
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_released_directory_can_be_claimed_again(tmp_path: Path) -> None:
    state = claim(tmp_path, CONFIG, False)
    error_message(tmp_path)
    state.release()
    state.release()
    assert begin(tmp_path).status == "new"


def test_state_sent_to_the_other_processes(tmp_path: Path) -> None:
    with claim(tmp_path, CONFIG, False) as state:
        received = ResumeState.from_plain(json.loads(json.dumps(state.plain())))
        assert (received.run_dir, received.status, received.checkpoint, received.lock) == (tmp_path, "new", None, None)
    path = add_checkpoint(tmp_path, 40)
    received = ResumeState.from_plain(json.loads(json.dumps(begin(tmp_path).plain())))
    assert (received.status, received.checkpoint, received.step) == ("resume", path, 40)


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    begin(tmp_path)
    left = [tmp_path / ".metrics.csv.7.tmp", tmp_path / "checkpoints" / ".step_00000009.ckpt.7.tmp"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    begin(tmp_path)
    assert not any(path.exists() for path in left)


def test_file_without_training_state_is_not_a_checkpoint(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"global_step": 5}, tmp_path / "checkpoints" / "step_00000005.ckpt")
    assert begin(tmp_path).status == "new"
