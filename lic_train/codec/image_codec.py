"""The public codec object: pictures to .lic files and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lic_train.codec import rate
from lic_train.data.decode.images import from_pillow, read_image
from lic_train.errors import DataError
from lic_train.files import bitstream
from lic_train.files.checkpoint import Metadata
from lic_train.models.base import Codec

Picture = Image.Image | np.ndarray | Tensor | str | os.PathLike[str]


class PictureError(DataError, ValueError):
    """An object that was passed to ``encode`` is not a picture of a supported kind."""


@dataclass(frozen=True)
class Estimate:
    """Rate and reconstruction of a picture, estimated by the networks without writing a file.

    Attributes:
        bits: of the whole picture, from the likelihoods; the file also has a header.
        bpp: bits per pixel of the true size.
        x_hat: reconstruction (3, H, W), float in [0, 1], on the CPU.
        likelihoods: by latent, of the padded picture, on the CPU; those of several tiles in one dimension.
        bits_map: (H, W), bits per pixel; the bits of each latent element are spread over the pixels that it covers.
    """

    bits: float
    bpp: float
    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    bits_map: Tensor


class ImageCodec:
    """A trained model that codes pictures. Made by `lic_train.load`.

    Args:
        model: ready to code, on its device.
        metadata: configuration, origin and fingerprint of the model.
    """

    def __init__(self, model: Codec, metadata: Metadata) -> None:
        self.model = model
        self.metadata = metadata

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the model: ``_target_`` and arguments."""
        return self.metadata.config

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    def __repr__(self) -> str:
        name = str(self.config.get("_target_", "")).rpartition(".")[2]
        return f"ImageCodec({name}, {self.metadata.path}, {self.device})"

    def encode(
        self,
        image: Picture,
        tile: int | None = None,
        *,
        level: float | None = None,
        lmbda: float | None = None,
        bpp: float | None = None,
        num_bytes: int | None = None,
        psnr: float | None = None,
    ) -> bytes:
        """Compress one picture of any size into the bytes of a ``.lic`` file.

        Args:
            image: a PIL image of any mode, a uint8 array (H, W, 3), a float tensor (3, H, W) in [0, 1], or the path of
                a picture file.
            tile: side in pixels of the tiles in which the picture is coded, a multiple of the model's downsampling
                factor; 0 codes it as a whole; None does so up to 2^25 pixels (padded), and in tiles of 2048 above.
            level: of a model with a variable rate, in [0, L - 1]. This and the following options exclude one another;
                without any, the level is the middle of the range.
            lmbda: lambda, within the ladder of the model.
            bpp: largest rate of the file in bits per pixel; the result is up to 0.5 %, or 8 bytes, smaller.
            num_bytes: largest size of the file; the result is up to 0.5 %, or 8 bytes, smaller.
            psnr: smallest PSNR of the decoded picture in dB; the result exceeds it by at most 0.02 dB.

        Raises:
            ConfigError: the model has one rate, a wanted value is not valid or out of reach, or several are given.
            PictureError: another type, shape, dtype or range, too many pixels, or a tile that does not fit the model.
            DataError: the file is not a readable picture.
        """
        x = to_tensor(image).to(self.device)
        wanted = rate.Wanted(level=level, lmbda=lmbda, bpp=bpp, num_bytes=num_bytes, psnr=psnr)
        with codable():
            return rate.encode(self.model, x, self.metadata.fingerprint, wanted, tile=tile).data

    @overload
    def decode(self, data: bytes, as_tensor: Literal[False] = False) -> Image.Image: ...
    @overload
    def decode(self, data: bytes, as_tensor: Literal[True]) -> Tensor: ...
    def decode(self, data: bytes, as_tensor: bool = False) -> Image.Image | Tensor:
        """Decompress the bytes of a ``.lic`` file.

        Args:
            data: what `encode` returned, or the content of a file.
            as_tensor: return a float tensor (3, H, W) in [0, 1] on the CPU instead of a PIL image.

        Raises:
            BitstreamError: the bytes are damaged, or another model wrote them.
        """
        fingerprint = self.metadata.fingerprint
        if as_tensor:
            return bitstream.decode(self.model, bytes(data), fingerprint).cpu()
        x_hat = bitstream.decode_8bit(self.model, bytes(data), fingerprint)
        return Image.fromarray(x_hat.permute(1, 2, 0).numpy())

    def estimate(self, image: Picture, tile: int | None = None, *, level: float | None = None) -> Estimate:
        """Estimate rate and reconstruction of one picture; see `encode` for the arguments and errors."""
        x = to_tensor(image).to(self.device)
        with codable():
            found = bitstream.estimate(self.model, x, tile, level=level)
        likelihoods = _likelihoods(found.parts)
        bpp = found.bits / (x.shape[1] * x.shape[2])
        return Estimate(found.bits, bpp, found.x_hat.cpu(), likelihoods, found.bits_map())


