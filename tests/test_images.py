"""Decoding to RGB, compared with expectations that do not use Pillow's conversions."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.data.decode.images import FORMATS, MAX_PIXELS, UnreadableImage, decode, read_image, save_png

RANDOM = np.random.default_rng(5)
SHARED = Path(__file__).parents[2] / "shared" / "data"


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: np.ndarray, colour_type: int, depth: int, size: tuple[int, int] | None = None) -> bytes:
    """Encode an unfiltered PNG; ``size`` (w, h) overrides the size in its header."""
    height, width = samples.shape[:2]
    kind = ">u2" if depth == 16 else "u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def colours(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


# EXIF 2.3, tag 0x0112: the visual side of the stored 0th row and 0th column.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def seen(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return the upright image, computed pixel by pixel."""
    rows, columns = stored.shape[:2]
    turned = orientation >= 5
    visible = np.zeros((columns, rows, 3) if turned else (rows, columns, 3), np.uint8)
    for r in range(rows):
        for c in range(columns):
            place = {}
            for side, i, n in zip(SIDES[orientation], (r, c), (rows, columns), strict=True):
                place["y" if side in ("top", "bottom") else "x"] = i if side in ("top", "left") else n - 1 - i
            visible[place["y"], place["x"]] = stored[r, c]
    return visible


@pytest.mark.parametrize("orientation", SIDES)
def test_exif_orientation(orientation):
    stored = colours(5, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert torch.equal(decode(encoded(Image.fromarray(stored), "PNG", exif=exif)), planes(seen(stored, orientation)))
    flat = np.full((16, 32, 3), 90, np.uint8)
    height, width = seen(flat, orientation).shape[:2]
    assert decode(encoded(Image.fromarray(flat), "JPEG", exif=exif)).shape == (3, height, width)


def test_broken_exif_is_ignored():
    stored = colours(4, 6)
    data = encoded(Image.fromarray(stored), "PNG", exif=b"Exif\0\0II*\0" + b"\xff" * 9)
    assert torch.equal(decode(data), planes(stored))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_exif_of_a_real_photograph():
    assert read_image(SHARED / "imagenet_sample/train/n02951585/n02951585_can_opener.JPEG").shape == (3, 392, 294)


def test_grey_and_bilevel():
    grey = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)
    expected = torch.from_numpy(grey).expand(3, 6, 5)
    assert torch.equal(decode(png(grey, 0, 8)), expected)
    bits = encoded(Image.fromarray(grey).point(lambda v: 255 * (v > 127)).convert("1", dither=0), "PNG")
    assert torch.equal(decode(bits), (expected > 127).to(torch.uint8) * 255)


@pytest.mark.parametrize("ink", [(255, 0, 0, 0), (0, 0, 255, 0), (30, 200, 10, 128), (0, 0, 0, 255), (0, 0, 0, 0)])
def test_cmyk_as_written_by_adobe(ink):
    data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100, subsampling=0)
    assert b"\xff\xee\x00\x0eAdobe" in data  # this marker means that complements of the inks are stored
    c, m, y, k = (np.array(ink) / 255).tolist()
    expected = torch.tensor([(1 - c) * (1 - k), (1 - m) * (1 - k), (1 - y) * (1 - k)]) * 255
    assert (decode(data).float().mean((1, 2)) - expected).abs().max() < 3


def on_white(colour: np.ndarray, alpha: np.ndarray) -> torch.Tensor:
    share = alpha[..., None] / 255
    return planes(colour * share + 255 * (1 - share))


