"""Published results of the files that ``lic zoo`` imports, found by the names of the files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveFloat, TypeAdapter

from lic_train.errors import ConfigError
from lic_train.system.reading import read_yaml

_FACTS = Path(__file__).with_name("published.yaml")
_FOLDERS = 3  # folders above the file whose names are compared


class Published(BaseModel):
    """Published result of one file, as stored in the imported model.

    Attributes:
        name: by which the authors published the file.
        source: of the numbers.
        set: name of the picture set.
        bpp: mean bits per pixel.
        psnr: mean in dB, or None.
        ms_ssim: mean, or None.
        options: evaluation options of the authors that are not the house convention: padding, multiple, psnr.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    source: str
    set: str = "kodak"
    bpp: PositiveFloat
    psnr: FiniteFloat | None = None
    ms_ssim: FiniteFloat | None = None
    options: dict[Literal["padding", "multiple", "psnr"], str | int] = {}

    @property
    def metric(self) -> Literal["psnr", "ms_ssim"]:
        """The metric of the published quality."""
        return "ms_ssim" if self.psnr is None else "psnr"

    @property
    def described(self) -> str:
        """Rate and quality, for example ``0.298 bpp 32.15 dB``."""
        return point(self.bpp, self.metric, getattr(self, self.metric))

    @property
    def command(self) -> str:
        """The authors' evaluation options for a command line, empty for the house convention."""
        return " ".join(f"eval.{key}={value}" for key, value in self.options.items())


def point(bpp: float, metric: str, quality: float | None) -> str:
    """Return a rate and a quality with their units."""
    value = "-" if quality is None else f"{quality:.2f} dB" if metric == "psnr" else f"MS-SSIM {quality:.4f}"
    return f"{bpp:.3f} bpp {value}"


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid")

    source: str
    distortion: Literal["mse", "ms_ssim"] = "mse"
    arguments: dict[str, int] = {}
    options: dict[Literal["padding", "multiple", "psnr"], str | int]
    rows: list[tuple[str, PositiveFloat | None, PositiveFloat, FiniteFloat]]


class Found(BaseModel):
    """Training of a published file: ``lmbda`` (None if it is not published) and ``distortion``; and its result."""

    lmbda: float | None
    distortion: Literal["mse", "ms_ssim"]
    result: Published


def find(config: Mapping[str, Any], paths: list[Path], distortion: str | None) -> Found | None:
    """Return the published result that belongs to the name of a file, or of the nearest folder; None without one.

    Args:
        config: the recognised model.
        paths: the files.
        distortion: of the training; None takes the first result with the name.
    """
    words = [word for path in paths for word in (path.name, *reversed(path.absolute().parent.parts[-_FOLDERS:]))]
    every = [found for found in _of(config) if distortion in (None, found.distortion)]
    pairs = ((found, word) for word in words for found in every)
    return next((found for found, word in pairs if _contains(word, found.result.name)), None)


def by_name(config: Mapping[str, Any], name: str, distortion: str | None) -> Found:
    """Return the published result of the file that the authors call ``name``.

    Raises:
        ConfigError: there is none.
    """
    every = [found for found in _of(config) if distortion in (None, found.distortion)]
    for found in every:
        if found.result.name == name:
            return found
    raise ConfigError(
        f"--quality-from: no published result has the name {name!r}.",
        expected=f"one of {', '.join(found.result.name for found in every)}" if every else "a model with such results",
        got=name,
    )


def names(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the published results of a model."""
    return [found.result.name for found in _of(config)]


def _of(config: Mapping[str, Any]) -> Iterator[Found]:
    model = str(config["_target_"]).split(".")[-2]
    for group in facts().get(model, []):
        if not group.arguments.items() <= config.items():
            continue
        for name, lmbda, bpp, quality in group.rows:
            psnr, ms_ssim = (quality, None) if group.distortion == "mse" else (None, quality)
            about = {"name": name, "source": group.source, "options": group.options}
            result = Published.model_validate({**about, "bpp": bpp, "psnr": psnr, "ms_ssim": ms_ssim})
            yield Found(lmbda=lmbda, distortion=group.distortion, result=result)


def _contains(word: str, name: str) -> bool:
    """Return whether ``name`` is a part of a file's name, and not of a longer name or number in it."""
    return re.search(rf"(?<![0-9A-Za-z.]){re.escape(name)}(?![0-9A-Za-z])", word) is not None


@functools.cache
def facts() -> dict[str, list[_Group]]:
    """Return the content of published.yaml: groups of files by model."""
    return TypeAdapter(dict[str, list[_Group]]).validate_python(read_yaml(_FACTS))
