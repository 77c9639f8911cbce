"""Hostile model files and archives, and files in a run directory that the run did not write."""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from lic_train import cli
from lic_train.codec.export import contents
from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.data.archives.zips import record
from lic_train.data.prepare.shards import inside
from lic_train.errors import CheckpointError, ConfigError, DataError, LicError
from lic_train.files.checkpoint import load_file, read_metadata, save_model
from lic_train.runs.checkpoints import newest_intact
from lic_train.runs.claim import claim
from lic_train.runs.state import validation_loss
from lic_train.system.screen import ruled_table, say_error
from tests.report_tree import put
from tests.tiny import FACTORIZED, HYPERPRIOR, make_codec, save_checkpoint

CODEC = make_codec()
CONFIG: dict[str, Any] = {"lambda": 0.1, "model": {}}


def memory() -> int:
    """Return the peak resident set of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


# --- model files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"N": 3000, "M": 3000},
        {"N": 10**12},
        {"N": -3},
        {"N": 0},
        {"N": 8.5},
        {"N": float("nan")},
        {"N": None},
        {"N": "x"},
        {"N": [8]},
        {"N": {"a": [[]]}},
        {"_target_": ["a"]},
        {"_target_": "lic_train.models.base.Codec"},
        {"_target_": "lic_train.models.base.build"},
        {"_target_": "lic_train.models.base.importlib.import_module"},
        {"_target_": "lic_train.models.elic2022.ELIC", "groups": [1] * 900},
        {"_target_": "lic_train.models.tinylic.TinyLIC", "N": 8000},
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_configuration_of_another_network_costs_no_memory(tmp_path: Path, change: dict[str, Any], suffix: str) -> None:
    path, config, before = tmp_path / f"x.{suffix}", {**HYPERPRIOR, **change}, memory()
    if suffix == "ckpt":
        save_checkpoint(path, CODEC, config, 3)
    else:
        save_model(path, CODEC, config, {})
    with pytest.raises(CheckpointError, match="expected: "):
        load_file(path)
    assert memory() - before < 500


@pytest.mark.parametrize(
    "record",
    [
        "[" * 100_000, "7", "[]", "null", "9" * 5000, '"\\ud800"',
        json.dumps({"format": 1, "config": "x", "extra": {}, "fingerprint": ""}),
        json.dumps({"format": 1, "config": [[1, 2]], "extra": {}, "fingerprint": "00" * 8}),
        json.dumps({"format": 1, "config": {}, "extra": 5, "fingerprint": "00" * 8}),
        json.dumps({"format": 1, "config": {}, "extra": {}, "fingerprint": 5}),
        json.dumps({"format": [], "config": FACTORIZED, "extra": {}, "fingerprint": "00" * 8}),
    ],
)  # fmt: skip
def test_headers_of_other_content_raise(tmp_path: Path, record: str) -> None:
    path = tmp_path / "checkpoints" / "best.safetensors"
    path.parent.mkdir()
    save_file({"weight": torch.zeros(3)}, path, metadata={"lic_train": record})
    with pytest.raises(CheckpointError):
        read_metadata(path)
    assert validation_loss(tmp_path) is None


def test_mistyped_facts_of_a_model_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "best.safetensors"
    extra = {"val_loss": [1], "run_config": 5, "step": "[/red][b]", "name": "\x1b]0;owned\x07"}
    save_model(path, CODEC, FACTORIZED, extra)
    assert validation_loss(tmp_path) is None
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(contents(path))
    shown = console.export_text()
    assert "[/red][b]" in shown
    assert "\x1b" not in shown


@pytest.fixture
def training_checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "step_00000003.ckpt"
    save_checkpoint(path, CODEC, FACTORIZED, 3)
    return path


@pytest.mark.parametrize("name", ["g_a.0.weight", "g_s.0.bias", "entropy_bottleneck.matrices.0"])
def test_flipped_bit_of_a_checkpoint_raises_in_every_loader(training_checkpoint: Path, name: str) -> None:
    content, tensor = bytearray(training_checkpoint.read_bytes()), CODEC.state_dict().get(name)
    if tensor is None:
        tensor = CODEC.state_dict()["g_a.0.weight"]
    content[content.index(tensor.numpy().tobytes()) + 3] ^= 64  # an exponent
    training_checkpoint.write_bytes(content)
    run = training_checkpoint.parents[1]
    with pytest.raises(CheckpointError, match="wrong checksum"):
        load_file(training_checkpoint)
    assert cli.main(["export", str(training_checkpoint)]) == 2
    assert cli.main(["export", str(run)]) == 2
    put(run / "x.png", b"")
    assert cli.main(["compress", str(run / "x.png"), str(run / "x.lic"), "--run", str(run)]) == 2
    assert newest_intact(training_checkpoint.parent) is None
    assert not list(run.glob("*.safetensors"))


def test_random_flips_never_give_another_model(training_checkpoint: Path) -> None:
    content, generator = training_checkpoint.read_bytes(), torch.Generator().manual_seed(0)
    identity = load_file(training_checkpoint)[1].fingerprint
    for position in torch.randint(len(content), (40,), generator=generator).tolist():
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        training_checkpoint.write_bytes(changed)
        try:
            assert load_file(training_checkpoint)[1].fingerprint == identity
        except CheckpointError:
            continue


def test_tensors_that_are_not_in_the_file_raise(tmp_path: Path) -> None:
    weights = {f"model.{name}": torch.zeros(1).expand(value.shape) for name, value in CODEC.state_dict().items()}
    content: dict[str, Any] = {"state_dict": weights, "model_config": FACTORIZED, "global_step": 1}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="bytes in a file of"):
        load_file(tmp_path / "x.ckpt")
    laughs: list[Any] = [1] * 9
    for _ in range(9):
        laughs = [laughs] * 9
    for key, reason in (("model_config", "more than"), ("run_config", "more than")):
        save_checkpoint(tmp_path / "y.ckpt", CODEC, FACTORIZED, 1, **{})
        torch.save({**torch.load(tmp_path / "y.ckpt"), key: {**FACTORIZED, "x": laughs}}, tmp_path / "y.ckpt")
        with pytest.raises(CheckpointError, match=reason):
            load_file(tmp_path / "y.ckpt")


def test_compressed_checkpoint_raises(training_checkpoint: Path) -> None:
    with zipfile.ZipFile(training_checkpoint) as old:
        entries = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(training_checkpoint, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)
    with pytest.raises(CheckpointError, match="compressed entries"):
        load_file(training_checkpoint)


# --- files that are not the run's -------------------------------------------------------------------------------------


def start(run: Path, fresh: bool = False) -> str:
    with claim(run, CONFIG, fresh) as state:
        return state.status


def test_only_temporary_files_of_the_run_are_removed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", put(tmp_path / "elsewhere" / ".x.7.tmp", "theirs")
    foreign = [run / ".thesis.tex.123.tmp", run / ".swap.tmp", run / "notes" / ".metrics.csv.7.tmp", run / ".x.12.tmp"]
    for path in foreign:
        put(path, "theirs")
    assert start(run) == "new"
    (run / "pictures").symlink_to(elsewhere.parent, target_is_directory=True)
    own = [run / ".metrics.csv.7.tmp", run / "eval" / "kodak" / ".kodim01.lic.7.tmp", run / ".hydra" / ".x.yaml.7.tmp"]
    for path in own:
        put(path, "half")
    (run / ".card.md.7.tmp").symlink_to(elsewhere)
    assert start(run) == "new"
    assert all(path.read_text() == "theirs" for path in [*foreign, elsewhere])
    assert not any(path.exists() for path in own)


def test_fresh_moves_no_directory_without_a_run(tmp_path: Path) -> None:
    for name, files in {
        "home": ["thesis.tex"],
        "project": ["checkpoints/model.pt", "README.md"],
        "hydra": [".hydra/config.yaml"],
        "damaged": [".hydra/config.yaml", "notes.txt"],
    }.items():
        for file in files:
            put(tmp_path / name / file, "[1" if name == "damaged" else "db: {user: root}\n")
        with pytest.raises(ConfigError, match="is not moved aside"):
            start(tmp_path / name, fresh=True)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted({f.split("/")[0] for f in files})
    put(tmp_path / "launched" / "log.txt", "")
    assert start(tmp_path / "launched", fresh=True) == "new"
    assert start(tmp_path / "launched", fresh=True) == "new"
    assert (tmp_path / "launched.old-1").is_dir()


@pytest.mark.parametrize("name", [".lock", "metrics.csv"])
def test_links_and_pipes_are_not_opened(tmp_path: Path, name: str) -> None:
    target = put(tmp_path / "precious", "content")
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(target)
    with pytest.raises(ConfigError, match="is not a regular file"):
        start(run)
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(ConfigError, match="is not a regular file"):
        start(run)
    assert target.read_text() == "content"


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["checkpoints", "wandb", "tensorboard", ".hydra", "failing_batch"])
def test_folders_that_are_links_are_not_written_to(tmp_path: Path, name: str, fresh: bool) -> None:
    run, elsewhere = tmp_path / "run", put(tmp_path / "elsewhere" / "step_00000001.ckpt", "theirs")
    assert start(run) == "new"
    target = run / name
    if target.exists():
        target.rename(run / "before")
    target.symlink_to(elsewhere.parent, target_is_directory=True)
    if fresh and name != ".hydra":  # the earlier run is moved aside with its link
        assert start(run, fresh=True) == "new"
        assert (tmp_path / "run.old-1" / name).is_symlink()
        assert not (run / name).is_symlink()
    else:
        with pytest.raises(ConfigError, match=rf"{name} is a link"):
            start(run)
    assert [(path.name, path.read_text()) for path in elsewhere.parent.iterdir()] == [("step_00000001.ckpt", "theirs")]


def test_planted_temporary_link_is_not_followed(tmp_path: Path) -> None:
    target = put(tmp_path / "precious", "content")
    (tmp_path / f".model.safetensors.{os.getpid()}.tmp").symlink_to(target)
    save_model(tmp_path / "model.safetensors", CODEC, FACTORIZED, {})
    assert target.read_text() == "content"
    assert not (tmp_path / "model.safetensors").is_symlink()


# --- archives ---------------------------------------------------------------------------------------------------------


def opened(path: Path) -> Any:
    return open_source(str(path), Cache())


def test_members_that_lead_out_of_the_folder_are_renamed(tmp_path: Path) -> None:
    png = b"P6 8 8 255\n" + bytes(192)
    names = ["../../x.ppm", "/etc/y.ppm", "a/../../z.ppm", "fine/w.ppm", "..ppm/v.ppm"]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(8):
            for name in names:
                put(tmp_path / "one.ppm", png)
                archive.add(tmp_path / "one.ppm", name.replace(".ppm", f"{number}.ppm"))
    assert (
        cli.main(["data", "prepare", str(tmp_path / "x.tar"), str(tmp_path / "out"), "--side", "8", "--jobs", "1"]) == 0
    )
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as archive:
            written = archive.getnames()
        assert written
        assert not any(name.startswith("/") or ".." in name.split("/") for name in written)
        assert len(set(written)) == len(written)
    assert inside("fine/w.ppm") == "fine/w.ppm"
    assert inside("../x.ppm") != inside("../../x.ppm")
    assert all(".." not in inside(name).split("/") for name in ("..\\x.png", "C:/x.png", "../..", "/"))


def test_zip_member_that_unpacks_to_gigabytes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(80 * 2**20))
        archive.writestr("flat.ppm", b"P6 1000 1000 255\n" + bytes(3_000_000))  # compresses 1000 times, but is small
    source = opened(tmp_path / "x.zip")
    assert [source.name(number) for number in range(len(source))] == ["flat.ppm"]
    assert "are not an image" in source.index.problems[0].reason
    monkeypatch.setenv("LIC_TRAIN_ALLOWANCE_MIB", "100")
    assert len(opened(tmp_path / "x.zip")) == 2


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**62])
@pytest.mark.parametrize("field", [0, 1, 2], ids=["size", "packed", "header"])
def test_zip64_numbers_beyond_the_file(tmp_path: Path, value: int, field: int) -> None:
    numbers = [10, 10, 0]
    numbers[field] = value
    extra = b"\1\0\x18\0" + b"".join(number.to_bytes(8, "little") for number in numbers)
    central = b"PK\1\2" + bytes(6) + bytes(10) + b"\xff" * 8 + (5).to_bytes(2, "little")
    central += len(extra).to_bytes(2, "little") + bytes(10) + b"\xff" * 4 + b"a.png" + extra
    end = b"PK\5\6" + bytes(4) + b"\1\0\1\0" + len(central).to_bytes(4, "little") + bytes(6)
    path = put(tmp_path / "x.zip", central + end)
    found = record(lambda offset, size: path.read_bytes()[offset : offset + size], 0)
    assert (found.size, found.packed, found.header)[field] == value
    with pytest.raises(LicError):
        opened(path)


def write_parquet(path: Path, values: list[bytes | None], **options: Any) -> Path:
    pq.write_table(pa.table({"image": pa.array(values, pa.binary())}), path, row_group_size=len(values), **options)
    return path


def test_parquet_with_more_rows_than_bytes_raises(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [None] * 200_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"200,000 rows in [\d,]+ bytes"):
        opened(path)


def test_parquet_row_group_that_unpacks_to_more_than_its_file_justifies_raises(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [bytes(70 * 2**20)], compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="LIC_TRAIN_ALLOWANCE_MIB"):
        opened(path)


def test_parquet_dictionary_is_not_unpacked_without_bound(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [b"x" * 10**6] * 200, compression="zstd")
    source = opened(path)
    with pytest.raises(OSError, match="more bytes than its metadata declare"):
        source.read(0)


def test_changed_bytes_of_a_parquet_file_raise_only_known_errors(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [bytes([number]) * 50 for number in range(40)])
    content, generator = path.read_bytes(), torch.Generator().manual_seed(0)
    for position in torch.randint(len(content), (150,), generator=generator).tolist():
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            source = opened(path)
            for number in range(0, min(len(source), 40), 13):
                source.read(number)
        except (LicError, OSError):
            continue


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_text_from_files_is_neither_markup_nor_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    table = ruled_table("a", "b", title="[/nothing] \x1b[31m")
    table.add_row("[/red]", "[link=x]y[/link]\x1b]0;z\x07")
    console = Console(width=80)
    console.print(table)
    say_error(LicError("[/red] \ud800 \x1b[2J", got="[b]x"))
    shown = capsys.readouterr()
    assert "[/nothing]" in shown.out
    assert "[link=x]y[/link]" in shown.out
    assert "[/red]" in shown.err
    assert "\x1b" not in shown.out + shown.err
