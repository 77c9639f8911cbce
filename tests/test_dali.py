"""DALI decodes the same crops as Pillow; without DALI there is an error. Its CPU decoders run on any machine."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.data.decode.images import Picture, UnreadableImage
from lic_train.data.module import Photographs
from lic_train.data.sets.sources import folder
from lic_train.data.stream.dali import DaliLoader, File
from lic_train.errors import ConfigError, DataError
from tests.made_up import png, write_tree
from tests.test_jpeg_rows import jpeg

HAS_DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
needs_dali = pytest.mark.skipif(not HAS_DALI, reason="needs the extra dali (600 MB)")
without_dali = pytest.mark.skipif(HAS_DALI, reason="NVIDIA DALI is installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Plain JPEGs of all subsamplings, and files for Pillow: rotated, small, other colours and formats, damaged."""
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {f"train/{i}.jpg": jpeg(subsampling=i % 3, size=(60 + i, 90)) for i in range(9)}
    files |= {"train/a.jpg": jpeg("L"), "train/b.jpg": jpeg(progressive=True), "train/c.jpg": jpeg("CMYK")}
    files |= {"train/d.jpg": jpeg(exif=turned), "train/e.jpg": jpeg(size=(20, 40)), "train/f.png": png(1, 50, 60)}
    files |= {"train/g.jpg": jpeg()[:900], "train/h.jpg": b"no picture", "val/v.png": png(2, 50, 50)}
    return write_tree(tmp_path_factory.mktemp("set"), files)


def batches(root: Path, decoder: str, workers: int = 0, count: int = 12, **options) -> list:
    data = Photographs(
        folder, root=str(root), crop=32, batch_size=4, seed=3, num_workers=workers, decoder=decoder, **options
    )
    loader = data.stream()
    found = list(itertools.islice(iter(loader), count))
    loader.close()
    return found


def same(one: list, other: list) -> bool:
    tensors = all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in ("x", "flip"))
    rest = all(a["failures"] == b["failures"] and a["small"] == b["small"] for a, b in zip(one, other, strict=True))
    return tensors and rest and all(set(a) == set(b) for a, b in zip(one, other, strict=True))


@needs_dali
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("small", ["reflect", "skip"])
def test_dali_pixels_equal_those_of_pillow(root, workers, small):
    expected = batches(root, "pillow", small=small)
    assert same(batches(root, "dali", workers, small=small), expected)
    assert any(batch["failures"] for batch in expected)


@needs_dali
def test_dali_decodes_all_plain_files(root, monkeypatch):
    decoded = []
    original = Picture.rgb
    monkeypatch.setattr(Picture, "rgb", lambda self, rows=None: decoded.append(self) or original(self, rows))
    assert len(batches(root, "dali", count=12)) == 12
    assert 0 < len(decoded) < 24  # of 48 samples: 7 of 17 files are not for DALI, and one of these has a bad header
    assert not any(picture.is_plain_jpeg and min(picture.size) >= 32 for picture in decoded)


@needs_dali
def test_file_that_dali_cannot_decode_is_replaced_by_pillow(root, tmp_path):
    spoilt = bytearray(jpeg())
    table = spoilt.index(b"\xff\xc4")
    spoilt[table + 5 : table + 21] = b"\xff" * 16  # more code words than a Huffman code can have
    write_tree(tmp_path, {f"train/{i}.jpg": jpeg(size=(60 + i, 90)) for i in range(6)} | {"val/v.png": png(1, 50, 50)})
    write_tree(tmp_path, {"train/9.jpg": bytes(spoilt)})
    expected = batches(tmp_path, "pillow", count=8)
    assert {name for batch in expected for name, _ in batch["failures"]} == {"train/9.jpg"}
    assert same(batches(tmp_path, "dali", count=8), expected)


