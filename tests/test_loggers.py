"""metrics.csv is complete after a kill; W&B does not hang; TensorBoard is optional."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from wandb.proto.wandb_internal_pb2 import Record

from lic_train.errors import ConfigError
from lic_train.training.callbacks import Rows
from lic_train.training.loggers import CsvLogger, build_loggers, finish, has_credentials
from tests.tiny_training import Tiny, fit

CONF = Path(__file__).resolve().parent.parent / "conf" / "logger"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- metrics.csv -----------------------------------------------------------------------------------------------------


def test_one_row_per_step_and_new_columns(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    logger.log_metrics({"train/loss": 1.5, "epoch": 0}, step=10)
    logger.log_metrics({"train/loss": 1.25}, step=20)
    logger.log_metrics({"val/loss": 1.0, "train/loss": 1.3}, step=20)
    logger.log_metrics({"val, odd": 3.0}, step=20)
    logger.log_metrics({"train/loss": 0.1}, step=30)
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "10", "train/loss": "1.5", "val/loss": "", "val, odd": ""},
        {"step": "20", "train/loss": "1.3", "val/loss": "1", "val, odd": "3"},
        {"step": "30", "train/loss": "0.1", "val/loss": "", "val, odd": ""},
    ]


def test_shorter_row_replaces_longer_one(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 0.123456789}, step=1)
    logger.log_metrics({"a": 2}, step=1)
    logger.log_metrics({"a": 3}, step=2)
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n1,2\n2,3\n"


@pytest.mark.parametrize("value", [1 / 3, 1e-30, 123456.789, float("nan"), float("inf")])
def test_float32_values_are_exact(tmp_path: Path, value: float) -> None:
    kept = struct.unpack("f", struct.pack("f", value))[0]
    CsvLogger(tmp_path / "m.csv").log_metrics({"a": kept}, step=1)
    read = float(rows(tmp_path / "m.csv")[0]["a"])
    assert struct.pack("f", read) == struct.pack("f", kept)


def test_resume_deletes_rows_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path)
    for step in (10, 20, 30, 100):
        logger.log_metrics({"a": step}, step=step)
    logger.log_metrics({"late": 1}, step=100)
    again = CsvLogger(path, resume_step=20)
    again.log_metrics({"b": 5}, step=20)
    again.log_metrics({"a": 31}, step=30)
    assert [(row["step"], row["a"], row["b"]) for row in rows(path)] == [
        ("10", "10", ""),
        ("20", "20", "5"),
        ("30", "31", ""),
    ]


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_incomplete_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path)
    for step in (10, 1000):
        logger.log_metrics({"a": 1}, step=step)
    path.write_bytes(path.read_bytes()[:-cut])  # "1000,1", "1000," and "100"
    CsvLogger(path, resume_step=5000).log_metrics({"a": 2}, step=5001)
    assert [row["step"] for row in rows(path)] == ["10", "5001"]


def _log_until_killed(path: Path) -> None:
    logger = CsvLogger(path)
    for step in range(50):
        logger.log_metrics({"a": step}, step=step)
        if step == 30:
            logger.log_metrics({"b": 1}, step=step)
    os.kill(os.getpid(), signal.SIGKILL)


def test_kill_loses_no_row(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_log_until_killed, args=(tmp_path / "m.csv",))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [(row["step"], row["a"], row["b"]) for row in rows(tmp_path / "m.csv")] == [
        (str(step), str(step), "1" if step == 30 else "") for step in range(50)
    ]


@pytest.mark.parametrize("text", ["hello,world\n1,2\n", "step,a\nx,2\n"])
def test_foreign_file_raises_and_is_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"(?s)expected: .*got: .*to do: "):
        CsvLogger(path).log_metrics({"a": 1}, step=1)
    assert path.read_text() == text


def test_training_run_writes_all_rows(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    fit(Tiny(), [Rows()], steps=4, logger=logger, log_every_n_steps=1, val_check_interval=2)
    found = rows(tmp_path / "metrics.csv")
    assert len(found) == 4
    assert [row["val/psnr"] for row in found] == ["", "31", "", "31"]
    assert all(float(row["train/loss"]) > 0 for row in found)


# --- kind of logger -------------------------------------------------------------------------------------------------


def build(kind: str, run_dir: Path, **more: Any) -> list[Any]:
    arguments = {"config": {"lambda": 0.01, "model": {"N": 8}}, "group": "sweep", "tags": ["tiny", "mse"]} | more
    return build_loggers(kind, run_dir, **{"resume_step": 0, **arguments})


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_config_builds(tmp_path: Path, file: Path) -> None:
    section = yaml.safe_load(file.read_text())
    assert section["kind"] == file.stem
    loggers = build(section["kind"], tmp_path, config={"logger": section})
    assert isinstance(loggers[0], CsvLogger)
    assert len(loggers) == (1 if file.stem == "csv" else 2)
    finish(loggers, 0)


def test_unknown_kind_raises_with_the_known_kinds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="csv, wandb, tensorboard"):
        build("comet", tmp_path)


def test_missing_tensorboard_raises_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'lic-train\[tensorboard\]'"):
        build("tensorboard", tmp_path)


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    loggers = build("tensorboard", tmp_path)
    loggers[1].log_metrics({"a": 1.0}, step=1)
    loggers[1].finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


# --- Weights & Biases ------------------------------------------------------------------------------------------------


def records(run_dir: Path) -> Iterator[Record]:
    """Yield all records of the offline run, read in the published format of the file (LevelDB's log format)."""
    (file,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    data, position, pieces = file.read_bytes(), 7, b""
    while position < len(data):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        pieces += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(pieces)
            pieces = b""


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_offline")
def test_offline_run_without_credentials_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loggers = build("wandb", tmp_path)
    for step in (10, 20):
        loggers[1].log_metrics({"train/loss": step / 2}, step=step)
    finish(loggers, 3)
    wandb.teardown()  # waits until the file is complete
    printed = capsys.readouterr().out
    assert printed.count("W&B: offline (no credentials") == 1
    found = list(records(tmp_path))
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.job_type, sorted(run.tags)) == ("sweep", "train", ["mse", "tiny"])
    assert run.run_id == (tmp_path / "wandb" / "run_id.txt").read_text()
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    assert config == {"lambda": 0.01, "model": {"N": 8}}
    history = [record.history for record in found if record.WhichOneof("record_type") == "history"]
    values = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in history
    ]
    assert [(row["trainer/global_step"], row["train/loss"]) for row in values] == [(10, 5.0), (20, 10.0)]
    axes = {
        record.metric.glob_name or record.metric.name: record.metric.step_metric
        for record in found
        if record.HasField("metric")
    }
    assert axes["*"] == "trainer/global_step"
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [3]


@pytest.mark.usefixtures("_offline")
def test_resumed_run_keeps_its_id_and_another_directory_has_another(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "a", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        loggers = build("wandb", tmp_path / name)
        ids.append(loggers[1].experiment.id)
        finish(loggers, 0)
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 16


@pytest.mark.usefixtures("_offline")
def test_missing_network_falls_back_to_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, modes = wandb.init, []

    def init(*args: Any, **kwargs: Any) -> Any:
        modes.append(kwargs["mode"])
        assert kwargs["settings"].init_timeout == 2.5
        if kwargs["mode"] != "offline":
            raise wandb.errors.CommError("no route to host")
        return real(*args, **kwargs)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    loggers = build("wandb", tmp_path, config={"logger": {"init_timeout": 2.5}})
    finish(loggers, 0)
    assert modes == [None, "offline"]
    assert "no route to host" in capsys.readouterr().out


@pytest.mark.usefixtures("_offline")
def test_credentials_from_environment_and_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_credentials()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine example.org login user password secret\n")
    assert not has_credentials()
    monkeypatch.setenv("WANDB_BASE_URL", "http://example.org:8080")
    assert has_credentials()
    netrc.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_credentials()
