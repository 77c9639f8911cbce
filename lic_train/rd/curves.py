"""Rate-distortion curves as data: of a model, of a classical codec measured here, or cited from a paper."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from lic_train.errors import DataError
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, mistakes, read_json

FORMAT = 1
METRICS = ("psnr", "ms_ssim_db")
Kind = Literal["model", "anchor", "cited"]
# Limits of `load`: values beyond them are damage, and their squares and sums could overflow.
Rate = Annotated[float, Field(gt=0, le=1e6)]
Quality = Annotated[float, Field(ge=-1e6, le=1e6)]


@dataclass(frozen=True)
class ImagePoint:
    """One picture at one rate: bits per pixel of the file, PSNR and MS-SSIM in dB (None: unknown or infinite)."""

    name: str
    bpp: Rate
    psnr: Quality | None
    ms_ssim_db: Quality | None


@dataclass(frozen=True)
class Point:
    """One rate of a curve: means over the pictures, and the results of each picture where they were measured.

    Attributes:
        parameter: label of the setting that determines the rate: "λ 0.0067", "QP 32".
        bpp: bits per pixel of whole files; for a cited curve, as its source counts them.
        psnr: mean over the pictures of PSNR in dB, RGB.
        ms_ssim_db: mean MS-SSIM, converted to dB.
        images: results of each picture in the order of the set; empty for cited points.
    """

    parameter: str
    bpp: Rate
    psnr: Quality | None = None
    ms_ssim_db: Quality | None = None
    images: tuple[ImagePoint, ...] = ()

    def quality(self, metric: str) -> float | None:
        """Return the value of a metric, "psnr" or "ms_ssim_db"."""
        value: float | None = getattr(self, metric)
        return value


@dataclass(frozen=True)
class Curve:
    """A rate-distortion curve on a set of pictures.

    Attributes:
        key: short and unique, for command lines and file names: "vvc", "hevc", "mine_ms_ssim".
        name: name in legends.
        kind: "model" (trained here), "anchor" (a classical codec, measured here) or "cited".
        set: name of the picture set, "kodak".
        points: sorted by rate.
        image_list_sha256: hash of the pictures, as in evaluation results; None for cited curves.
        about: origin of the curve (version, command, colour conversion, source), plain values only.
    """

    key: str
    name: str
    kind: Kind
    set: str
    points: tuple[Point, ...]
    image_list_sha256: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(sorted(self.points, key=lambda point: point.bpp)))

    def with_quality(self, metric: str) -> list[tuple[float, float]]:
        """Return the pairs (bpp, quality) of the points that have a value of ``metric``, sorted by rate."""
        return [(p.bpp, quality) for p in self.points if (quality := p.quality(metric)) is not None]


_CURVE = TypeAdapter(Curve)


def save(path: Path, curve: Curve) -> None:
    """Write ``curve`` as JSON, atomically."""
    content = {"format": FORMAT, **asdict(curve)}
    atomic.replace_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def load(path: Path) -> Curve:
    """Return the curve that `save` wrote.

    Raises:
        DataError: the file is unreadable, of another format, or not a curve.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise Unreadable("content of another format")
        return _CURVE.validate_python(content)
    except (Unreadable, ValidationError) as error:
        raise DataError(
            f"{path} is not a rate-distortion curve.",
            expected=f"a curve file of format {FORMAT}",
            got=mistakes(error) if isinstance(error, ValidationError) else str(error),
            to_do="write the file again",
        ) from error
