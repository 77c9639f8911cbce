"""A folder with the damaged and unusual files of a scraped collection, and the expected result for each file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.made_up import png, write_tree

CROP = 32
WHOLE = {f"good/{i:03d}.png": png(i, 40, 50) for i in range(300)}

# Name -> reason, for files that cannot be used for training.
DAMAGED = {
    "bad/empty.jpg": "the file is empty",
    "bad/garbage.jpg": "not an image",
    "bad/truncated.jpg": "truncated",
    "bad/bomb.png": "more than the limit",
    "bad/float.tif": "no defined white",
    "bad/page.png": "not an image",
    "bad/eps.jpg": "not an image",
    "bad/gone.png": "No such file",
    "bad/loop.png": "Too many levels of symbolic links",
    "bad/pipe_link.png": "a pipe or a device",
}
# Name -> notes, for unusual files that are usable.
UNUSUAL = {
    "odd/grey.png": {"grey"},
    "odd/cmyk.jpg": {"CMYK"},
    "odd/sixteen.png": {"16 bits"},
    "odd/sixteen_grey.png": {"16 bits", "grey"},
    "odd/palette.png": {"palette"},
    "odd/alpha.png": {"transparent"},
    "odd/animated.gif": {"animated", "palette"},
    "odd/turned.jpg": {"turned"},
    "odd/small.png": {"small"},
    "odd/png_inside.jpg": {"misnamed"},
    "odd/black.png": {"flat"},
}


def scraped(root: Path) -> Path:
    """Write the folder. Some of its links lead outside, form cycles, or are broken."""
    write_tree(root, WHOLE | _damaged() | _unusual())
    write_tree(root, {".DS_Store": b"x", "Thumbs.db": b"x", "good/._000.png": b"x", "__MACOSX/good/000.png": b"x"})
    write_tree(root, {"list.txt": b"x", "clip.mp4": b"x", "dir.png/inside.png": WHOLE["good/000.png"]})
    (root / "good/back").symlink_to(root)
    (root / "bad/gone.png").symlink_to(root / "nowhere.png")
    (root / "bad/loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe.fifo")
    (root / "bad/pipe_link.png").symlink_to(root / "pipe.fifo")
    os.mkfifo(root / "pipe.png")
    return root


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _noise(seed: int, mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(png(seed, 40, 50))).convert(mode)


def _damaged() -> dict[str, bytes]:
    jpeg = _encoded(_noise(1), "JPEG", quality=95)
    return {
        "bad/empty.jpg": b"",
        "bad/garbage.jpg": np.random.default_rng(0).bytes(5000),
        "bad/truncated.jpg": jpeg[: len(jpeg) // 2],
        "bad/bomb.png": _bomb(),
        "bad/float.tif": _encoded(Image.fromarray(np.ones((40, 40), np.float32)), "TIFF"),
        "bad/page.png": b"<!doctype html><title>404 <script>alert(1)</script></title>",
        "bad/eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    }


def _unusual() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [_noise(2, "P"), _noise(3, "P")]
    wide = np.random.default_rng(1).integers(0, 65536, (40, 50), dtype=np.uint16)
    return {
        "odd/grey.png": _encoded(_noise(4, "L"), "PNG"),
        "odd/cmyk.jpg": _encoded(_noise(5, "CMYK"), "JPEG"),
        "odd/sixteen.png": _sixteen_bits(),
        "odd/sixteen_grey.png": _encoded(Image.fromarray(wide), "PNG"),
        "odd/palette.png": _encoded(_noise(6, "P"), "PNG"),
        "odd/alpha.png": _encoded(_noise(7, "RGBA"), "PNG"),
        "odd/animated.gif": _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "odd/turned.jpg": _encoded(_noise(8), "JPEG", exif=exif),
        "odd/small.png": png(9, 20, 90),
        "odd/png_inside.jpg": png(1010, 40, 50),
        "odd/black.png": _encoded(Image.new("RGB", (40, 50)), "PNG"),
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of(width: int, height: int, depth: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _bomb() -> bytes:
    return _png_of(60_000, 60_000, 8, bytes(10**5))


def _sixteen_bits() -> bytes:
    rows = np.random.default_rng(2).integers(0, 256, (40, 1 + 50 * 6), dtype=np.uint8)
    rows[:, 0] = 0  # unfiltered
    return _png_of(50, 40, 16, rows.tobytes())
