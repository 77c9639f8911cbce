"""What one look at a picture shows, and what all looks at a collection add up to."""

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

from lic_train.data.decode.images import ORIENTATION, UPRIGHT, UnreadableImage, open_header, open_rgb
from lic_train.data.sets.splits import Source

WORST = 24  # pictures that are kept of each kind of badness
FLAT = 2.0  # levels: a picture whose 32 x 32 means spread less is of nearly one colour
FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **{f".{name.lower()}": name for name in ("PNG", "WEBP", "AVIF", "BMP", "GIF")},
    ".jp2": "JPEG2000",
}
KINDS = {  # of what is read all the same, and how
    "small": "smaller than the crop: reflected at the borders, or left out with data.small=skip",
    "grey": "grey: three equal channels",
    "CMYK": "CMYK: converted",
    "16 bits": "16 bits: divided by 257",
    "palette": "palette: looked up",
    "transparent": "transparent: put on white",
    "animated": "animated: the first frame is taken",
    "turned": "turned by EXIF: put upright",
    "misnamed": "another format than the name says: read as what it is",
    "flat": "nearly one colour",
}


class Look(NamedTuple):
    """One picture.

    Attributes:
        damage: why it cannot be trained on, empty if it can.
        notes: keys of KINDS.
        bits: of the file, per pixel.
        spread: standard deviation of its 32 x 32 mean colours, in levels.
        content: 64 bits that differ with the file's content.
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
    """Read and decode one picture, exactly as training does."""
    try:
        data = source.read(number)
        image = open_rgb(data)
    except OSError as error:
        return Look(number, error.strerror or str(error))
    except UnreadableImage as error:
        return Look(number, str(error))
    spread = float(np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float32).std((0, 1)).max())
    notes = [*_kinds(data, source.name(number))]
    notes += ["small"] * (min(image.size) < crop) + ["flat"] * (spread < FLAT)
    content = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
    bits = 8 * len(data) / (image.width * image.height)
    return Look(number, "", tuple(notes), image.height, image.width, bits, spread, content)


class Summary:
    """Counts of a collection, and the worst of it; a million pictures need some 20 MB. The order of looks is nothing.

    Attributes:
        damaged: the reason for each damaged picture, by its number.
        notes: how many whole pictures each key of KINDS fits.
    """

    def __init__(self) -> None:
        self.damaged: dict[int, str] = {}
        self.notes: Counter[str] = Counter()
        self._worst: dict[str, list[tuple[float, int]]] = {"small": [], "flat": [], "bits": []}  # badness, number
        self._sides, self._numbers, self._contents = array("I"), array("Q"), array("Q")  # of whole pictures

    def add(self, look: Look) -> None:
        """Take note of one picture."""
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
        """Pictures that can be trained on."""
        return len(self._numbers)

    def copies(self) -> list[tuple[int, int]]:
        """Pairs of a picture and the first one with the same content."""
        numbers, contents = np.asarray(self._numbers, np.int64), np.asarray(self._contents, np.uint64)
        order = np.lexsort((numbers, contents))
        numbers, contents = numbers[order], contents[order]
        begins = np.flatnonzero(np.r_[True, contents[1:] != contents[:-1]])  # of each run of the same content
        firsts = np.repeat(numbers[begins], np.diff(np.r_[begins, len(numbers)]))
        again = numbers != firsts
        return sorted(zip(numbers[again].tolist(), firsts[again].tolist(), strict=True))

    def sides(self) -> tuple[int, int, int]:
        """Smallest, median and largest shorter side, in pixels; zeros if no picture is whole."""
        if not self.whole:
            return 0, 0, 0
        shorter = np.asarray(self._sides).reshape(-1, 2).min(1)
        return int(shorter.min()), int(np.median(shorter)), int(shorter.max())

    def worst(self, kind: str) -> list[tuple[int, float]]:
        """The worst pictures of a kind, worst first: by shorter side ("small"), spread ("flat"), or bits per pixel."""
        return [(number, -badness) for badness, number in sorted(self._worst[kind], reverse=True)]

    def _keep(self, kind: str, badness: float, number: int) -> None:
        heapq.heappush(self._worst[kind], (badness, number))
        if len(self._worst[kind]) > WORST:
            heapq.heappop(self._worst[kind])


def _kinds(data: bytes, name: str) -> Iterable[str]:
    """What is unusual about the file, without its pixels."""
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
    if _orientation(image) in UPRIGHT:
        yield "turned"
    if FORMAT_OF.get(os.path.splitext(name)[1].lower(), kind) != kind:
        yield "misnamed"


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a broken EXIF block counts as none, as when training
        return None
