"""Partial decoding of JPEGs: pixels equal those of the whole image, and damage is still detected."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from lic_train.data.decode.images import Picture, UnreadableImage
from lic_train.data.decode.jpeg_rows import jpeg_until
from tests.conftest import SHARED

KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restart marks": {"restart_marker_blocks": 2},
    "finer than 8 bits": {"quality": 100, "subsampling": 0},
}


def jpeg(mode: str = "RGB", size: tuple[int, int] = (67, 155), **options) -> bytes:
    """Return a JPEG with some structure and some noise; ``size`` is width and height."""
    rng = np.random.default_rng(0)
    bands = len(Image.new(mode, (1, 1)).getbands())
    coarse = rng.integers(0, 256, (9, 5, bands), dtype=np.uint8).squeeze()
    image = Image.fromarray(coarse, mode).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(0, 16, np.asarray(image).shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.asarray(image) ^ noise, mode).save(file, "JPEG", **options)
    return file.getvalue()


def unfinished(data: bytes) -> bytes:
    """Remove the last three scans of a progressive file, which a decoder then smooths."""
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    return data[: data.rindex(b"\xff\xc4", 0, scans[-3])] + b"\xff\xd9"


def check_all_rows(data: bytes, rows: range) -> None:
    whole = np.asarray(Picture(data).rgb())
    for last in rows:
        upper = np.asarray(Picture(data).rgb(last))
        assert upper.shape == whole.shape
        assert np.array_equal(upper[:last], whole[:last])


@pytest.mark.parametrize("kind", KINDS)
def test_upper_rows_equal_those_of_the_whole_image(kind):
    data = jpeg(**KINDS[kind])
    check_all_rows(data, range(1, 156))
    lower, height = jpeg_until(data, 10)
    assert height <= 16 * 3
    assert Image.open(io.BytesIO(lower)).size == (67, height)
    assert jpeg_until(data, 155) is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_four_colours(mode):
    check_all_rows(jpeg(mode), range(1, 156, 7))


def test_incomplete_progressive_file_is_smoothed_equally():
    data = unfinished(jpeg(progressive=True, quality=60))
    assert not np.array_equal(np.asarray(Picture(data).rgb()), np.asarray(Picture(jpeg(progressive=True)).rgb()))
    check_all_rows(data, range(1, 156))


def test_real_photographs():
    files = sorted((SHARED / "imagenet_sample").glob("*/*/*.JPEG"))[::60] + sorted((SHARED / "photos").glob("*"))[::40]
    if not files:
        pytest.skip(f"no photographs in {SHARED}")
    for path in files:
        data = path.read_bytes()
        height = Picture(data).size[0]
        check_all_rows(data, range(1, height, height // 3))


def test_truncation_is_detected_for_every_crop_position():
    data = jpeg()
    for length, rows in itertools.product((len(data) // 2, len(data) - 2, len(data) - 40), (1, 30, None)):
        assert jpeg_until(data[:length], 1) is None
        with pytest.raises(UnreadableImage, match="truncated"):
            Picture(data[:length]).rgb(rows)


def test_data_after_the_image_are_ignored():
    data = jpeg() + b"\n appended"
    assert jpeg_until(data, 5) is None
    assert np.array_equal(np.asarray(Picture(data).rgb(5)), np.asarray(Picture(jpeg()).rgb()))


def test_picture_can_be_decoded_twice():
    picture = Picture(jpeg())
    upper, whole = np.asarray(picture.rgb(20)), np.asarray(picture.rgb())
    assert np.array_equal(upper[:20], whole[:20])
    assert np.array_equal(whole, np.asarray(Picture(jpeg()).rgb()))


def test_changed_bytes_raise_only_unreadable_image():
    data = jpeg()
    rng = np.random.default_rng(3)
    for _ in range(300):
        spoilt = bytearray(data)
        for at in rng.integers(2, 700, 3):
            spoilt[at] = rng.integers(256)
        results = []
        for rows in (None, 20):
            try:
                results.append(np.asarray(Picture(bytes(spoilt)).rgb(rows))[:20].tobytes())
            except UnreadableImage as error:
                results.append(str(error))
        assert results[0] == results[1] or isinstance(results[0], str)  # the damage may be below the decoded rows


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_images(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(exif=exif)
    picture = Picture(data)
    whole = picture.rgb()
    assert picture.size == (whole.height, whole.width) == ((155, 67) if orientation <= 4 else (67, 155))
    check_all_rows(data, range(1, whole.height, 9))


def test_other_formats_are_decoded_completely():
    for kind in ("PNG", "WEBP", "BMP"):
        file = io.BytesIO()
        Image.new("RGB", (30, 50), "red").save(file, kind)
        assert Picture(file.getvalue()).rgb(3).size == (30, 50)
