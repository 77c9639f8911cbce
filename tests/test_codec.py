"""``lic compress`` and ``lic decompress``: pictures to files and back, and their errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lic_train.codec.__main__ import main
from lic_train.codec.load import find_model
from lic_train.data.decode.images import read_image, save_png
from lic_train.errors import CheckpointError
from lic_train.files.bitstream import decode, estimate
from lic_train.rd.metrics import to_8bit
from lic_train.runs.load import load_run
from tests.tiny import HYPERPRIOR, make_run, picture

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "runs" / "a")
    return tmp_path / "runs" / "a"


@pytest.fixture
def source(tmp_path):
    save_png(tmp_path / "in.png", picture(97, 131))
    return tmp_path / "in.png"


def test_round_trip_through_another_process(run, source, tmp_path, capsys):
    target, back = tmp_path / "out.lic", tmp_path / "back.png"
    assert main(["compress", str(source), str(target), "--run", str(run)]) == 0
    shown = capsys.readouterr().out
    size = target.stat().st_size
    assert f"{size:,}" in shown
    assert f"{8 * size / (97 * 131):.4f}" in shown
    command = [sys.executable, "-W", "ignore", "-m", "lic_train.codec", "decompress", str(target), str(back)]
    subprocess.run([*command, "--search", str(tmp_path)], cwd=ROOT, check=True, timeout=300)
    codec, _ = load_run(run)
    expected = to_8bit(estimate(codec, picture(97, 131).float() / 255).x_hat)
    assert torch.equal(read_image(back).float(), expected)


def test_file_decodes_with_its_model(run, source, tmp_path):
    target = tmp_path / "out.lic"
    main(["compress", str(source), str(target), "--run", str(run / "checkpoints" / "best.safetensors")])
    codec, metadata = load_run(run)
    assert decode(codec, target.read_bytes(), metadata.fingerprint).shape == (3, 97, 131)


def test_model_is_found_by_its_fingerprint(run, tmp_path):
    for seed in range(1, 4):
        make_run(tmp_path / "runs" / f"other_{seed}", seed)
    (tmp_path / "runs" / "x.safetensors").write_bytes(b"no model")
    _, metadata = load_run(run)
    assert find_model(metadata.fingerprint, tmp_path) == run / "checkpoints" / "best.safetensors"


def test_missing_model_lists_the_files_that_were_searched(run, tmp_path):
    (tmp_path / "runs" / "x.safetensors").write_bytes(b"no model")
    _, metadata = load_run(run)
    with pytest.raises(CheckpointError) as caught:
        find_model(bytes(8), tmp_path)
    for part in ("00" * 8, "2 files", metadata.fingerprint.hex(), "x.safetensors (unreadable", "--search"):
        assert part in str(caught.value)
    with pytest.raises(CheckpointError, match=r"got: no \.safetensors file"):
        find_model(bytes(8), tmp_path / "empty")


def test_file_of_another_model_raises(run, source, tmp_path, capsys):
    make_run(tmp_path / "runs" / "b", 5, HYPERPRIOR)
    target = tmp_path / "out.lic"
    main(["compress", str(source), str(target), "--run", str(run)])
    status = main(["decompress", str(target), str(tmp_path / "x.png"), "--run", str(tmp_path / "runs" / "b")])
    assert status == 2
    assert "The .lic file is from another model" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_invalid_input_exits_with_one_error(run, source, tmp_path, capsys):
    text, target = tmp_path / "a.txt", str(tmp_path / "out")
    text.write_text("no picture")
    model = ["--run", str(run)]
    for arguments, message in (
        (["compress", str(text), f"{target}.lic", *model], "a.txt: not an image"),
        (["compress", str(tmp_path / "none.png"), f"{target}.lic", *model], "none.png"),
        (["compress", str(source), f"{target}.lic", "--run", str(tmp_path / "none")], "does not exist"),
        (["compress", str(source), f"{target}.lic", *model, "--max-pixels", "100"], "at most 100 pixels"),
        (["decompress", str(source), f"{target}.png", *model], "got: a PNG picture"),
        (["decompress", str(text), f"{target}.png"], "begins with b'no pictu'"),
        (["decompress", str(tmp_path / "none.lic"), f"{target}.png"], "none.lic"),
        (["decompress", str(text), f"{target}.jpg", *model], "ends in .png"),
    ):
        assert main(arguments) == 2, arguments
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
