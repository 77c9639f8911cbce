"""Run directories from a stranger: nothing in them is executed, and every command answers with one error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lic_train
from lic_train import cli
from lic_train.errors import ConfigError, DataError, LicError
from lic_train.evaluate.run import stored_result
from lic_train.launch.table import Row, render
from lic_train.report.build import Options, build
from lic_train.runs.claim import claim
from lic_train.runs.state import read_state, validation_loss
from lic_train.runs.training_log import read_log
from lic_train.runs.untrusted import data_of
from lic_train.system import reading
from lic_train.system.reading import Unreadable, parse_json, plain, read_yaml
from tests.report_tree import put, result, write_anchors, write_run
from tests.tiny import FACTORIZED, make_codec, save_checkpoint

SOURCES = "lic_train.data.sets.sources"
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
HUGE = "9" * 4000
DEEP = "[" * 100_000


def data_section(**data: Any) -> str:
    return yaml.safe_dump({"data": data})


def executed(target: str, *arguments: Any, **more: Any) -> str:
    return data_section(source={"_target_": target, "_args_": list(arguments), **more}, root=None)


# Configurations of a data set. Each would execute something, read another file, or use memory without bound.
CONFIGURATIONS = {
    "a child process": executed("lic_train.launch.process.Child", arguments=["touch", "owned"], log="log"),
    "os.system": executed("os.system", "touch owned"),
    "os.system as the whole section": "data: {_target_: os.system, _args_: [touch owned]}",
    "subprocess": executed("subprocess.run", ["touch", "owned"]),
    "eval": executed("builtins.eval", "open('owned', 'w')"),
    "exec": executed("builtins.exec", "open('owned', 'w')"),
    "pathlib": executed("pathlib.Path.touch", "owned"),
    "torch.hub": executed("torch.hub.load", "folder", "model", source="local"),
    "torch.load": executed("torch.load", "owned.pt", weights_only=False),
    "numpy.load": executed("numpy.load", "owned.npy", allow_pickle=True),
    "pandas": executed("pandas.read_pickle", "owned.pkl"),
    "hydra": executed("hydra.utils.get_method", "os.system"),
    "hydra, nested": data_section(
        source={"_target_": f"{SOURCES}.folder", "weights": {"_target_": "os.system"}}, root="."
    ),
    "another function of the module": executed(f"{SOURCES}._packaged", "os", "path.py"),
    "a class of the module": executed(f"{SOURCES}.FileSource", []),
    "an imported module": executed(f"{SOURCES}.os.system", "touch owned"),
    "a model": executed("lic_train.models.cwam.CWAM"),
    "an empty target": executed(""),
    "a target that is a list": "data: {source: {_target_: [os.system]}, root: .}",
    "a Python object": "data: !!python/object/apply:os.system [touch owned]",
    "a Python name": "data: !!python/name:os.system",
    "a Python module": "!!python/module:antigravity",
    "an environment variable": data_section(source={"_target_": f"{SOURCES}.folder"}, root="${oc.env:LIC_SECRET}"),
    "an environment variable in an option": data_section(
        source={"_target_": f"{SOURCES}.folder", "split": "${oc.env:LIC_SECRET}"}, root="."
    ),
    "a decoded variable": data_section(
        source={"_target_": f"{SOURCES}.folder"}, root="${oc.decode:${oc.env:LIC_SECRET}}"
    ),
    "an unknown option": data_section(source={"_target_": f"{SOURCES}.folder", "loader": "os.system"}, root="."),
    "an option of another type": data_section(source={"_target_": f"{SOURCES}.folder", "val_ratio": "x"}, root="."),
    "a null character": data_section(source={"_target_": f"{SOURCES}.folder"}, root="a\0b"),
    "a number as the root": data_section(source={"_target_": f"{SOURCES}.folder"}, root=7),
    "billion laughs": LAUGHS + "data: *j",
    "merged laughs": "a: &a {x: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [*a, *a]}}\n" for n in range(9)),
    "a cycle": "data: &data {source: *data}",
    "a deep list": "data: " + "[" * 3000,
    "a huge number": f"data: {HUGE}",
    "a huge hexadecimal number": f"data: 0x{'f' * 9000}",
    "a date": "data: 2001-01-01",
    "an empty number": "data: !!int ''",
    "a false boolean": "data: !!bool x",
    "half of a surrogate pair": 'data: "\\ud800"',
    "a large file": "# " + "x" * reading.MAX_YAML_BYTES,
    "no mapping": "[1, 2]",
    "nothing": "",
}


@pytest.fixture
def owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a file that a payload would create in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIC_SECRET", "the-secret")
    return tmp_path / "owned"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration_of_a_run_is_data(
    tmp_path: Path, owned: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = tmp_path / "run"
    put(run / ".hydra/config.yaml", CONFIGURATIONS[name])
    with pytest.raises((ConfigError, DataError)) as caught:
        data_of(run)
    save_checkpoint(run / "checkpoints" / "last.ckpt", CODEC, FACTORIZED, 3)
    assert cli.main(["evaluate", str(run), "panels=0"]) == 2
    assert cli.main(["card", str(run)]) == 2
    with pytest.raises(ConfigError, match="expected: "):
        claim(run, {"lambda": 0.1, "model": {}, "data": {}}, fresh=False)
    assert not owned.exists()
    assert "the-secret" not in str(caught.value) + "".join(capsys.readouterr())


CODEC = make_codec()


def test_only_the_images_are_taken_from_the_configuration(tmp_path: Path, owned: Path) -> None:
    for name in "abcdefgh":
        put(tmp_path / "set" / f"{name}.png", b"")
    source = {"_target_": f"{SOURCES}.folder", "_partial_": True, "val_ratio": 0.4, "split": "sorted"}
    source |= {"cache": str(tmp_path / "elsewhere"), "cache_gib": 10**9}
    section = {"_target_": "os.system", "num_workers": "os.system", "source": source, "root": "set"}
    put(tmp_path / "run" / ".hydra/config.yaml", yaml.safe_dump({"data": section, "crop": LAUGHS, "batch_size": -1}))
    photographs = data_of(tmp_path / "run")
    assert [photographs.val.name(number) for number in range(len(photographs.val))] == [
        "e.png",
        "f.png",
        "g.png",
        "h.png",
    ]
    assert not (tmp_path / "elsewhere").exists()


def test_declared_source_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "declared_set.py", f"from {SOURCES} import demo\n\ndef mine(root=None):\n    return demo()\n")
    metadata = tmp_path / "declared_set-1.0.dist-info"
    put(metadata / "METADATA", "Metadata-Version: 2.1\nName: declared-set\nVersion: 1.0\n")
    put(metadata / "entry_points.txt", "[lic_train.data]\nmine = declared_set:mine\n")
    put(tmp_path / "run" / ".hydra/config.yaml", executed("declared_set.mine").replace("_args_: []", ""))
    with pytest.raises(ConfigError, match="declared entry point"):
        data_of(tmp_path / "run")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(data_of(tmp_path / "run").val) == 2


@pytest.mark.parametrize(
    "root",
    [
        "s3://bucket/shards",
        "http://host/{0000..9999}.tar",
        "HTTPS://host/x.zip",
        "hf://datasets/x",
        "memory://set",
        "file:///etc",
        "zip::http://host/x.zip",
        "simplecache::memory://set/*.tar",
        ["set", "s3://bucket/shards"],
    ],
)
@pytest.mark.parametrize("source", ["folder", "imagenet"])
def test_addresses_of_a_configuration_are_not_opened(
    tmp_path: Path,
    owned: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    root: Any,
) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: pytest.fail("a file system was opened"))
    monkeypatch.setattr("lic_train.data.archives.remote._system", lambda *_: pytest.fail("a server was contacted"))
    put(tmp_path / "set" / "a.png", b"")
    run = tmp_path / "run"
    put(run / ".hydra/config.yaml", data_section(source={"_target_": f"{SOURCES}.{source}"}, root=root))
    save_checkpoint(run / "checkpoints" / "last.ckpt", CODEC, FACTORIZED, 3)
    assert cli.main(["evaluate", str(run), "panels=0"]) == 2
    message = capsys.readouterr().err
    assert "an address, which is not opened" in message
    assert "eval.root=" in message


# --- records ----------------------------------------------------------------------------------------------------------


def changed_result(**change: Any) -> str:
    return json.dumps({**result(0.1, 33), **change})


def with_row(**change: Any) -> str:
    content = result(0.1, 33)
    content["rows"][0] |= change
    return json.dumps(content)


# File and content: each replaces one record of a finished run.
RECORDS = [
    *((file, content) for file in ("finished.json", "environment.json", "eval/kodak.json") for content in (
        DEEP, HUGE, f'{{"step": {HUGE}}}', "[]", "7", '"text"', "null", "{}", '{"step": []}', '"\\ud800"', "\xff\xfe\0",
    )),
    ("finished.json", '{"step": 1e400, "results": {}}'),
    ("finished.json", '{"step": 300, "results": {"psnr": "high", "bpp_file": [1], "equal": "yes"}}'),
    ("finished.json", f'{{"step": 300, "results": {{"psnr": {"9" * 400}, "bpp_file": NaN, "equal": true}}}}'),
    ("environment.json", '{"code": [], "torch": 7, "gpus": {"name": 1}, "command": 3, "cpu": null, "started": [1]}'),
    ("environment.json", '{"code": {"commit": 5, "dirty": "x"}, "python": {}, "gpus": [[1], 2, {"name": ["a"]}]}'),
    ("eval/kodak.json", with_row(psnr=1e300)),
    ("eval/kodak.json", with_row(bytes=2**70)),
    ("eval/kodak.json", with_row(name="[/red]")),
    ("eval/kodak.json", with_row(encode_seconds="x", name="\x1b]0;owned\x07")),
    ("eval/kodak.json", changed_result(rows=[[]])),
    ("eval/kodak.json", changed_result(environment={"device": [1]}, training={"lambda": {}})),
    ("eval/kodak.json", changed_result(mean=3)),
    ("metrics.csv", "step,train/loss\n1e308,1e308\n1e308,1e308\n"),
    ("metrics.csv", f"step,train/loss\n{HUGE},1\n"),
    ("metrics.csv", f"step,train/loss\n1,{'x' * 200_000}\n"),
    ("metrics.csv", 'step,train/loss\n1,"' + "x" * 200_000),
    ("metrics.csv", "step,train/loss\r1,2\r\n3,4\r5\n"),
    ("metrics.csv", "step,step,step\n1,2,3\n"),
    ("metrics.csv", "," * 60_000 + "\n" + "," * 60_000 + "\n"),
    ("metrics.csv", "step\0,train/loss\n1,2\n"),
    (".hydra/overrides.yaml", LAUGHS),
    (".hydra/overrides.yaml", "&a [*a]"),
    (".hydra/overrides.yaml", "[[1], {a: b}, null, 2001-01-01]"),
    (".hydra/overrides.yaml", "- model.N=[red]\n- \"\\e[31m\"\n"),
    (".hydra/config.yaml", LAUGHS),
]  # fmt: skip


@pytest.mark.parametrize(("file", "content"), RECORDS)
def test_records_of_a_run_give_no_traceback(tmp_path: Path, file: str, content: str) -> None:
    run = write_run(tmp_path, "cwam", 0.1, 33)
    put(run / file, content.encode("latin-1"))
    state = read_state(run)
    assert isinstance(
        render("sweep [red]", [Row(_job(run), "failed", state, validation_loss(run))], True).row_count, int
    )
    read_log(run / "metrics.csv", ["train/loss"])
    stored_result(run / "eval/kodak.json")
    assert cli.main(["card", str(run)]) in (0, 2)


def _job(run: Path) -> Any:
    class Job:
        directory = run
        config = type("Config", (), {"steps": 300})

    return Job()


def test_report_of_a_tree_of_hostile_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lic_train.report.build.export", lambda *_: None)  # drawing takes longer than all else
    outputs = tmp_path / "outputs"
    write_run(outputs, "gaacnn", 0.1, 33)
    for number, (file, content) in enumerate(RECORDS):
        run = write_run(outputs, "gaacnn", 0.2 + number / 1000, 33, folder=f"[red]{number}")
        put(run / file, content.encode("latin-1"))
    curve = json.loads(next((write_anchors(outputs) / "anchors/kodak").glob("*.json")).read_text())
    points = curve["points"]
    hostile = [
        DEEP, HUGE, "[]", "null", '{"format": 1}',
        json.dumps({**curve, "points": [[1]]}),
        json.dumps({**curve, "points": [{**points[0], "bpp": "x"}]}),
        json.dumps({**curve, "points": [{**points[0], "bpp": -1}]}),
        json.dumps({**curve, "points": [{**points[0], "psnr": 1e308}, {**points[1], "psnr": -1e308}]}),
        json.dumps({**curve, "key": [1], "name": {}}),
        json.dumps({**curve, "about": 3}),
    ]  # fmt: skip
    for number, content in enumerate(hostile):
        put(outputs / "anchors/kodak" / f"hostile_{number}.json", content)
        put(outputs / "complexity" / f"hostile_{number}.json", content)
    written = build(Options(outputs, tmp_path / "report", pictures=0))
    assert written.places["report"].stat().st_size > 10_000
    assert sum(item.what.startswith("anchor hostile") for item in written.left_out) == len(hostile)


@pytest.mark.parametrize("name", ["eval/heldout", "eval", "pictures"])
def test_results_are_not_written_through_links(tmp_path: Path, name: str) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_checkpoint(run / "checkpoints" / "last.ckpt", CODEC, FACTORIZED, 3)
    put(run / ".hydra/config.yaml", data_section(source={"_target_": f"{SOURCES}.demo"}, root=None))
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(elsewhere, target_is_directory=True)
    assert cli.main(["evaluate", str(run), "eval.limit=1", "panels=1"]) == 2
    assert list(elsewhere.iterdir()) == []


# --- the readers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 40 + "1" + "}" * 40, HUGE, "[" + "1," * reading.MAX_JSON_VALUES + "1]"]
)
def test_json_outside_the_limits_raises(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_json(text)


def test_shared_objects_count_as_often_as_they_are_repeated() -> None:
    content: list[Any] = [1] * 9
    for _ in range(12):
        content = [content] * 9
    with pytest.raises(Unreadable, match="more than 65,536 values"):
        plain(content)
    with pytest.raises(Unreadable, match="a value of type tuple"):
        plain([(1, 2)])
    with pytest.raises(Unreadable, match="a value of type Tensor"):
        plain({"a": torch.zeros(1)})


def test_files_within_the_limits_are_read_unchanged(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, True, None, "ä", {"b": [-(2**63), 1e300]}], "c": "${oc.env:HOME}"}
    assert parse_json(json.dumps(content)) == content
    assert read_yaml(put(tmp_path / "x.yaml", yaml.safe_dump(content, allow_unicode=True))) == content
    assert read_yaml(put(tmp_path / "y.yaml", "a: &a [1, 2]\nb: *a\n")) == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_pipes_and_folders_in_place_of_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    run = tmp_path / "run"
    save_checkpoint(run / "checkpoints" / "step_00000003.ckpt", CODEC, FACTORIZED, 3)
    for name in ("best.safetensors", "last.ckpt", "step_00000009.ckpt"):
        make(run / "checkpoints" / name)
    for name in (".hydra/config.yaml", "metrics.csv", "environment.json", "finished.json"):
        (run / name).parent.mkdir(exist_ok=True)
        make(run / name)
    assert lic_train.load(run).metadata.path.name == "step_00000003.ckpt"
    assert cli.main(["card", str(run)]) == 2
    assert read_state(run).step == 0
    with pytest.raises(LicError):
        claim(run, {"lambda": 0.1, "model": {}}, fresh=False)
    with pytest.raises(LicError):
        data_of(run)
