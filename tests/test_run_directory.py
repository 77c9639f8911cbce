"""One directory, one run: continued, finished, refused or moved aside."""

from __future__ import annotations

import copy
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
    """Claim and let go at once."""
    with claim(run, config, fresh, ["model=cwam"]) as state:
        return state


def add_checkpoint(run: Path, step: int, name: str | None = None) -> Path:
    path = run / "checkpoints" / (name or f"step_{step:08d}.ckpt")
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": step, "loops": {}}, path)
    return path


# --- new, continued, finished ----------------------------------------------------------------------------------------


def test_a_new_run_records_its_configuration(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "cwam" / "lambda_0.0067"
    state = begin(run)
    assert (state.status, state.checkpoint, state.step) == ("new", None, 0)
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text()) == CONFIG
    assert yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text()) == ["model=cwam"]


def test_the_record_depends_on_the_configuration_alone(tmp_path: Path) -> None:
    begin(tmp_path / "a")
    begin(tmp_path / "b")
    first, second = (tmp_path / name / ".hydra" / "config.yaml" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_the_same_configuration_continues_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    begin(tmp_path)
    add_checkpoint(tmp_path, 1000)
    newest = add_checkpoint(tmp_path, 2000)
    state = begin(tmp_path)
    assert (state.status, state.checkpoint, state.step) == ("resume", newest, 2000)
    newest.write_bytes(newest.read_bytes()[:-5])
    assert begin(tmp_path).step == 1000


def test_last_alone_is_enough(tmp_path: Path) -> None:
    begin(tmp_path)
    add_checkpoint(tmp_path, 123, "last.ckpt")
    assert begin(tmp_path).step == 123


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    begin(tmp_path).finish(5000, {"bpp_file": 0.5, "psnr": 32.25})
    state = begin(tmp_path)
    assert state.finished
    assert (state.step, state.results) == (5000, {"bpp_file": 0.5, "psnr": 32.25})


def test_a_damaged_mark_counts_for_nothing(tmp_path: Path) -> None:
    begin(tmp_path).finish(5000, {})
    (tmp_path / "finished.json").write_text("{")
    add_checkpoint(tmp_path, 5000)
    assert begin(tmp_path).status == "resume"


# --- another configuration -------------------------------------------------------------------------------------------


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
def test_another_configuration_is_refused_with_the_difference(tmp_path: Path, key: str, value: Any, line: str) -> None:
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
def test_what_cannot_change_the_result_may_differ(tmp_path: Path, key: str, value: Any) -> None:
    begin(tmp_path)
    add_checkpoint(tmp_path, 7)
    assert begin(tmp_path, changed(key, value)).step == 7
    assert yaml.safe_load((tmp_path / ".hydra" / "config.yaml").read_text()) == changed(key, value)


def test_similar_names_are_not_free() -> None:
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


def test_fresh_on_nothing_moves_nothing(tmp_path: Path) -> None:
    begin(tmp_path / "run", fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- places that cannot be used --------------------------------------------------------------------------------------


def refusal(run: Path, fresh: bool = False) -> str:
    with pytest.raises(ConfigError, match=r"(?s)expected: .*got: .*to do: ") as caught:
        begin(run, fresh=fresh)
    return str(caught.value)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "File exists" in refusal(tmp_path / "file")
    assert "Not a directory" in refusal(tmp_path / "file" / "run")


def test_an_unwritable_place(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may write anywhere but where the kernel says no
        refusal(Path("/proc/self/run"))
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "Permission denied" in refusal(tmp_path / "closed" / "run")


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00"])
def test_an_unreadable_configuration(tmp_path: Path, text: str) -> None:
    begin(tmp_path)
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    assert "config.yaml" in refusal(tmp_path)


def test_checkpoints_without_a_configuration_are_not_taken_over(tmp_path: Path) -> None:
    add_checkpoint(tmp_path / "run", 5)
    refusal(tmp_path / "run")
    assert begin(tmp_path / "run", fresh=True).status == "new"


# --- two processes ---------------------------------------------------------------------------------------------------


def _hold(run: Path, told: Any) -> None:
    state = claim(run, CONFIG, False)
    told.send(state.status)
    signal.pause()


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """Another process that trains in ``tmp_path / "run"``."""
    hear, told = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "run", told))
    process.start()
    told.close()
    assert hear.recv() == "new"
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_second_process_is_refused(tmp_path: Path, other: Any, fresh: bool) -> None:
    text = refusal(tmp_path / "run", fresh)
    assert "in use" in text
    assert f"process {other.pid}" in text
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_lock_dies_with_its_process(tmp_path: Path, other: Any) -> None:
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert begin(tmp_path / "run").status == "new"


def _hold_with_a_worker(run: Path, told: Any) -> None:
    claim(run, CONFIG, False)
    if worker := os.fork():
        os.waitpid(worker, 0)
    told.send(os.getpid())
    signal.pause()


def test_a_worker_that_outlives_its_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    hear, told = multiprocessing.Pipe(duplex=False)
    run = multiprocessing.get_context("fork").Process(target=_hold_with_a_worker, args=(tmp_path, told))
    run.start()
    told.close()
    worker = hear.recv()
    try:
        refusal(tmp_path)  # the worker did not let go of what the run holds
        run.kill()
        run.join()
        os.kill(worker, 0)  # still there
        assert begin(tmp_path).status == "new"
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_released_directory_is_free_for_others(tmp_path: Path) -> None:
    state = claim(tmp_path, CONFIG, False)
    refusal(tmp_path)
    state.release()
    state.release()
    assert begin(tmp_path).status == "new"


def test_what_the_first_process_tells_the_others(tmp_path: Path) -> None:
    with claim(tmp_path, CONFIG, False) as state:
        told = ResumeState.from_plain(json.loads(json.dumps(state.plain())))
        assert (told.run_dir, told.status, told.checkpoint, told.lock) == (tmp_path, "new", None, None)
    path = add_checkpoint(tmp_path, 40)
    told = ResumeState.from_plain(json.loads(json.dumps(begin(tmp_path).plain())))
    assert (told.status, told.checkpoint, told.step) == ("resume", path, 40)


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path: Path) -> None:
    begin(tmp_path)
    left = [tmp_path / ".metrics.csv.7.tmp", tmp_path / "checkpoints" / ".step_00000009.ckpt.7.tmp"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    begin(tmp_path)
    assert not any(path.exists() for path in left)


def test_checkpoints_are_real_ones(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"global_step": 5}, tmp_path / "checkpoints" / "step_00000005.ckpt")
    assert begin(tmp_path).status == "new"