def test_palette_with_and_without_transparency():
    table = colours(1, 4)[0]
    indices = RANDOM.integers(0, 4, (8, 9), dtype=np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(table.ravel().tolist())
    assert torch.equal(decode(encoded(image, "PNG")), planes(table[indices]))
    alpha = np.array([255, 0, 100, 255], np.uint8)
    got = decode(encoded(image, "PNG", transparency=alpha.tobytes()))
    assert (got - on_white(table[indices], alpha[indices])).abs().max() <= 1
    assert torch.equal(decode(encoded(image, "GIF")), planes(table[indices]))


def test_16_bit_grey_with_alpha_is_exact():
    samples = RANDOM.integers(0, 65536, (40, 50, 2), dtype=np.uint16)
    grey, alpha = samples[..., 0] / 65535, samples[..., 1] / 65535
    exact = 255 * (grey * alpha + 1 - alpha)
    got = decode(png(samples, 4, 16)).numpy()
    assert np.abs(got - exact).max() <= 0.5 + 1 / 257  # rounded once to 16 bits and once to 8


def test_alpha_is_composited_on_white():
    colour, alpha = colours(7, 6), RANDOM.integers(0, 256, (7, 6), dtype=np.uint8)
    got = decode(png(np.dstack([colour, alpha]), 6, 8))
    assert (got - on_white(colour, alpha)).abs().max() <= 1
    grey = colour[..., :1]
    got = decode(png(np.dstack([grey, alpha]), 4, 8))
    assert (got - on_white(np.repeat(grey, 3, 2), alpha)).abs().max() <= 1


def test_sixteen_bit_samples_are_scaled_by_257():
    samples = RANDOM.integers(0, 65536, (9, 8, 3), dtype=np.uint16)
    samples[0, :4] = [[0, 1, 128], [129, 255, 256], [257, 32767, 32768], [65279, 65407, 65535]]
    expected = np.rint(samples / 257).astype(np.uint8)
    assert torch.equal(decode(png(samples, 2, 16)), planes(expected))
    opaque = np.dstack([samples, np.full((9, 8), 65535, np.uint16)])
    assert torch.equal(decode(png(opaque, 6, 16)), planes(expected))
    grey = torch.from_numpy(expected[..., 0]).expand(3, 9, 8)
    assert torch.equal(decode(png(samples[..., 0], 0, 16)), grey)
    assert torch.equal(decode(b"P5 8 9 65535\n" + samples[..., 0].astype(">u2").tobytes()), grey)
    assert torch.equal(decode(encoded(Image.fromarray(samples[..., 0]), "TIFF")), grey)


@pytest.mark.parametrize(
    "samples", [np.ones((4, 4), np.float32), np.full((4, 4), 70000, np.int32), np.full((4, 4), -1, np.int32)]
)
def test_formats_without_a_defined_white_raise(samples):
    with pytest.raises(UnreadableImage, match="no defined white"):
        decode(encoded(Image.fromarray(samples), "TIFF"))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#00ff00")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[:, 0, 0].tolist() == [255, 0, 0]


def test_every_listed_format_is_decoded():
    flat = Image.new("RGB", (16, 16), "#336699")
    kinds = [*FORMATS, "MPO"]  # MPO: several JPEGs in one file, written by cameras
    options = {"JPEG2000": {"irreversible": False}, "WEBP": {"lossless": True}}
    for kind in kinds:
        x = decode(encoded(flat, kind, **options.get(kind, {})))
        assert (x.float().mean((1, 2)) - torch.tensor([0x33, 0x66, 0x99])).abs().max() < 3, kind


@pytest.mark.parametrize("pillow_limit", ["default", None])
@pytest.mark.parametrize("size", [(60000, 60000), (16384, 10923)])  # the second is just above the limit
def test_decompression_bomb(size, pillow_limit, monkeypatch):
    assert size[0] * size[1] > MAX_PIXELS
    if pillow_limit is None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImage, match=f"limit of {MAX_PIXELS:,} pixels"):
        decode(png(np.zeros((1, 1), np.uint8), 0, 8, size))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some text, long enough to hold a header", "not an image"),
        (bytes(1000), "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
    ],
)
def test_foreign_bytes_raise(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_truncation_decodes_or_raises_with_a_reason(kind):
    data = encoded(Image.fromarray(colours(20, 24)), kind)
    reasons = []
    for length in range(len(data)):
        try:
            decode(data[:length])
        except UnreadableImage as error:
            reasons.append(str(error))
    assert all(reasons)
    assert len(reasons) >= 0.95 * len(data)  # the last bytes of a PNG are not part of the image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_changed_bytes_raise_only_unreadable_image(kind):
    data = encoded(Image.fromarray(colours(20, 24)), kind)
    chance = random.Random(1)
    for _ in range(200):
        changed = bytearray(data)
        changed[chance.randrange(len(data))] = chance.randrange(256)
        try:
            assert decode(bytes(changed)).shape[0] == 3
        except UnreadableImage:
            continue


def test_read_image_errors_contain_the_file_name(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "bad.png").write_bytes(b"nothing")
    for name in ("folder.png", "bad.png", "missing.png"):
        with pytest.raises(UnreadableImage, match=name):
            read_image(tmp_path / name)


def test_save_png_round_trip_rounds_and_clamps(tmp_path):
    x = planes(colours(5, 4))
    save_png(tmp_path / "new" / "x.png", x)
    assert torch.equal(read_image(tmp_path / "new" / "x.png"), x)
    noisy = x.float() / 255 + 0.4 / 255
    save_png(tmp_path / "new" / "x.png", noisy[None])
    assert torch.equal(read_image(tmp_path / "new" / "x.png"), x)
    save_png(tmp_path / "y.png", torch.tensor([-0.3, 1.7, 0.5]).view(3, 1, 1))
    assert read_image(tmp_path / "y.png").flatten().tolist() == [0, 255, 128]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "x.png", "y.png"]
    with pytest.raises(ValueError, match="expected"):
        save_png(tmp_path / "z.png", torch.zeros(2, 3, 4, 4))
