"""Pixels decide over metadata, HEIC, and limits on the size of pictures."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.data.check.looks import look_at
from lic_train.data.decode import images
from lic_train.data.decode.images import Picture, UnreadableImage
from lic_train.data.decode.metadata import without_metadata
from lic_train.data.module import Photographs
from lic_train.data.sets.sources import FolderSource, folder
from lic_train.errors import DataError
from lic_train.evaluate.sets import FolderImages
from lic_train.files import bitstream
from lic_train.files.container import unpack
from lic_train.rd.metrics import to_8bit
from tests.made_up import png, write_tree
from tests.tiny import FACTORIZED, make_codec

FIRST, LAST = 33, -12  # offsets in a PNG: after IHDR, before IEND
NOISE = np.random.default_rng(1).integers(0, 256, 2**21, dtype=np.uint8).tobytes()  # 2 MiB that do not compress


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Picture(data).rgb())


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


CHUNKS = {
    "a profile of 2 MiB": chunk(b"iCCP", b"icc\0\0" + zlib.compress(NOISE)),
    "a profile of an unknown method": chunk(b"iCCP", b"icc\0\1x"),
    "a text of 2 MiB": chunk(b"zTXt", b"text\0\0" + zlib.compress(NOISE)),
    "an international text of 2 MiB": chunk(b"iTXt", b"text\0\1\0\0\0" + zlib.compress(NOISE)),
    "a wrong checksum": chunk(b"tEXt", b"a\0b", 1),
    "a short resolution": chunk(b"pHYs", b"1"),
    "an unknown chunk": chunk(b"quUX", b"1", 1),
    "broken EXIF": chunk(b"eXIf", b"II*\0", 1),
}


@pytest.mark.parametrize("at", [FIRST, LAST])
@pytest.mark.parametrize("name", CHUNKS)
def test_png_with_unreadable_metadata_is_whole(tmp_path: Path, name: str, at: int) -> None:
    data = png(3)
    spoiled = data[:at] + CHUNKS[name] + data[at:]
    assert np.array_equal(pixels(spoiled), pixels(data))
    source = FolderSource(write_tree(tmp_path, {"a.png": spoiled}))
    look = look_at(source, 0, 16)
    assert (look.damage, look.notes) == ("", ())


def test_orientation_is_kept_without_the_other_metadata() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[images.ORIENTATION] = 6
    Image.open(io.BytesIO(png(3, 20, 30))).save(file, "PNG", exif=exif)
    data = file.getvalue()
    spoiled = data[:FIRST] + CHUNKS["a text of 2 MiB"] + data[FIRST:]
    assert Picture(spoiled).size == (30, 20)
    assert np.array_equal(pixels(spoiled), pixels(data))


@pytest.mark.parametrize(("kind", "content"), [(0xE2, b"ICC_PROFILE\0\1"), (0xED, b"Photoshop 3.0\0" + b"8BIM\0\0")])
def test_jpeg_with_unreadable_metadata_is_whole(kind: int, content: bytes) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(png(4))).save(file, "JPEG")
    data = file.getvalue()
    spoiled = data[:2] + bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content + data[2:]
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(spoiled))
    assert np.array_equal(pixels(spoiled), pixels(data))


def test_damaged_pixels_stay_damaged() -> None:
    data = png(5)
    middle = data.index(b"IDAT") + 40
    for spoiled in (data[:middle], data[:middle] + b"\0\0\0" + data[middle + 3 :], data[:FIRST]):
        with pytest.raises(UnreadableImage):
            pixels(spoiled[:FIRST] + CHUNKS["a text of 2 MiB"] + spoiled[FIRST:])


def test_nothing_to_leave_out_is_none() -> None:
    assert without_metadata(png(1)) is None
    assert without_metadata(b"GIF89a") is None
    assert without_metadata(b"\xff\xd8\xff") is None


# --- HEIC ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
def test_heic_is_read_and_turned_upright(tmp_path: Path) -> None:
    import pillow_heif

    smooth = Image.open(io.BytesIO(png(6, 6, 9))).resize((96, 64), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    pillow_heif.from_pillow(smooth).save(tmp_path / "a.HEIC", quality=90)
    pillow_heif.from_pillow(smooth).save(tmp_path / "b.heic", quality=90, exif=exif.tobytes())
    source = FolderSource(tmp_path)
    upright, turned = pixels(source.read(0)).astype(int), pixels(source.read(1)).astype(int)
    assert np.abs(upright - np.asarray(smooth, int)).mean() < 6
    assert turned.shape == (96, 64, 3)
    assert np.abs(turned - np.rot90(upright, -1)).mean() < 6
    assert "misnamed" not in look_at(source, 0, 16).notes


# --- limits ----------------------------------------------------------------------------------------------------------


def flat(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


def test_large_pictures_are_coded_in_a_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lic_train.files.tiles.MAX_TILE_PIXELS", 32 * 32)
    monkeypatch.setattr("lic_train.files.tiles.TILE", 32)
    folder_of = write_tree(tmp_path / "set", {"a.png": flat(70, 40), "b.png": b"broken", "c.png": png(1)})
    data = Photographs(folder, root=[str(folder_of)] * 2, crop=16, batch_size=2)
    data.setup()
    data._split = data._split._replace(val=FolderSource(folder_of))
    (large, x), (small, _) = data.whole_images(2)
    assert (large, small) == ("a.png", "c.png")
    codec = make_codec(FACTORIZED)
    file = bitstream.encode(codec, x, bytes(8))
    assert len(unpack(file)[1]) > 1
    expected = bitstream.estimate(codec, x)
    assert torch.equal(to_8bit(bitstream.decode(codec, file, bytes(8))), to_8bit(expected.x_hat))


def test_max_pixels_passes_the_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    data = flat(40, 50)
    with pytest.raises(UnreadableImage, match="limit of 1,000 pixels"):
        Picture(data, 1000)
    assert Picture(data, 2000).size == (40, 50)
    assert Image.MAX_IMAGE_PIXELS == 500


# --- an evaluation names everything at once --------------------------------------------------------------------------


def test_all_unusable_images_are_named_at_once(tmp_path: Path) -> None:
    bad = {f"{i}.png": b"broken" for i in range(9)}
    opened = FolderImages([write_tree(tmp_path, {**bad, "good.png": png(1), "large.png": flat(9, 99)})], None)
    with pytest.raises(DataError, match="10 of 11 images") as refused:
        opened.require_all(lambda height, width: "too large" if width > 90 else "")
    assert all(f"{name}: " in refused.value.got for name in bad)
    assert "large.png: too large" in refused.value.got
    assert "good.png" not in refused.value.got


def test_messages_name_the_key_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        FolderImages([tmp_path], None)
    assert "eval.root" in refused.value.to_do
    assert "data.root" not in str(refused.value)
