"""Tiles and patches of large photographs, and the lossless formats in which they are stored."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from lic_train.data.stream.crops import key, splitmix64

PATCHES = 4  # first number of every random key; 1 to 3 are used in lic_train.data.stream.crops
PATCH = 256
SCALES = (0.6, 1.0)


class Tile(NamedTuple):
    """Part of a photograph: the last component of its file name, and an RGB image."""

    label: str
    image: Image.Image


def grid(photograph: Image.Image, side: int) -> Iterator[Tile]:
    """Yield squares of ``side`` pixels that cover the photograph; the last row and column touch its border.

    Every crop of up to ``side`` pixels inside a square of the grid remains possible. Tiles are smaller where a side of
    the photograph is shorter than ``side``.
    """
    for top in starts(photograph.height, side):
        for left in starts(photograph.width, side):
            box = (left, top, min(left + side, photograph.width), min(top + side, photograph.height))
            yield Tile(f"{top}_{left}", photograph.crop(box))


def starts(length: int, side: int) -> list[int]:
    """Return the first positions of ceil(length / side) evenly spaced intervals of ``side`` that cover 0 .. length."""
    count = -(-length // side)
    return [round(number * (length - side) / (count - 1)) for number in range(count)] if count > 1 else [0]


def patches(photograph: Image.Image, seed: int, number: int) -> Iterator[Tile]:
    """Yield 4 * floor(H * W / 65536) random squares of 256 / f pixels, f uniform in [0.6, 1], scaled to 256 (bicubic).

    This is the preparation of the Flickr photographs of Liu et al. 2020, on which GAACNN was trained and probably GCAB
    (specifications of both). If 256 / f exceeds the shorter side, that side is used. A photograph with a side below 256
    has no patches.

    Args:
        photograph: RGB.
        seed: determines every square, together with ``number``.
        number: number of the photograph in its data set.
    """
    width, height = photograph.size
    if min(width, height) < PATCH:
        return
    count = 4 * (height * width // PATCH**2)
    draws = splitmix64(key(PATCHES, seed, number), 3 * count).reshape(count, 3)
    shares = draws.astype(np.float64) / 2.0**64
    for index, (scale, top, left) in enumerate(shares):
        side = min(PATCH / (SCALES[0] + (SCALES[1] - SCALES[0]) * scale), width, height)
        corner = left * (width - side), top * (height - side)
        box = (*corner, corner[0] + side, corner[1] + side)
        yield Tile(str(index), photograph.resize((PATCH, PATCH), Image.Resampling.BICUBIC, box))


def as_ppm(image: Image.Image) -> bytes:
    """Encode as PPM: raw pixels after a one-line header, the fastest to read."""
    return b"P6 %d %d 255\n" % image.size + image.tobytes()


def as_png(image: Image.Image) -> bytes:
    """Encode as PNG: compressed, slow to read."""
    return _saved(image, "PNG")


def as_webp(image: Image.Image) -> bytes:
    """Encode as lossless WebP: smaller and slightly faster to read than PNG."""
    return _saved(image, "WEBP", lossless=True, quality=20, method=1, exact=True)


FORMATS: dict[str, Callable[[Image.Image], bytes]] = {"ppm": as_ppm, "png": as_png, "webp": as_webp}


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
