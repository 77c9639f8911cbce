"""Tar shards of tiles: each is written atomically, verified by reading it back, and recorded in a JSON file."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from lic_train.data.decode.images import UnreadableImage, open_rgb
from lic_train.data.prepare.tiles import FORMATS, Tile, grid, patches
from lic_train.data.sets.sources import Source
from lic_train.errors import ConfigError, DataError
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, read_json

CUTS = ("grid", "patches")


class Record(TypedDict):
    """Content of the JSON file next to a shard; ``left_out`` has pairs of name and reason."""

    key: str
    files: int
    photographs: int
    left_out: list[list[str]]
    bytes: int
    sha256: str


RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class Preparation:
    """Options of the preparation.

    Attributes:
        cut: "grid" (tiles that cover each photograph) or "patches" (the random patches of GCAB and GAACNN).
        side: side of the tiles in pixels; patches always have 256.
        format: one of `FORMATS`.
        per_shard: photographs of one tar.
        seed: seed of the random patches.
        val_ratio: fraction of the photographs used for validation if the root has no validation photographs.
    """

    cut: str
    side: int
    format: str
    per_shard: int
    seed: int
    val_ratio: float

    def tiles(self, photograph: Image.Image, number: int) -> Iterator[Tile]:
        """Yield the tiles of photograph ``number``."""
        return grid(photograph, self.side) if self.cut == "grid" else patches(photograph, self.seed, number)


@dataclass(frozen=True)
class Shard:
    """One tar: photographs ``first`` to ``last`` (exclusive) of the training set or of the validation set."""

    name: str
    first: int
    last: int
    validation: bool = False


@dataclass(frozen=True)
class Job:
    """Inputs of a process that writes shards."""

    train: Source
    val: Source
    out: Path
    how: Preparation
    key: str

    def shards(self) -> list[Shard]:
        """Return all shards; the validation photographs are last."""
        per, count = self.how.per_shard, len(self.train)
        cuts = [(first, min(first + per, count)) for first in range(0, count, per)]
        train = [Shard(f"train-{number:06d}.tar", *cut) for number, cut in enumerate(cuts)]
        return [*train, Shard("val-000000.tar", 0, len(self.val), validation=True)]

    def done(self, shard: Shard) -> Record | None:
        """Return the record of a complete shard of an earlier start, None if it is missing or incomplete.

        Raises:
            ConfigError: the shard was made of other photographs or with other options.
        """
        path = self.out / shard.name
        try:
            record = RECORD.validate_python(read_json(path.with_suffix(".json")))
            whole = path.stat().st_size == record["bytes"]
        except (OSError, Unreadable, ValidationError):
            return None
        if record["key"] != self.key:
            raise ConfigError(
                f"{self.out} contains shards of other photographs or with other options.",
                to_do="choose another output folder, or delete this one",
            )
        return record if whole else None

    def write(self, shard: Shard) -> Record:
        """Write one shard, read it back, and record it.

        Raises:
            DataError: the pixels that were read back differ from the tiles.
            OSError: the disk is full, or the folder is not writable.
        """
        path = self.out / shard.name
        photographs = shard.last - shard.first
        record = Record(key=self.key, files=0, photographs=photographs, left_out=[], bytes=0, sha256="")
        atomic.replace(path, lambda temporary: self._fill(temporary, shard, record))
        record["bytes"], record["sha256"] = path.stat().st_size, sha256(path)
        atomic.replace_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        return record

    def _fill(self, path: Path, shard: Shard, record: Record) -> None:
        expected = hashlib.sha256()
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data, pixels in self._files(shard, record["left_out"]):
                _add(tar, name, data)
                expected.update(pixels)
                record["files"] += 1
        found = hashlib.sha256()
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found.update(_pixels(open_rgb(file.read())))
        if found.digest() != expected.digest():
            raise DataError(
                f"{path.name}: the data read back differ from the data written.",
                to_do="check the disk, and start again",
            )

    def _files(self, shard: Shard, left_out: list[list[str]]) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield name, bytes and pixels of every file of a shard; unusable photographs are added to ``left_out``."""
        source = self.val if shard.validation else self.train
        for number in range(shard.first, shard.last):
            name = source.name(number)
            try:
                data = source.read(number)
                photograph = open_rgb(data)
            except (OSError, UnreadableImage) as error:
                left_out.append([name, str(error)])
                continue
            member = inside(name)
            if shard.validation:
                yield member, data, _pixels(photograph)
                continue
            tile = None
            for tile in self.how.tiles(photograph, number):
                encoded = FORMATS[self.how.format](tile.image)
                yield f"{member}/{tile.label}.{self.how.format}", encoded, _pixels(tile.image)
            if tile is None:
                left_out.append([name, f"{photograph.width}x{photograph.height} is smaller than a patch"])


def inside(name: str) -> str:
    """Return the name as that of a member that every program unpacks below its target folder.

    Names that lead out of the folder (``../x.png``, ``/x.png``) come from untrusted archives. They are renamed to
    ``renamed-<hash of the name>/x.png``.
    """
    parts = name.replace("\\", "/").split("/")
    if not name.startswith(("/", "\\")) and ".." not in parts and ":" not in parts[0]:
        return name
    return f"renamed-{hashlib.sha256(name.encode()).hexdigest()[:12]}/{parts[-1].strip('.') or 'image'}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _pixels(image: Image.Image) -> bytes:
    """Return size and 8-bit RGB values of an image, for comparison."""
    return b"%d %d " % image.size + np.asarray(image).tobytes()


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
