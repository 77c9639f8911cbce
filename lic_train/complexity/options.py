"""Options of the complexity command: conf/complexity.yaml and the overrides of the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from hydra.core.hydra_config import HydraConfig
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat

from lic_train.config.compose import Section, read_section
from lic_train.files.tiles import MAX_TILE_PIXELS


def _size(value: object) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", str(value))
    if not match:
        raise ValueError("expected width x height in pixels, such as 768x512")
    width, height = map(int, match.groups())
    if width * height > MAX_TILE_PIXELS:
        raise ValueError(f"expected at most {MAX_TILE_PIXELS} pixels, the most that is coded at once")
    return height, width


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError("expected cpu, cuda or cuda:<number>")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"expected cpu, or a GPU of this machine: {str(error).splitlines()[0]}") from error
    return name


Size = Annotated[tuple[int, int], BeforeValidator(_size)]  # height and width in pixels


class VariantRow(Section):
    """One row of a table: options added to the model's configuration, and the paper's multiply-adds in G."""

    name: str
    paper: PositiveFloat | None
    model: dict[str, Any]


class Variants(Section):
    """A table of variants of one model: a file of conf/variants, see `lic_train.complexity.variants`."""

    title: str
    size: Size
    output: Path
    unseen: list[str]
    rows: Annotated[list[VariantRow], Field(min_length=1)]
    note: str


class Options(Section):
    """Validated options, documented in conf/complexity.yaml."""

    model: dict[str, Any]
    variants: Variants | None = None
    lmbda: Annotated[PositiveFloat, Field(alias="lambda")]
    distortion: str
    size: Size
    time: bool
    device: Annotated[str, AfterValidator(_device)]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", coerce_numbers_to_str=True)] | None
    output: Path


def read_options(overrides: Sequence[str]) -> tuple[str, Options]:
    """Return the name of the selected conf/model file, and the options composed with ``overrides``.

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or an invalid value.
    """
    options = read_section(Options, overrides, "complexity")
    return str(HydraConfig.get().runtime.choices["model"]), options
