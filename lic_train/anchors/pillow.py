"""Classical codecs that Pillow carries, or a plug-in gives it."""

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


@dataclass(frozen=True)
class PillowAnchor:
    """A codec behind ``PIL.Image.save``; see `lic_train.anchors.codecs.Anchor` for what is not said here.

    Attributes:
        format: Pillow's name of the file format.
        library: gives the version of the library that does the work, or raises AnchorError.
        options: of ``save``, the same at every rate.
        at_rate: of ``save``, the options that choose the rate.
        chroma: "4:4:4" or "4:2:0", as the format or the options have it.
        read_chroma: what the file at a path really has, where a file can tell.
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
        """The call that writes a file, ``{rate}`` where the rate goes."""
        options = {**self.at_rate("{rate}"), **self.options}
        arguments = ", ".join(f"{name}={value!r}" for name, value in options.items()).replace("'{rate}'", "{rate}")
        return f"PIL.Image.save(file, {self.format!r}, {arguments})"

    def require(self) -> str:
        """See `Anchor`."""
        return f"Pillow {version('pillow')}, {self.library()}"

    def encode(self, picture: np.ndarray, rate: int, path: Path) -> None:
        """See `Anchor`."""
        try:
            Image.fromarray(picture).save(path, self.format, **self.at_rate(rate), **self.options)
        except (OSError, ValueError, RuntimeError) as error:
            raise AnchorError(f"{self.name} cannot write a file at {self.parameter} {rate}: {error}") from error

    def decode(self, path: Path, height: int, width: int) -> np.ndarray:
        """See `Anchor`."""
        try:
            chroma = self.read_chroma(path) if self.read_chroma else self.chroma
            with Image.open(path, formats=[self.format]) as image:
                picture = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, RuntimeError, UnidentifiedImageError) as error:
            raise AnchorError(f"{self.name} cannot read its own file: {error}") from error
        if chroma != self.chroma:
            raise AnchorError(f"expected {self.name} to write {self.chroma}, got {chroma}")
        if picture.shape != (height, width, 3):
            raise AnchorError(f"expected {self.name} to give back {width} x {height}, got {picture.shape}")
        return picture


def built_in(feature: str, name: str) -> Callable[[], str]:
    """Asks for a library inside Pillow, by Pillow's word for it."""

    def library() -> str:
        if not features.check(feature):
            raise AnchorError(f"expected {name} in Pillow {version('pillow')}, got a Pillow built without it")
        return f"{name} {features.version(feature)}"

    return library


def avif_library() -> str:
    """libavif, and the AV1 encoder inside it."""
    library = built_in("avif", "libavif")()
    return f"{library} ({importlib.import_module('PIL._avif').codec_versions()})"


def jxl_plugin() -> str:
    """The plug-in, which is entered in Pillow by importing it."""
    try:
        importlib.import_module("pillow_jxl")
    except ImportError as error:
        raise AnchorError("expected Pillow's plug-in for JPEG XL, got none; install pillow-jxl-plugin>=1.3") from error
    return f"pillow-jxl-plugin {version('pillow-jxl-plugin')}"


def jpeg_chroma(path: Path) -> str:
    """How a JPEG file samples its colour."""
    with Image.open(path, formats=["JPEG"]) as image:
        return {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image), "unknown")


def avif_chroma(path: Path) -> str:
    """How an AVIF file samples its colour: two bits of the AV1 configuration box."""
    data = path.read_bytes()
    box = data.find(b"av1C")
    if box < 0 or len(data) < box + 7:
        return "unknown"
    halved_x, halved_y = data[box + 6] >> 3 & 1, data[box + 6] >> 2 & 1
    return {(0, 0): "4:4:4", (1, 0): "4:2:2", (1, 1): "4:2:0"}[halved_x, halved_y]