@contextlib.contextmanager
def codable() -> Iterator[None]:
    """Convert a ValueError of `lic_train.files.bitstream` into a PictureError."""
    try:
        yield
    except ValueError as error:
        raise PictureError(f"The picture cannot be coded: {error}") from error


def _likelihoods(parts: list[bitstream.Part]) -> dict[str, Tensor]:
    """Return the likelihoods by latent, on the CPU; those of several tiles in one dimension."""
    if len(parts) == 1:
        return {name: values.cpu() for name, values in parts[0].likelihoods.items()}
    names = parts[0].likelihoods
    return {name: torch.cat([part.likelihoods[name].flatten().cpu() for part in parts]) for name in names}


def to_tensor(image: Picture) -> Tensor:
    """Convert a picture to a tensor (3, H, W), uint8 or float in [0, 1]; see `ImageCodec.encode`."""
    if isinstance(image, Tensor):
        return _checked_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    raise PictureError(
        "This object is not a picture.",
        expected="a PIL image, a uint8 array (H, W, 3), a float tensor (3, H, W) in [0, 1], or a path",
        got=f"{type(image).__module__}.{type(image).__name__}",
    )


def _checked_tensor(x: Tensor) -> Tensor:
    expected = "a float tensor (3, H, W) in [0, 1]"
    shape = tuple(x.shape)
    if x.dim() != 3 or x.shape[0] != 3 or 0 in x.shape:
        advice = _shape_advice(shape)
        raise PictureError("The tensor has another shape.", expected=expected, got=f"{shape}", to_do=advice)
    if not x.is_floating_point():
        advice = "x.float() / 255 for 8-bit values"
        raise PictureError("The tensor has another dtype.", expected=expected, got=f"{x.dtype}", to_do=advice)
    x = x.detach().float()
    if not bool(torch.isfinite(x).all()):
        raise PictureError("The tensor contains values that are not finite.", expected=expected, got="NaN or infinity")
    if float(x.min()) < 0 or float(x.max()) > 1:
        found = f"{float(x.min()):g} to {float(x.max()):g}"
        raise PictureError("The tensor has another range.", expected=expected, got=found, to_do="scale or clamp it")
    return x


def _from_array(array: np.ndarray) -> Tensor:
    expected = "a uint8 array (H, W, 3)"
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        advice = _shape_advice(array.shape)
        raise PictureError("The array has another shape.", expected=expected, got=f"{array.shape}", to_do=advice)
    if array.dtype != np.uint8:
        advice = "pass floats as a tensor (3, H, W) in [0, 1], or round them to uint8"
        raise PictureError("The array has another dtype.", expected=expected, got=f"{array.dtype}", to_do=advice)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _shape_advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return "pass one picture at a time"
    if len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2])):
        return "repeat the grey channel three times, or pass a PIL image"
    if len(shape) == 3 and 4 in (shape[0], shape[2]):
        return "remove the alpha channel, or pass a PIL image"
    return "arrays have the channels last, tensors first"