@without_dali
def test_missing_dali_raises_before_training(root):
    with pytest.raises(ConfigError, match=r"not installed.\nto do: pip install 'lic-train\[dali\]'"):
        Photographs(folder, root=str(root), crop=32, batch_size=4, decoder="dali").setup("fit")


def test_incompatible_options_raise(root, monkeypatch):
    monkeypatch.setattr("lic_train.data.module.require_dali", lambda: None)
    with pytest.raises(ConfigError, match=r"data\.crops_per_image.\nexpected: 1 with"):
        Photographs(folder, root=str(root), crop=32, batch_size=4, decoder="dali", crops_per_image=2).setup("fit")
    scaled = Photographs(folder, root=str(root), crop=32, batch_size=4, decoder="dali", downscale=[0.6, 1.0])
    with pytest.raises(ConfigError, match=r"data\.downscale.\nexpected: null with data.decoder=dali"):
        scaled.setup("fit")
    with pytest.raises(ConfigError, match=r"data\.decoder.\nexpected: one of pillow, dali\ngot: 'opencv'"):
        Photographs(folder, root=str(root), crop=32, batch_size=4, decoder="opencv").setup("fit")


class SideStream:
    """Stand-in for a CUDA stream: events are names, and the order of all calls is kept."""

    log: ClassVar[list[tuple[str, object]]] = []

    def __init__(self, gpu: int = 0) -> None:
        self.batches = 0

    def record_event(self) -> str:
        self.batches += 1
        self.log.append(("decoded", self.batches))
        return f"event {self.batches}"

    def wait_event(self, event: str) -> None:
        self.log.append(("wait", event))


@contextlib.contextmanager
def entered(stream: SideStream):
    stream.log.append(("thread", threading.current_thread() is threading.main_thread()))
    yield


@pytest.fixture
def fake_gpu(monkeypatch):
    """DALI on a GPU; Pillow decodes on the host in its place."""

    def decode(self, files: list[File], most: int) -> torch.Tensor:
        crop = self._crops.crop
        try:
            images = [np.asarray(Picture(file.data).rgb(file.top + crop)) for file in files]
        except UnreadableImage as error:
            raise RuntimeError from error  # as DALI does
        cuts = [x[f.top : f.top + crop, f.left : f.left + crop] for f, x in zip(files, images, strict=True)]
        return torch.from_numpy(np.stack(cuts))

    monkeypatch.setattr(DaliLoader, "_decode", decode)
    for module in ("lic_train.data.module", "lic_train.data.stream.dali"):
        monkeypatch.setattr(f"{module}.require_dali", lambda: None)
    monkeypatch.setattr(Photographs, "_gpu", lambda self: 0)
    monkeypatch.setattr(torch.cuda, "Stream", SideStream)
    monkeypatch.setattr(torch.cuda, "current_stream", SideStream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    SideStream.log.clear()


def test_gpu_decodes_the_next_batch_in_a_thread_on_a_side_stream(root, fake_gpu):
    expected = batches(root, "pillow", count=5)
    assert same(batches(root, "dali", count=5), expected)
    log = SideStream.log
    assert {value for name, value in log if name == "thread"} == {False}
    for number in range(1, 6):
        assert log.index(("decoded", number)) < log.index(("wait", f"event {number}"))
    assert [name for name, _ in log].count("wait") == 5
    assert ("decoded", 6) in log  # one batch ahead of the five that were used


def test_error_of_a_batch_is_raised_in_its_turn(root, fake_gpu, monkeypatch):
    whole = DaliLoader._whole
    calls = itertools.count()

    def third_fails(self, half):
        if next(calls) == 2:
            raise DataError("unusable")
        return whole(self, half)

    monkeypatch.setattr(DaliLoader, "_whole", third_fails)
    loader = Photographs(folder, root=str(root), crop=32, batch_size=4, decoder="dali", num_workers=0).stream()
    iterator = iter(loader)
    assert len(list(itertools.islice(iterator, 2))) == 2
    with pytest.raises(DataError, match="unusable"):
        next(iterator)
