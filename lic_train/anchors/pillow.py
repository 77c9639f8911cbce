"""Classical codecs built into Pillow or added to it by a plug-in."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError, features

from lic_train.errors import AnchorError
from lic_train.system.screen import reason


@dataclass(frozen=True)
class PillowAnchor:
    """A codec of ``PIL.Image.save``. `lic_train.anchors.codecs.Anchor` documents the other attributes.

    Attributes:
        format: Pillow's name of the file format.
        library: returns the version of the library that encodes, or raises AnchorError.
        options: options of ``save`` at every rate.
        at_rate: options of ``save`` that depend on the rate.
        chroma: chroma format that the format or the options imply, "4:4:4" or "4:2:0".
        read_chroma: returns the actual chroma format of a file, for formats that store it.
    """

    key: str
    name: str
    format: str
    suffix: str
    parameter: str
    rates: tuple[int, ...]
    colour: str
    chroma: str
    library: Callable[[], str]
    options: Mapping[str, Any]
    at_rate: Callable[[int | str], Mapping[str, Any]]
    read_chroma: Callable[[Path], str] | None = None

    @property
    def command(self) -> str:
        """The call that writes a file, with ``{rate}`` for the rate."""
        options = {**self.at_rate("{rate}"), **self.options}
        arguments = ", ".join(f"{name}={value!r}" for name, value in options.items()).replace("'{rate}'", "{rate}")
        return f"PIL.Image.save(file, {self.format!r}, {arguments})"

    def require(self) -> str:
        """Return the versions of Pillow and the library; raise AnchorError if the library is missing."""
        return f"Pillow {version('pillow')}, {self.library()}"

    def encode(self, picture: np.ndarray, rate: int, path: Path) -> None:
        """Write ``picture`` to ``path``; raise AnchorError if the library fails."""
        try:
            Image.fromarray(picture).save(path, self.format, **self.at_rate(rate), **self.options)
        except (OSError, ValueError, RuntimeError) as error:
            raise AnchorError(
                f"{self.name} cannot write a file at {self.parameter} {rate}.", got=reason(error)
            ) from error

    def decode(self, path: Path, height: int, width: int) -> np.ndarray:
        """Decode the file; raise AnchorError if the library fails or chroma format or size differ."""
        try:
            chroma = self.read_chroma(path) if self.read_chroma else self.chroma
            with Image.open(path, formats=[self.format]) as image:
                picture = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, RuntimeError, UnidentifiedImageError) as error:
            raise AnchorError(f"{self.name} cannot read its own file.", got=reason(error)) from error
        if chroma != self.chroma:
            raise AnchorError(f"{self.name} wrote another chroma format.", expected=self.chroma, got=chroma)
        if picture.shape != (height, width, 3):
            raise AnchorError(
                f"{self.name} decoded a picture of another size.",
                expected=f"{width} x {height}",
                got=f"{picture.shape[1]} x {picture.shape[0]}",
            )
        return picture


def built_in(feature: str, name: str) -> Callable[[], str]:
    """Return a function that returns the version of a library inside Pillow, given Pillow's name of the feature."""

    def library() -> str:
        if not features.check(feature):
            raise AnchorError(
                f"{name} is missing.",
                expected=f"Pillow with {name}",
                got=f"Pillow {version('pillow')} built without it",
            )
        return f"{name} {features.version(feature)}"

    return library


def avif_library() -> str:
    """Return the versions of libavif and of the AV1 encoder inside it."""
    library = built_in("avif", "libavif")()
    return f"{library} ({importlib.import_module('PIL._avif').codec_versions()})"


def jxl_plugin() -> str:
    """Return the version of the plug-in, which registers itself in Pillow on import."""
    try:
        importlib.import_module("pillow_jxl")
    except ImportError as error:
        raise AnchorError(
            "Pillow's plug-in for JPEG XL is missing.",
            expected="the package pillow-jxl-plugin",
            got=reason(error),
            to_do="install pillow-jxl-plugin>=1.3",
        ) from error
    return f"pillow-jxl-plugin {version('pillow-jxl-plugin')}"


def jpeg_chroma(path: Path) -> str:
    """Return the chroma format of a JPEG file."""
    with Image.open(path, formats=["JPEG"]) as image:
        return {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image), "unknown")


def avif_chroma(path: Path) -> str:
    """Return the chroma format of an AVIF file, stored in two bits of the AV1 configuration box."""
    data = path.read_bytes()
    box = data.find(b"av1C")
    if box < 0 or len(data) < box + 7:
        return "unknown"
    halved_x, halved_y = data[box + 6] >> 3 & 1, data[box + 6] >> 2 & 1
    return {(0, 0): "4:4:4", (1, 0): "4:2:2", (1, 1): "4:2:0"}[halved_x, halved_y]
