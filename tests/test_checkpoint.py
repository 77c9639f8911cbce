"""Model files: round trips, also in another process, and one clear error for everything else."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lic_train.codec.__main__ import main
from lic_train.errors import CheckpointError, ConfigError
from lic_train.files.bitstream import decode, encode
from lic_train.files.checkpoint import fingerprint, load_model, move, read_metadata, save_model
from lic_train.runs.load import load_run
from tests.tiny import FACTORIZED, HYPERPRIOR, make_codec, make_run, picture, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    codec = make_codec()
    identity = save_model(path, codec, FACTORIZED, {"step": 7, "run_config": {"lambda": 0.01, "data": {"root": None}}})
    return path, codec, identity


def weights(codec) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in codec.state_dict().items() if "quantiles" not in name}


def test_load_returns_what_was_saved(saved):
    path, codec, identity = saved
    loaded, metadata = load_model(path)
    for name, tensor in weights(codec).items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert not loaded.training
    assert metadata.config == FACTORIZED
    assert metadata.training == {"step": 7, "lambda": 0.01}
    assert metadata.fingerprint == identity == fingerprint(loaded, FACTORIZED)


def test_loaded_model_decodes_the_file_of_the_saved_model(saved):
    path, codec, identity = saved
    x = picture(33, 47).float() / 255
    data = encode(codec, x, identity)
    loaded, metadata = load_model(path)
    assert torch.equal(decode(loaded, data, metadata.fingerprint), decode(codec, data, identity))


def test_half_precision_rounds_the_weights_and_nothing_else(tmp_path):
    codec, path = make_codec(), tmp_path / "half.safetensors"
    earlier = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    identity = save_model(path, codec, FACTORIZED, {}, half=True)
    loaded, metadata = load_model(path)
    assert metadata.fingerprint == identity != fingerprint(codec, FACTORIZED)
    parameters = {name for name, _ in codec.named_parameters()} - {"entropy_bottleneck.quantiles"}
    for name, tensor in weights(loaded).items():
        assert torch.equal(tensor, earlier[name].half().float() if name in parameters else earlier[name]), name
    assert all(torch.equal(tensor, earlier[name]) for name, tensor in codec.state_dict().items())
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert {stored[name] for name in parameters} == {torch.float16}

    x = picture(33, 47).float() / 255
    again, _ = load_model(path)
    assert torch.equal(
        decode(again, encode(loaded, x, identity), identity), decode(loaded, encode(loaded, x, identity), identity)
    )


def test_weights_that_float16_cannot_represent_are_one_error(tmp_path):
    codec = make_codec()
    with torch.no_grad():
        codec.g_s[0].weight[0, 0, 0, 0] = 1e5
    with pytest.raises(CheckpointError, match="not finite"):
        save_model(tmp_path / "half.safetensors", codec, FACTORIZED, {}, half=True)


def test_fingerprint_is_sha256_of_configuration_named_weights_and_tables():
    codec = make_codec()
    digest = hashlib.sha256(json.dumps(FACTORIZED, sort_keys=True).encode())
    for name, tensor in sorted({**weights(codec), **codec.coding_tables()}.items()):
        digest.update(f"{name} {tensor.numpy().dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert fingerprint(codec, FACTORIZED) == digest.digest()[:8]


def test_fingerprint_depends_on_weights_and_configuration_but_not_on_quantiles():
    codec = make_codec()
    first = fingerprint(codec, FACTORIZED)
    with torch.no_grad():
        codec.entropy_bottleneck.quantiles.add_(1)
    assert fingerprint(codec, FACTORIZED) == first
    assert fingerprint(codec, {**FACTORIZED, "N": 9}) != first
    with torch.no_grad():
        codec.g_s[0].bias[0] += 1e-6
    assert fingerprint(codec, FACTORIZED) != first


def test_failed_save_keeps_the_old_file(saved, monkeypatch):
    path, codec, _ = saved
    before = path.read_bytes()

    def half(tensors, target, metadata):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("lic_train.files.checkpoint.save_file", half)
    with pytest.raises(CheckpointError, match="disk full"):
        save_model(path, codec, FACTORIZED, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_truncated_file_raises(saved):
    path, _, _ = saved
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_model(path)


def test_changed_weight_raises(saved):
    path, _, _ = saved
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    with safe_open(path, "pt") as file:
        assert "g_a.0.weight" in file.keys()  # noqa: SIM118 (not a mapping)
    header = json.loads(content[8:begin])
    content[begin + header["g_a.0.weight"]["data_offsets"][0]] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged\.\nexpected: fingerprint"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(200), b"hello world " * 20])
def test_foreign_file_raises(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(path)


def test_foreign_safetensors_file_raises(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="is not a model that lic_train exported"):
        load_model(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"lic_train": "[1, 2"})
    with pytest.raises(CheckpointError, match="with the configuration of the model in its header"):
        load_model(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {**FACTORIZED, "N": 12},
            r"(?s)g_a.0.weight: expected float32 \(12, 3, 5, 5\), got float32 \(8, 3, 5, 5\).*\n  and \d+ more",
        ),
        (HYPERPRIOR, "h_a.* is missing"),
        ({**FACTORIZED, "width": 3}, "expected the arguments of its constructor"),
        ({"_target_": "os.system", "command": "true"}, "_target_: expected lic_train.models"),
        ({"_target_": "lic_train.models.nothing.Here"}, "expected an existing model"),
    ],
)
def test_weights_of_another_model_raise(tmp_path, config, message):
    path = tmp_path / "x.safetensors"
    save_model(path, make_codec(), config, {})
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_load_order_is_best_then_last_then_newest_step(tmp_path, capsys):
    make_run(tmp_path, seed=1)
    folder = tmp_path / "checkpoints"
    for step in (10, 20):
        save_checkpoint(folder / f"step_{step:08d}.ckpt", make_codec(seed=step), FACTORIZED, step)
    shutil.copy(folder / "step_00000020.ckpt", folder / "last.ckpt")

    def found(checkpoint: str) -> tuple[str, int]:
        _, metadata = load_run(tmp_path, checkpoint)
        return metadata.path.name, metadata.training["step"]

    assert found("best") == ("best.safetensors", 7)
    assert found("last") == ("last.ckpt", 20)
    assert found("step_00000010.ckpt") == ("step_00000010.ckpt", 10)
    (folder / "best.safetensors").write_bytes(b"broken")
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:-100])
    assert found("best") == ("step_00000020.ckpt", 20)
    printed = capsys.readouterr().err
    assert printed.count("Skipping a damaged checkpoint") == 2
    assert "best.safetensors" in printed
    assert "last.ckpt" in printed
    for path in folder.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="only damaged ones"):
        load_run(tmp_path)


def test_training_checkpoint_loads_its_averaged_weights(tmp_path):
    raw, average = make_codec(seed=1), make_codec(seed=2)
    averages = {f"model.{name}": parameter.detach() for name, parameter in average.named_parameters()}
    path = tmp_path / "x.ckpt"
    save_checkpoint(path, raw, FACTORIZED, 3, weight_averaging=averages)
    loaded, _ = load_run(path)
    assert fingerprint(loaded, FACTORIZED) == fingerprint(average, FACTORIZED)


def test_compiled_and_foreign_keys_of_a_training_checkpoint(tmp_path):
    codec = make_codec()
    content = {f"model._orig_mod.{name}": tensor for name, tensor in codec.state_dict().items()}
    content["metric.total"] = torch.zeros(())
    torch.save({"state_dict": content, "model_config": FACTORIZED, "global_step": 1}, tmp_path / "x.ckpt")
    loaded, _ = load_run(tmp_path / "x.ckpt")
    assert fingerprint(loaded, FACTORIZED) == fingerprint(codec, FACTORIZED)


def test_pickle_that_runs_code_raises(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"state_dict": {}, "model_config": {}, "global_step": Bomb()}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_run(tmp_path / "x.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_missing_run_or_file_raises(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_run(tmp_path / "no_such_run")
    with pytest.raises(CheckpointError, match="got: none\nto do: train first"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_run(tmp_path, "no_such_file.safetensors")


def test_unknown_device_raises():
    with pytest.raises(ConfigError, match="device 'gpu7' is not available"):
        move(make_codec(), "gpu7")


def test_export_and_show_in_a_fresh_process(tmp_path, capsys):
    codec = make_run(tmp_path / "run", seed=4)
    command = [sys.executable, "-W", "ignore", "-m", "lic_train.codec", "export", str(tmp_path / "run")]
    subprocess.run([*command, str(tmp_path / "out.safetensors")], cwd=ROOT, check=True, timeout=300)
    loaded, metadata = load_model(tmp_path / "out.safetensors")
    assert fingerprint(loaded, FACTORIZED) == fingerprint(codec, FACTORIZED) == metadata.fingerprint
    assert metadata.training == {"step": 7, "lambda": 0.0067}
    assert main(["show", str(tmp_path / "out.safetensors")]) == 0
    shown = capsys.readouterr().out
    parameters = sum(parameter.numel() for parameter in codec.parameters())
    assert f"{parameters:,}" in shown
    assert metadata.fingerprint.hex() in shown


def test_export_of_the_last_checkpoint(tmp_path):
    codec = make_codec(seed=9)
    save_checkpoint(tmp_path / "checkpoints" / "last.ckpt", codec, FACTORIZED, 12)
    assert main(["export", str(tmp_path), "--checkpoint", "last"]) == 0
    metadata = read_metadata(tmp_path / "model.safetensors")
    assert metadata.training == {"step": 12}
    assert metadata.fingerprint == fingerprint(codec, FACTORIZED)


def test_export_in_half_precision(tmp_path):
    make_run(tmp_path)
    sizes = []
    for words in ([], ["--half"]):
        assert main(["export", str(tmp_path), str(tmp_path / "out.safetensors"), *words]) == 0
        sizes.append(sum(tensor.nbytes for tensor in load_file(tmp_path / "out.safetensors").values()))
    bits_of_parameters = 16 * sum(parameter.numel() for parameter in make_codec().parameters())
    assert 8 * (sizes[0] - sizes[1]) == pytest.approx(bits_of_parameters, rel=0.05)  # tables differ in size


def test_command_line_prints_errors_without_a_traceback(tmp_path, capsys):
    assert main(["show", str(tmp_path / "[nothing]")]) == 2
    assert "[nothing] does not exist" in capsys.readouterr().err
