"""What a report takes from ``eval/<set>.json`` and ``outputs/complexity/<model>.json``, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from lic_train.rd.curves import ImagePoint, Point

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Record(BaseModel):
    """Content of a file that another part of this program wrote: what is not needed here is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Numbers(Record):
    """Of a picture, or means over the pictures, of which ``ms_ssim_db`` is that of the mean MS-SSIM.

    `lic_train.evaluate.results.DEFINITIONS` says what each number means.
    """

    bpp_file: Rate
    bpp: FiniteFloat
    psnr: FiniteFloat | None
    ms_ssim_db: FiniteFloat | None
    encode_seconds: FiniteFloat
    decode_seconds: FiniteFloat
    equal: bool


class Row(Numbers):
    """One picture."""

    name: Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$")]  # of the files below eval/<set>/
    width: PositiveInt
    height: PositiveInt
    bytes: PositiveInt


class CheckpointFile(Record):
    """Which file was evaluated."""

    file: str
    sha256: Digest


class Result(Record):
    """The evaluation of one run on one set."""

    format: Literal[2]
    set: str
    image_list_sha256: Digest
    checkpoint: CheckpointFile
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    mean: Numbers
    rows: Annotated[list[Row], Field(min_length=1)]
    training: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    definitions: dict[str, Any] = {}

    @model_validator(mode="after")
    def _names_differ(self) -> Result:
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("two rows of one name")
        return self

    def row(self, name: str) -> Row | None:
        """The picture of this name."""
        return next((row for row in self.rows if row.name == name), None)

    def point(self, parameter: str) -> Point:
        """As one rate of a curve; ``parameter`` is what chose it."""
        images = tuple(ImagePoint(row.name, row.bpp_file, row.psnr, row.ms_ssim_db) for row in self.rows)
        return Point(parameter, self.mean.bpp_file, self.mean.psnr, self.mean.ms_ssim_db, images)


class Macs(Record):
    """Multiply-adds of one forward pass at one size."""

    height: PositiveInt
    width: PositiveInt
    total: NonNegativeInt


class Times(Record):
    """Milliseconds of one picture of this size."""

    forward_ms: FiniteFloat
    encode_ms: FiniteFloat
    decode_ms: FiniteFloat
    height: PositiveInt
    width: PositiveInt


class Complexity(Record):
    """What a model costs, as ``python -m lic_train.complexity`` measured it."""

    format: Literal[1]
    model: str
    parameters: dict[str, NonNegativeInt]
    macs: list[Macs]
    time: Times | None = None
    peak_bytes: NonNegativeInt | None = None
    environment: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
