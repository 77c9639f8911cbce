"""Training from ImageNet's tar of tars: interrupted and resumed, and compared with the unpacked folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train import train
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import DataError
from lic_train.training.callbacks.interrupt import Interrupted
from tests.conftest import SHARED
from tests.made_up import imagenet_tar, tar_bytes, write_tree
from tests.small_runs import stop_at, weights


def some_photographs(side: str, count: int) -> dict[str, bytes]:
    """Return photographs of ../shared, or synthetic images, as <wnid>/<name>.JPEG."""
    found = sorted((SHARED / "imagenet_sample" / side).glob("*/*.JPEG"))[:count]
    if found:
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}
    return {f"n0000000{i % 3}/{side}{i}.JPEG": made_up(i) for i in range(count)}


def made_up(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((90, 80), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def sets(tmp_path) -> Path:
    """Seven photographs for training and two for validation, as a folder and as tars."""
    sides = {"train": some_photographs("train", 7), "val": some_photographs("val", 2)}
    for side, files in sides.items():
        write_tree(tmp_path / "sets" / "folder" / side, files)
    flat = {name.rpartition("/")[2]: data for name, data in sides["val"].items()}
    tars = {"ILSVRC2012_img_train.tar": imagenet_tar(sides["train"]), "ILSVRC2012_img_val.tar": tar_bytes(flat)}
    return write_tree(tmp_path / "sets", tars)


@pytest.fixture
def run(tmp_path, sets):
    """A function (directory name, root, more overrides) -> exit code of a run of six steps."""

    def start(name: str, root: str, *overrides: str) -> int:
        command = [
            "model=bmshj2018_factorized", "model.N=8", "model.M=12", "data=imagenet", f"data.root={sets / root}",
            f"data.source.cache={tmp_path / 'cache'}", "data.num_workers=2", "steps=6", "batch_size=2", "crop=64",
            "precision=32", "logger=csv", "validate.every=6", "validate.bitstreams=0", "eval.limit=1",
            "trainer.accelerator=cpu", f"output={tmp_path / name}",
        ]  # fmt: skip
        return train.train(checked(compose([*command, *overrides])))

    return start


@pytest.mark.parametrize("crops", [1, 3])
def test_interrupted_training_from_a_tar_of_tars_equals_training_from_the_folder(
    run, sets, tmp_path, monkeypatch, crops
):
    tar, crops = "ILSVRC2012_img_train.tar", f"data.crops_per_image={crops}"
    assert run("folder", "folder", crops) == 0
    with monkeypatch.context() as patch:
        stop_at(4, patch)  # after 10 samples, in the second epoch of 7
        with pytest.raises(Interrupted):
            run("tar", tar, crops)
    assert run("tar", tar, crops, "data.num_workers=0") == 0
    expected, got = weights(tmp_path / "folder"), weights(tmp_path / "tar")
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    manifests = [json.loads((tmp_path / name / "data_manifest.json").read_text()) for name in ("folder", "tar")]
    assert manifests[0]["train"] == manifests[1]["train"]
    assert manifests[1]["train"]["photographs"] == 7
    assert manifests[1]["root"] == str(sets / tar)


def test_resuming_with_other_photographs_raises(run, sets, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(Interrupted):
            run("a", "folder", "data.num_workers=0")
    gone = next((sets / "folder" / "train").glob("*/*.JPEG"))
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(DataError, match=r"other photographs.*\n.*\n.*\n.*\n.*training photographs: 7 -> 6"):
        run("a", "folder", "data.num_workers=0")
    gone.write_bytes(data)
    assert run("a", "folder", "data.num_workers=0") == 0  # the failed start has released the directory


def test_damaged_archive_is_reported_at_the_start_and_in_the_report(run, sets, tmp_path, capsys):
    path = sets / "ILSVRC2012_img_train.tar"
    files = {f"n00000001/{i:03d}.JPEG": data for i, data in enumerate(some_photographs("train", 30).values())}
    path.write_bytes(imagenet_tar(files)[: -10240 - 600])  # without the end mark and a part of the last class
    assert run("a", path.name, "steps=1", "data.num_workers=0") == 0
    assert f"damaged archive: {path.name}" in capsys.readouterr().out
    report = json.loads((tmp_path / "a" / "data_report.json").read_text())
    assert report["damaged"] == []
    assert "cut short" in report["archives"][0]["reason"]
    assert report["archives"][0]["file"].startswith(path.name)
