"""Results of the check: of one image, and of the whole collection."""

from __future__ import annotations

import heapq
import os
from array import array
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from PIL import Image

from lic_train.data.archives.names import HEIF
from lic_train.data.decode.images import UPRIGHT, Picture, UnreadableImage, open_header, orientation
from lic_train.data.sets.splits import Source

WORST = 24  # images on the page for each kind of problem
FLAT = 2.0  # levels: below this standard deviation of the 32 x 32 means, an image has nearly one colour
FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **{f".{name.lower()}": name for name in ("PNG", "WEBP", "AVIF", "BMP", "GIF")},
    ".jp2": "JPEG2000",
    **dict.fromkeys(HEIF, "HEIF"),
}
KINDS = {  # unusual images that are usable, and how training reads them
    "small": "smaller than the crop: padded by reflection, or skipped with data.small=skip",
    "grey": "grey: three equal channels",
    "CMYK": "CMYK: converted",
    "16 bits": "16 bits: divided by 257",
    "palette": "palette: looked up",
    "transparent": "transparent: composited on white",
    "animated": "animated: the first frame is used",
    "turned": "rotated or mirrored by EXIF: turned upright",
    "misnamed": "another format than the suffix of the name: read by its content",
    "flat": "nearly one colour",
}


class Look(NamedTuple):
    """Result of the check of one image.

    Attributes:
        damage: why it cannot be used for training, empty if it can.
        notes: keys of KINDS.
        bits: bits of the file per pixel.
        spread: standard deviation of its 32 x 32 mean colours, in levels.
        content: 64-bit hash of the content of the file.
    """

    number: int
    damage: str
    notes: tuple[str, ...] = ()
    height: int = 0
    width: int = 0
    bits: float = 0.0
    spread: float = 0.0
    content: int = 0


def look_at(source: Source, number: int, crop: int) -> Look:
    """Read and decode one image exactly as in training."""
    try:
        data = source.read(number)
        picture = Picture(data)
        image = picture.rgb()
    except OSError as error:
        return Look(number, error.strerror or str(error))
    except UnreadableImage as error:
        return Look(number, str(error))
    spread = float(np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float32).std((0, 1)).max())
    notes = [*_kinds(picture.data, source.name(number))]
    notes += ["small"] * (min(image.size) < crop) + ["flat"] * (spread < FLAT)
    content = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
    bits = 8 * len(data) / (image.width * image.height)
    return Look(number, "", tuple(notes), image.height, image.width, bits, spread, content)


class Summary:
    """Counts of a collection, and its worst images, independent of the order of `add`; 20 MB for a million images.

    Attributes:
        damaged: the reason for each damaged image, by its number.
        notes: number of usable images for each key of KINDS.
    """

    def __init__(self) -> None:
        self.damaged: dict[int, str] = {}
        self.notes: Counter[str] = Counter()
        self._worst: dict[str, list[tuple[float, int]]] = {"small": [], "flat": [], "bits": []}  # badness, number
        self._sides, self._numbers, self._contents = array("I"), array("Q"), array("Q")  # of usable images

    def add(self, look: Look) -> None:
        """Add the result of one image."""
        if look.damage:
            self.damaged[look.number] = look.damage
            return
        self.notes.update(look.notes)
        self._sides.extend((look.height, look.width))
        self._numbers.append(look.number)
        self._contents.append(look.content)
        for kind, badness in (("small", -min(look.height, look.width)), ("flat", -look.spread), ("bits", -look.bits)):
            if kind == "bits" or kind in look.notes:
                self._keep(kind, badness, look.number)

    @property
    def whole(self) -> int:
        """Number of images that are usable for training."""
        return len(self._numbers)

    def copies(self) -> list[tuple[int, int]]:
        """Return pairs of an image and the first image with the same content."""
        numbers, contents = np.asarray(self._numbers, np.int64), np.asarray(self._contents, np.uint64)
        order = np.lexsort((numbers, contents))
        numbers, contents = numbers[order], contents[order]
        begins = np.flatnonzero(np.r_[True, contents[1:] != contents[:-1]])  # first of each run of equal hashes
        firsts = np.repeat(numbers[begins], np.diff(np.r_[begins, len(numbers)]))
        again = numbers != firsts
        return sorted(zip(numbers[again].tolist(), firsts[again].tolist(), strict=True))

    def sides(self) -> tuple[int, int, int]:
        """Return minimum, median and maximum of the shorter sides in pixels; zeros if no image is usable."""
        if not self.whole:
            return 0, 0, 0
        shorter = np.asarray(self._sides).reshape(-1, 2).min(1)
        return int(shorter.min()), int(np.median(shorter)), int(shorter.max())

    def worst(self, kind: str) -> list[tuple[int, float]]:
        """Return the worst images of a kind, worst first, each with its value.

        Args:
            kind: "small" (value: shorter side), "flat" (spread), or "bits" (bits per pixel).
        """
        return [(number, -badness) for badness, number in sorted(self._worst[kind], reverse=True)]

    def _keep(self, kind: str, badness: float, number: int) -> None:
        heapq.heappush(self._worst[kind], (badness, number))
        if len(self._worst[kind]) > WORST:
            heapq.heappop(self._worst[kind])


def _kinds(data: bytes, name: str) -> Iterable[str]:
    """Yield what is unusual about the file, without decoding its pixels."""
    image = open_header(data)
    mode, kind = image.mode, "JPEG" if image.format == "MPO" else image.format
    tiles = getattr(image, "tile", None)
    arguments = str(tiles[0].args) if tiles else ""
    if mode in ("1", "L", "LA") or mode.startswith("I"):
        yield "grey"
    if mode == "CMYK":
        yield "CMYK"
    if mode.startswith("I") or "16" in arguments:
        yield "16 bits"
    if mode in ("P", "PA"):
        yield "palette"
    if image.has_transparency_data:
        yield "transparent"
    if kind != "JPEG" and getattr(image, "is_animated", False):
        yield "animated"
    if orientation(image) in UPRIGHT:
        yield "turned"
    if FORMAT_OF.get(os.path.splitext(name)[1].lower(), kind) != kind:
        yield "misnamed"
