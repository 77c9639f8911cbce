"""The result file of an evaluation, ``eval/<set>.json``: its definition, how it is written and how it is read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError, model_validator
from torch import Tensor

from lic_train.evaluate.definitions import DEFINITIONS
from lic_train.evaluate.protocol import HOUSE, Protocol
from lic_train.files.checkpoint import Metadata
from lic_train.files.zoo.published import Published
from lic_train.rd.curves import ImagePoint, Point
from lic_train.system import atomic

FORMAT = 2
SECONDS = (
    "encode_seconds",
    "encode_model_seconds",
    "encode_coding_seconds",
    "decode_seconds",
    "decode_model_seconds",
    "decode_coding_seconds",
    "io_seconds",
)
AVERAGED = ("bytes", "bpp_file", "bpp", "psnr", "ms_ssim", *SECONDS)
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Record(BaseModel):
    """Base class of the contents of JSON files that lic_train writes and reads; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def stem_of(name: str, level: float | None) -> str:
    """Return the name of the files of an image at a level, without suffix."""
    return name if level is None else f"{name}_level_{level:g}"


class Picture(Record):
    """Name, size and level of an image, and the bytes of its .lic file."""

    name: Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$")]  # of the files in eval/<set>/
    width: PositiveInt
    height: PositiveInt
    bytes: PositiveInt
    level: FiniteFloat | None = None  # of a variable rate
    lmbda: Annotated[Rate | None, Field(alias="lambda")] = None

    @property
    def stem(self) -> str:
        """Name of the files of this image in eval/<set>/, without suffix."""
        return stem_of(self.name, self.level)


class Numbers(Record):
    """Numbers of one image, or means over the images; `DEFINITIONS` defines each of them.

    Metrics that were requested with ``metrics=`` are further numbers, see `lic_train.evaluate.image_metrics`.
    """

    bpp_file: Rate
    bpp: FiniteFloat
    psnr: FiniteFloat | None
    ms_ssim: FiniteFloat | None = None
    ms_ssim_db: FiniteFloat | None
    encode_seconds: FiniteFloat
    encode_model_seconds: FiniteFloat | None = None
    encode_coding_seconds: FiniteFloat | None = None
    decode_seconds: FiniteFloat
    decode_model_seconds: FiniteFloat | None = None
    decode_coding_seconds: FiniteFloat | None = None
    io_seconds: FiniteFloat | None = None
    equal: bool


class Row(Numbers, Picture):
    """The result of one image."""

    max_difference: FiniteFloat | None = None


class Level(Record):
    """Means over the images at one level of a variable rate."""

    level: FiniteFloat
    lmbda: Annotated[Rate, Field(alias="lambda")]
    mean: Numbers


class CheckpointFile(Record):
    """The file that was evaluated."""

    file: str
    sha256: Digest


