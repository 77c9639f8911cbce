"""How pictures are padded and PSNR is computed: the house convention, or those with which authors measured.

Other paddings are added around the picture before the codec, and removed after it. The .lic file then contains the
padded picture; bits are per pixel of the true picture.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor

from lic_train.errors import ConfigError


class Protocol(BaseModel):
    """Options of conf/evaluate.yaml with which authors measured.

    Attributes:
        padding: ``replicate`` and ``zero`` at the bottom and at the right, ``zero_centred`` on all sides.
        multiple: sides are padded to multiples of it; None uses the model's downsampling factor.
        psnr: of RGB rounded to 8 bits (``uint8``), or of the clamped floats (``float``).
        tile: side of the tiles in which pictures are coded, as in `lic_train.files.tiles.plan`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    padding: Literal["replicate", "zero", "zero_centred"] = "replicate"
    multiple: PositiveInt | None = None
    psnr: Literal["uint8", "float"] = "uint8"
    tile: NonNegativeInt | None = None

    @property
    def is_house(self) -> bool:
        """Whether this is the convention of this package."""
        return self == HOUSE

    @property
    def described(self) -> str:
        """The options as on the command line, those of the house convention left out."""
        used = self.model_dump(exclude_defaults=True)
        return " ".join(f"eval.{key}={value}" for key, value in used.items())

    def definitions(self) -> dict[str, str]:
        """Return the definitions in result files that differ from those of the house convention."""
        sides = "on all sides" if self.padding == "zero_centred" else "bottom and right"
        kind = "replicate" if self.padding == "replicate" else "zeros"
        multiple = self.multiple or "the model's downsampling factor"
        changed = {}
        if self.padding != "replicate" or self.multiple:
            changed["padding"] = f"{kind}, {sides}, to multiples of {multiple}; the .lic file contains the padded image"
        if self.psnr == "float":
            changed["psnr"] = "dB; clamped RGB without rounding; mean squared error over all pixels and channels"
        if self.tile is not None:
            changed["tile"] = f"pictures are coded in tiles of {self.tile}" if self.tile else "pictures are not tiled"
        return changed

    def pad(self, x: Tensor, factor: int) -> Padded:
        """Pad an image (3, H, W) for a codec with the downsampling factor ``factor``.

        Raises:
            ConfigError: the multiple or the side of the tiles is not a multiple of the factor.
        """
        multiple = self.multiple or factor
        for key, value in (("eval.multiple", multiple), ("eval.tile", self.tile or 0)):
            if value % factor:
                raise ConfigError(
                    f"{key} does not fit the model.",
                    expected=f"a multiple of its downsampling factor {factor}",
                    got=str(value),
                )
        height, width = x.shape[1:]
        if self.padding == "replicate" and self.multiple is None:
            return Padded(x, 0, 0, height, width)  # the bitstream pads
        down, across = -height % multiple, -width % multiple
        top, left = (down // 2, across // 2) if self.padding == "zero_centred" else (0, 0)
        mode = "replicate" if self.padding == "replicate" else "constant"
        padded = F.pad(x[None], (left, across - left, top, down - top), mode=mode)[0]
        return Padded(padded, top, left, height, width)


HOUSE = Protocol()


class Padded(NamedTuple):
    """A padded image (3, H, W), and the place and size of the true one in it."""

    x: Tensor
    top: int
    left: int
    height: int
    width: int

    def crop(self, picture: Tensor) -> Tensor:
        """Return the part of a map (..., H, W) of at least the padded size that belongs to the true image."""
        return picture[..., self.top : self.top + self.height, self.left : self.left + self.width]
