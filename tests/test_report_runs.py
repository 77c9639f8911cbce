"""Reading an outputs/ tree for a report: complete runs, and reasons for skipped ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from lic_train.report.runs import read_runs
from lic_train.runs.training_log import Buckets, last_step, read_log
from lic_train.system import reading as files
from lic_train.system.reading import printable, slug
from tests.report_tree import HOSTILE, put, result, write_mistakes, write_models, write_run


def reasons(outputs: Path) -> dict[str, str]:
    return {item.what: item.reason for item in read_runs(outputs)[1]}


def test_finished_run_is_read_completely(tmp_path):
    path = write_run(tmp_path, "cwam", 0.0067, 33.0, name="wide", recipe="common", steps=40)
    (run,), left_out = read_runs(tmp_path)
    assert left_out == []
    assert (run.path, run.where) == (path, "cwam/common/lambda_0.0067_wide")
    assert (run.model, run.recipe, run.lmbda, run.distortion, run.name) == ("cwam", "common", 0.0067, "mse", "wide")
    assert (run.step, run.steps, run.config["model"]["N"]) == (40, 40, 128)
    assert run.results["kodak"].mean.psnr == result(0.0067, 33.0)["mean"]["psnr"]
    assert run.environment()["torch"] == {"version": "2.15.0"}


def test_run_directory_as_root(tmp_path):
    path = write_run(tmp_path, "cwam", 0.0067, 33.0)
    (run,), _ = read_runs(path)
    assert (run.model, run.where) == ("cwam", "lambda_0.0067")


def test_invalid_runs_are_skipped_with_the_reason(tmp_path):
    write_models(tmp_path)
    write_mistakes(tmp_path)
    expected = {
        "cwam/cwam/lambda_0.1": "unfinished: step 300 of 300",
        "gaacnn/gaacnn/lambda_0.2": "eval/kodak.json: not valid JSON",
        "gaacnn/gaacnn/lambda_0.3": "mean.psnr: Input should be a finite number",
        "gaacnn/gaacnn/lambda_0.4": "format: Input should be 2",
        "gaacnn/gaacnn/lambda_0.5": ".hydra/config.yaml: the file is missing",
    }
    found = reasons(tmp_path)
    assert found.keys() == expected.keys()
    assert [key for key, reason in expected.items() if reason not in found[key]] == []


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (".hydra/config.yaml", "lambda: [1", "not valid YAML"),
        (".hydra/config.yaml", "- 1", "content: Input should be a valid dictionary"),
        (".hydra/config.yaml", "{lambda: -1, steps: 3, model: {}}", "lambda: Input should be greater than 0"),
        (".hydra/config.yaml", "!!python/object/apply:os.system ['touch owned']", "not valid YAML"),
        ("finished.json", "{}", "finished.json: step: Field required"),
        ("finished.json", "[" * 100_000, "finished.json: not valid JSON"),
        ("eval/kodak.json", "null", "eval/kodak.json: content: Input should be"),
        ("eval/kodak.json", json.dumps(result(0.1, 33) | {"rows": []}), "rows: List should have at least 1 item"),
        ("eval/kodak.json", json.dumps(result(0.1, 33) | {"set": "clic"}), "is an evaluation on the set clic"),
        ("eval/kodak.json", json.dumps(result(0.1, 33, ("a", "a"))), "two rows have the same name"),
        ("eval/kodak.json", json.dumps(result(0.1, 33, ("../../secret",))), "rows.0.name"),
        ("eval/kodak.json", b"\xff\xfe\x00", "not valid JSON"),
    ],
)
def test_hostile_file_is_skipped_with_the_reason(tmp_path, file, content, reason):
    put(write_run(tmp_path, "cwam", 0.1, 33) / file, content)
    assert reason in reasons(tmp_path)["cwam/cwam/lambda_0.1"]
    assert not (tmp_path / "owned").exists()


def test_large_files_and_pipes_are_not_read(tmp_path, monkeypatch):
    run = write_run(tmp_path, "cwam", 0.1, 33)
    monkeypatch.setattr(files, "MAX_BYTES", 2**20)
    put(run / "eval/kodak.json", " " * (2**20 + 1))
    assert "more than 1 MiB" in reasons(tmp_path)["cwam/cwam/lambda_0.1"]
    (run / "eval/kodak.json").unlink()
    os.mkfifo(run / "eval/kodak.json")
    assert "not a regular file" in reasons(tmp_path)["cwam/cwam/lambda_0.1"]


def test_cyclic_links_and_runs_moved_aside(tmp_path):
    run = write_run(tmp_path, "cwam", 0.1, 33)
    (tmp_path / "cwam" / "again").symlink_to(tmp_path, target_is_directory=True)
    run.rename(run.with_name("lambda_0.1.old-1"))
    assert reasons(tmp_path) == {"cwam/cwam/lambda_0.1.old-1": "moved aside by fresh=true"}


def test_undecodable_and_hostile_names_are_escaped(tmp_path):
    folder = os.fsdecode(b"lambda_0.1_\xff\x1b[31m")
    write_run(tmp_path, "cwam", 0.1, 33, name=HOSTILE, folder=folder)
    (run,), _ = read_runs(tmp_path)
    assert run.where == r"cwam/cwam/lambda_0.1_\udcff\x1b[31m"
    run.where.encode()
    assert printable("a\u202eb\nc") == r"a\u202eb\nc"
    assert len(printable("x" * 1000)) == 120
    assert slug("../A b/Ü") == "a_b"


def test_long_log_is_reduced_to_means_of_equal_size(tmp_path):
    rows = [f"{step},{step * 2.0},nan" for step in range(1, 1001)]
    path = put(tmp_path / "metrics.csv", "\n".join(["step,train/loss,train/bpp", *rows, "1001,,", "1002,"]))
    log = read_log(path, ["train/loss", "train/bpp", "train/psnr"], limit=100)
    steps, values = log["train/loss"]
    assert log.keys() == {"train/loss"}
    assert len(steps) == 63  # 16 values per bucket: 1000 / 16, rounded up
    assert steps[:2] == [8.5, 24.5]
    assert values == [2 * step for step in steps]
    assert last_step(path) == 1001  # the last row is incomplete


def test_short_log_is_unchanged():
    buckets = Buckets(limit=4)
    for value in (1.0, 4.0, 9.0):
        buckets.add(value, value**2)
    assert buckets.means() == ([1.0, 4.0, 9.0], [1.0, 16.0, 81.0])


def test_missing_and_binary_logs_have_no_curve(tmp_path):
    assert read_log(tmp_path / "metrics.csv", ["train/loss"]) == {}
    path = put(tmp_path / "metrics.csv", b"step,train/loss\n\x00\xff\n" + b"x" * 200_000)
    assert read_log(path, ["train/loss"]) == {}


def test_yaml_alias_bomb_is_read_quickly(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    run = write_run(tmp_path, "cwam", 0.1, 33)
    config = yaml.safe_dump({"lambda": 0.1, "steps": 300, "model": {}})
    put(run / ".hydra/config.yaml", "\n".join(lines) + "\n" + config)
    assert "more than" in reasons(tmp_path)["cwam/cwam/lambda_0.1"]