class Result(Record):
    """Content of ``eval/<set>.json``: the evaluation of one model on one set of images."""

    format: Literal[2]
    set: str
    image_list_sha256: Digest
    checkpoint: CheckpointFile
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    mean: Numbers
    rows: Annotated[list[Row], Field(min_length=1)]
    levels: list[Level] = []
    training: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    protocol: Protocol = HOUSE
    published: Published | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Result:
        if len({(row.name, row.level) for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same name")
        if {level.level for level in self.levels} != {row.level for row in self.rows if row.level is not None}:
            raise ValueError("the levels of the rows and of the means differ")
        return self

    def at(self, level: Level) -> Result:
        """Return the result at one level, as that of a model with one rate."""
        rows = [row for row in self.rows if row.level == level.level]
        return self.model_copy(update={"rows": rows, "mean": level.mean, "levels": []})

    def row(self, name: str) -> Row | None:
        """Return the row of the image ``name``, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def point(self, parameter: str) -> Point:
        """Return the result as one point of a rate-distortion curve; ``parameter`` is what selected the rate."""
        images = tuple(ImagePoint(row.name, row.bpp_file, row.psnr, row.ms_ssim_db) for row in self.rows)
        return Point(parameter, self.mean.bpp_file, self.mean.psnr, self.mean.ms_ssim_db, images)


class ImageListHash:
    """SHA-256 over names and pixels of a list of images: two results with the same hash can be compared."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, picture: Tensor) -> None:
        """Add one image, uint8 (3, H, W)."""
        self._digest.update(f"{name}\0{picture.shape[1]}\0{picture.shape[2]}\0".encode())
        self._digest.update(picture.permute(1, 2, 0).contiguous().numpy().data)

    def hexdigest(self) -> str:
        """Return the hash of the images added so far."""
        return self._digest.hexdigest()


def describe(metadata: Metadata) -> dict[str, Any]:
    """Return the model's part of a result: configuration, training, checkpoint file with SHA-256, fingerprint.

    An imported model also has the result that its authors published.
    """
    with metadata.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    published = metadata.extra.get("published")
    return {
        "model": metadata.config,
        "training": metadata.training,
        "checkpoint": {"file": "/".join(metadata.path.parts[-2:]), "sha256": digest},
        "fingerprint": metadata.fingerprint.hex(),
        **({"published": published} if published else {}),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Return device, number of threads, platform, and versions of the packages that affect the numbers."""
    packages = ("compressai", "constriction", "pytorch-msssim", "torchmetrics")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
    }


def assemble(
    set_name: str,
    rows: Sequence[dict[str, Any]],
    info: dict[str, Any],
    image_list: ImageListHash,
    environment: dict[str, Any],
    metrics: Mapping[str, str] | None = None,
    protocol: Protocol = HOUSE,
) -> dict[str, Any]:
    """Return the content of the result file: plain values, no infinity, no NaN.

    Args:
        set_name: name of the set of images.
        rows: one for each image and level, a `Row` as a dict together with the requested metrics.
        info: returned by `describe`.
        image_list: hash of the images.
        environment: returned by `environment`, and how the times were measured.
        metrics: names and definitions of the requested metrics.
        protocol: padding and kind of PSNR.
    """
    metrics = metrics or {}
    return {
        "format": FORMAT,
        "set": set_name,
        "images": len({row["name"] for row in rows}),
        "image_list_sha256": image_list.hexdigest(),
        **info,
        "mean": _mean(rows, (*AVERAGED, *metrics)),
        **_levels(rows, (*AVERAGED, *metrics)),
        "median": {name: median(row[name] for row in rows) for name in SECONDS},
        "rows": rows,
        "environment": environment,
        "definitions": {**DEFINITIONS, **protocol.definitions(), **metrics},
        "protocol": protocol.model_dump(),
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the result file atomically."""
    atomic.replace_bytes(path, (json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def is_complete(row: Any, metrics: Sequence[str]) -> bool:
    """Return whether ``row`` from a file has everything that `assemble` needs of a row with these further metrics."""
    try:
        Row.model_validate(row)
    except ValidationError:
        return False
    return has_numbers(row, metrics) and has_numbers(row, SECONDS) and None not in map(row.get, SECONDS)


def has_numbers(values: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Return whether ``values`` has a finite number or None for each of ``names``."""
    found = [values.get(name, "") for name in names]
    return all(value is None or (isinstance(value, int | float) and math.isfinite(value)) for value in found)


def decibel(ms_ssim: float | None) -> float | None:
    """Return MS-SSIM in dB, or None if it is None or 1."""
    return None if ms_ssim is None or ms_ssim >= 1 else -10 * math.log10(1 - ms_ssim)


def finite(value: float) -> float | None:
    """Return ``value``, or None if it is infinite or NaN, which JSON cannot represent."""
    return value if math.isfinite(value) else None


def _levels(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return the means at each level under "levels"; nothing for a model with one rate."""
    groups: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("level") is not None:
            groups.setdefault(row["level"], []).append(row)
    means = [
        {"level": level, "lambda": group[0]["lambda"], "mean": _mean(group, names)}
        for level, group in sorted(groups.items())
    ]
    return {"levels": means} if means else {}


def _mean(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    mean: dict[str, Any] = {}
    for name in names:
        values = [row[name] for row in rows]
        mean[name] = None if None in values else sum(values) / len(values)
    return mean | {"ms_ssim_db": decibel(mean["ms_ssim"]), "equal": all(row["equal"] for row in rows)}
