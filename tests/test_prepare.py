"""Prepared tiles: lossless coverage of every photograph, continuation after interruptions, and use for training."""

from __future__ import annotations

import io
import json
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from lic_train.data.prepare import shards
from lic_train.data.prepare.__main__ import main
from lic_train.data.prepare.tiles import FORMATS, grid, patches, starts
from lic_train.errors import DataError


def photograph(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "photographs"
    for part, count in (("train", 5), ("val", 2)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            photograph(300 + 40 * number, 280, number).save(folder / part / f"{number}.png")
    (folder / "train" / "broken.jpg").write_bytes(b"no picture")
    return folder


def read(path):
    with tarfile.open(path) as tar:
        return {member.name: Image.open(io.BytesIO(tar.extractfile(member).read())) for member in tar}


@pytest.mark.parametrize(("length", "side"), [(1, 4), (4, 4), (5, 4), (8, 4), (9, 4), (1000, 384), (385, 384)])
def test_intervals_cover_the_length_evenly(length, side):
    found = starts(length, side)
    ends = [start + side for start in found]
    assert found[0] == 0
    assert length == 1 or ends[-1] == max(length, side)
    assert all(after <= end for after, end in zip(found[1:], ends[:-1], strict=True))
    assert len(found) == -(-length // side)


def test_tiles_rebuild_the_photograph():
    image = photograph(517, 300)
    rebuilt = np.zeros((300, 517, 3), np.uint8)
    for tile in grid(image, 128):
        top, left = map(int, tile.label.split("_"))
        piece = np.asarray(tile.image)
        assert piece.shape == (128, 128, 3)
        rebuilt[top : top + 128, left : left + 128] = piece
    assert (rebuilt == np.asarray(image)).all()
    assert [tile.image.size for tile in grid(photograph(90, 300), 128)] == [(90, 128)] * 3


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_formats_are_lossless(kind):
    image = photograph(33, 21)
    assert (np.asarray(Image.open(io.BytesIO(FORMATS[kind](image))).convert("RGB")) == np.asarray(image)).all()


def test_patches_follow_the_rule_of_the_paper():
    image = photograph(600, 500)
    made = list(patches(image, seed=3, number=7))
    assert len(made) == 4 * (600 * 500 // 65536)
    assert {tile.image.size for tile in made} == {(256, 256)}
    again = list(patches(image, seed=3, number=7))
    assert all((np.asarray(a.image) == np.asarray(b.image)).all() for a, b in zip(made, again, strict=True))
    others = list(patches(image, seed=3, number=8)) + list(patches(image, seed=4, number=7))
    assert not any((np.asarray(made[0].image) == np.asarray(other.image)).all() for other in others)
    assert list(patches(photograph(600, 255), 3, 7)) == []


def test_patches_are_scaled_by_their_factor():
    """On a ramp, the range of values in a patch gives the side of its source square: 256 to 256 / 0.6."""
    ramp = np.linspace(0, 255, 1024)[None, :, None].repeat(1024, 0).repeat(3, 2).astype(np.uint8)
    spans = [
        np.ptp(np.asarray(tile.image)[128, :, 0].astype(int)) * 1024 / 255
        for tile in patches(Image.fromarray(ramp), 0, 0)
    ]
    assert min(spans) == pytest.approx(256, abs=14)
    assert max(spans) == pytest.approx(256 / 0.6, abs=14)
    assert np.mean(spans) == pytest.approx(256 * np.log(1 / 0.6) / 0.4, rel=0.06)


def test_command_writes_shards_with_every_pixel(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(root), str(out), "--side", "128", "--per-shard", "2", "--jobs", "2", "--format", "webp"]) == 0
    output = capsys.readouterr().out
    assert "6, 1 of them left out" not in output  # five training, one broken, two validation
    assert "8, 1 of them left out" in output
    assert "broken.jpg (not an image" in output
    assert sorted(path.name for path in out.glob("*.tar")) == [
        *(f"train-00000{n}.tar" for n in range(3)),
        "val-000000.tar",
    ]
    tiles = {name: tile for path in out.glob("train-*.tar") for name, tile in read(path).items()}
    for number in range(5):
        original = np.asarray(photograph(300 + 40 * number, 280, number))
        rebuilt = np.zeros_like(original)
        for name, tile in tiles.items():
            if name.startswith(f"train/{number}.png/"):
                top, left = map(int, name.split("/")[2].removesuffix(".webp").split("_"))
                rebuilt[top : top + 128, left : left + 128] = np.asarray(tile)
        assert (rebuilt == original).all()
    assert sorted(read(out / "val-000000.tar")) == ["val/0.png", "val/1.png"]
    record = json.loads((out / "prepared.json").read_text())
    assert record["tiles"] == len(tiles)
    assert [entry[0] for entry in record["left_out"]] == ["train/broken.jpg"]


def test_repeated_command_continues(root, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = [str(root), str(out), "--side", "128", "--per-shard", "2", "--jobs", "1"]
    assert main(command) == 0
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.tar")}
    (out / "train-000001.tar").unlink()
    (out / "val-000000.tar").write_bytes(b"cut short")
    (out / ".train-000002.tar.99.tmp").write_bytes(b"of a killed process")
    assert main(command) == 0
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.tar")}
    assert {name: data for name, (_, data) in after.items()} == {name: data for name, (_, data) in before.items()}
    assert after["train-000000.tar"][0] == before["train-000000.tar"][0]
    assert "2 of 4 shards exist already" in capsys.readouterr().out
    assert main([*command, "--side", "64"]) == 2
    assert "choose another output folder" in capsys.readouterr().err
    assert main([*command, "--verify"]) == 0
    data = bytearray((out / "train-000000.tar").read_bytes())
    data[700] ^= 1
    (out / "train-000000.tar").write_bytes(data)
    assert main([*command, "--verify"]) == 2
    assert "train-000000.tar is missing or damaged" in capsys.readouterr().err


def test_difference_after_reading_back_raises(root, tmp_path, monkeypatch):
    lossy = dict(shards.FORMATS, ppm=lambda image: FORMATS["ppm"](image.point(lambda value: value & 0xFE)))
    monkeypatch.setattr(shards, "FORMATS", lossy)
    job = shards.Job(Photographs(), Photographs(), tmp_path, shards.Preparation("grid", 64, "ppm", 1, 0, 0.1), "key")
    with pytest.raises(DataError, match="differ from the data written"):
        job.write(job.shards()[0])
    assert list(tmp_path.glob("train*")) == []


class Photographs:
    def __len__(self):
        return 1

    def name(self, index):
        return "one.png"

    def read(self, index):
        return FORMATS["png"](photograph(64, 64))


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--cut", "strips"], "expected: one of grid, patches"), (["--format", "jpeg"], "expected: one of ppm"),
     (["--side", "0"], "at least 1")],
)  # fmt: skip
def test_invalid_options(root, tmp_path, capsys, option, message):
    with pytest.raises(SystemExit) as ended:  # of the parser, or with the exit code of the command
        sys.exit(main([str(root), str(tmp_path / "out"), *option]))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_root_without_usable_photographs(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    (tmp_path / "small").mkdir()
    for number in range(3):
        photograph(60, 60).save(tmp_path / "small" / f"{number}.png")
    assert main([str(tmp_path / "small"), str(tmp_path / "out"), "--cut", "patches"]) == 2
    assert "can be cut" in capsys.readouterr().err
