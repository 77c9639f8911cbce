"""Tar shards of tiles: each is written whole or not at all, read back, and recorded beside itself."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lic_train.data.decode.images import UnreadableImage, open_rgb
from lic_train.data.prepare.tiles import FORMATS, Tile, grid, patches
from lic_train.data.sets.sources import Source
from lic_train.errors import ConfigError, DataError
from lic_train.system import atomic

CUTS = ("grid", "patches")


@dataclass(frozen=True)
class Preparation:
    """What is made of the photographs.

    Attributes:
        cut: "grid" (tiles that cover each photograph) or "patches" (the random patches of GCAB and GAACNN).
        side: of the tiles in pixels; patches are 256.
        format: one of `FORMATS`.
        per_shard: photographs of one tar.
        seed: of the random patches.
        val_ratio: share of the photographs that serve as validation where the root has none of its own.
    """

    cut: str
    side: int
    format: str
    per_shard: int
    seed: int
    val_ratio: float

    def tiles(self, photograph: Image.Image, number: int) -> Iterator[Tile]:
        """The pieces of photograph ``number``."""
        return grid(photograph, self.side) if self.cut == "grid" else patches(photograph, self.seed, number)


@dataclass(frozen=True)
class Shard:
    """One tar: photographs ``first`` to ``last`` (exclusive) of the training set, or of the validation set."""

    name: str
    first: int
    last: int
    validation: bool = False


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to write shards."""

    train: Source
    val: Source
    out: Path
    how: Preparation
    key: str

    def shards(self) -> list[Shard]:
        """All of them, the validation photographs last."""
        per, count = self.how.per_shard, len(self.train)
        cuts = [(first, min(first + per, count)) for first in range(0, count, per)]
        train = [Shard(f"train-{number:06d}.tar", *cut) for number, cut in enumerate(cuts)]
        return [*train, Shard("val-000000.tar", 0, len(self.val), validation=True)]

    def done(self, shard: Shard) -> dict[str, Any] | None:
        """The record of a shard that an earlier start finished.

        Raises:
            ConfigError: it was of other photographs, or had other options.
        """
        path = self.out / shard.name
        try:
            record: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
            whole = path.stat().st_size == record["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if record["key"] != self.key:
            raise ConfigError(
                f"{self.out} holds other photographs or a preparation with other options; "
                "give this one another folder, or delete that one"
            )
        return record if whole else None

    def write(self, shard: Shard) -> dict[str, Any]:
        """Write one shard, read it back, and record it.

        Raises:
            DataError: what was read back is not what was cut.
            OSError: the disk is full, or the folder not writable.
        """
        path = self.out / shard.name
        record: dict[str, Any] = {"key": self.key, "files": 0, "photographs": shard.last - shard.first, "left_out": []}
        atomic.replace(path, lambda temporary: self._fill(temporary, shard, record))
        record |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
        atomic.replace_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        return record

    def _fill(self, path: Path, shard: Shard, record: dict[str, Any]) -> None:
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
            raise DataError(f"{path.name}: what was read back is not what was written; check the disk, and start again")

    def _files(self, shard: Shard, left_out: list[list[str]]) -> Iterator[tuple[str, bytes, bytes]]:
        """Name, bytes and pixels of every file of a shard; photographs that give none are noted with the reason."""
        source = self.val if shard.validation else self.train
        for number in range(shard.first, shard.last):
            name = source.name(number)
            try:
                data = source.read(number)
                photograph = open_rgb(data)
            except (OSError, UnreadableImage) as error:
                left_out.append([name, str(error)])
                continue
            if shard.validation:
                yield name, data, _pixels(photograph)
                continue
            tile = None
            for tile in self.how.tiles(photograph, number):
                encoded = FORMATS[self.how.format](tile.image)
                yield f"{name}/{tile.label}.{self.how.format}", encoded, _pixels(tile.image)
            if tile is None:
                left_out.append([name, f"{photograph.width}x{photograph.height} is smaller than a patch"])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _pixels(image: Image.Image) -> bytes:
    """What tells two pictures apart: size and 8-bit RGB."""
    return b"%d %d " % image.size + np.asarray(image).tobytes()


def sha256(path: Path) -> str:
    """Of the whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
