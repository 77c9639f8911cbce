"""A rate-distortion curve as data: of a model, of a classical codec measured here, or cited from a paper."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lic_train.errors import DataError
from lic_train.system import atomic

FORMAT = 1
METRICS = ("psnr", "ms_ssim_db")
Kind = Literal["model", "anchor", "cited"]


@dataclass(frozen=True)
class ImagePoint:
    """One picture at one rate: the file's bits per pixel, PSNR in dB, MS-SSIM in dB (None: unknown or perfect)."""

    name: str
    bpp: float
    psnr: float | None
    ms_ssim_db: float | None


@dataclass(frozen=True)
class Point:
    """One rate of a curve: means over the pictures, and the pictures themselves where they were measured.

    Attributes:
        parameter: what chose the rate, as a reader would say it: "lambda 0.0067", "QP 32".
        bpp: bits per pixel of whole files; of a cited curve, what its source counts.
        psnr: dB, RGB, mean over pictures of per-picture values.
        ms_ssim_db: dB, of the mean MS-SSIM.
        images: one for each picture, in the set's order; empty for cited points.
    """

    parameter: str
    bpp: float
    psnr: float | None = None
    ms_ssim_db: float | None = None
    images: tuple[ImagePoint, ...] = ()

    def quality(self, metric: str) -> float | None:
        """The point's "psnr" or "ms_ssim_db"."""
        value: float | None = getattr(self, metric)
        return value


@dataclass(frozen=True)
class Curve:
    """Points in the order of rising rate.

    Attributes:
        key: short and unique, for command lines and file names: "vvc", "hevc", "mine_ms_ssim".
        name: what a legend says.
        kind: "model" (trained here), "anchor" (a classical codec, measured here) or "cited".
        set: the pictures: "kodak".
        image_list_sha256: of the pictures, as evaluation gives it; None for cited curves.
        about: how it was made: version, command, colour, source; plain values.
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
        """Pairs (bpp, quality) of the points that have ``metric``, in the order of rising rate."""
        return [(p.bpp, quality) for p in self.points if (quality := p.quality(metric)) is not None]


def save(path: Path, curve: Curve) -> None:
    """Write ``curve`` as JSON, all or nothing."""
    content = {"format": FORMAT, **asdict(curve)}
    atomic.replace_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def load(path: Path) -> Curve:
    """Read what `save` wrote.

    Raises:
        DataError: the file is unreadable, of another format, or no curve.
    """
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        points = [_point(point) for point in content.pop("points")]
        return Curve(points=tuple(points), **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"expected a curve of format {FORMAT} in {path}, got: {error}; make it again") from error


def _point(content: dict[str, Any]) -> Point:
    images = tuple(ImagePoint(**image) for image in content.pop("images", ()))
    return Point(images=images, **content)
