"""Decoding of image files to upright 8-bit RGB, and writing of PNG files."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from lic_train.data.archives.names import HAS_HEIF
from lic_train.data.decode.jpeg_rows import END, jpeg_until
from lic_train.data.decode.metadata import without_metadata
from lic_train.errors import DataError
from lic_train.system import atomic

MAX_PIXELS = 178_956_970  # 512 MiB as 8-bit RGB; also the number above which Pillow itself refuses to open a file
# Without this list Pillow also runs a PostScript interpreter on files of any name.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "HEIF")
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(DataError):
    """The bytes are not an image that can be used for training; the message is the reason."""


def decode(data: bytes) -> Tensor:
    """Decode to uint8 (3, H, W). See `Picture` for the conversion and the errors."""
    return to_tensor(open_rgb(data))


def open_rgb(data: bytes) -> Image.Image:
    """Decode the whole image, see `Picture`. Raises UnreadableImage."""
    return Picture(data).rgb()


class Picture:
    """An image file with a parsed header, which decodes to an upright Pillow image of mode RGB.

    - EXIF orientation is applied.
    - Transparency is composited on white.
    - 16 bits are divided by 257 and rounded, which maps 65535 to 255. (16-bit colour outside PNG loses up to one level
      more, because Pillow only returns its high byte.)
    - CMYK is converted by R = (255 - C)(255 - K)/255; CMYK JPEGs store complements, as Adobe writes them. Colour
      profiles are ignored.
    - HEIF is read if pillow-heif is installed; samples of more than 8 bits are rounded by libheif.
    - Metadata do not decide: a PNG or JPEG that cannot be opened is opened without text, profiles and other metadata.
    - The first frame of an animation is used. The transparent colour (not alpha) of a 16-bit PNG is ignored.

    Args:
        data: the encoded file.
        max_pixels: limit of the size.

    Attributes:
        data: the encoded file as it is decoded, without its metadata if these cannot be read.
        size: height and width in pixels, upright.

    Raises:
        UnreadableImage: empty, truncated, foreign or damaged bytes; more than ``max_pixels`` pixels; a format without a
            defined white (floating point, 32-bit integers). Raised here or by `rgb`.
    """

    def __init__(self, data: bytes, max_pixels: int = MAX_PIXELS) -> None:
        if not data:
            raise UnreadableImage("the file is empty")
        self._max_pixels = max_pixels
        try:
            self._open(data)
        except UnreadableImage:
            for keep_orientation in (True, False):
                plain = without_metadata(data, keep_orientation)
                with contextlib.suppress(UnreadableImage):
                    if plain is not None:
                        self._open(plain)
                        return
            raise

    def _open(self, data: bytes) -> None:
        self.data, self._turned, self._done = data, 1, None
        with _reasons(self._max_pixels):
            image = open_header(data)
            _check_size(image, self._max_pixels)
            self._plain, self._opened = image.mode in ("RGB", "L"), image
            if isinstance(image, JpegImageFile):
                self._turned = orientation(image)
                width, height = image.size[:: -1 if self._turned >= 5 else 1]
            else:  # in other formats, the orientation may be stored after the pixels
                self._done = _decoded(image, data)
                width, height = self._done.size
        self.size: tuple[int, int] = (height, width)

    @property
    def is_plain_jpeg(self) -> bool:
        """Whether this is an upright JPEG, colour or grey, with its end marker: all decoders agree on such files."""
        return self._done is None and self._turned == 1 and self._plain and self.data.endswith(END)

    def rgb(self, rows: int | None = None) -> Image.Image:
        """Decode the image. With ``rows``, only that many upper rows are guaranteed; the rest may be undefined."""
        if self._done is not None:
            return self._done
        upper = jpeg_until(self.data, rows) if rows is not None and self._turned <= 2 else None
        if upper is not None and self._opened.tile:
            # On failure, decode the whole file for the reason.
            with contextlib.suppress(UnreadableImage), _reasons(self._max_pixels):
                return _decoded(_of_rows(self._opened, *upper), self.data, self._turned)
        with _reasons(self._max_pixels):
            image = self._opened if self._opened.tile else open_header(self.data)
            return _decoded(image, self.data, self._turned)


def _of_rows(image: ImageFile.ImageFile, data: bytes, rows: int) -> ImageFile.ImageFile:
    """Modify the opened JPEG so that it is decoded from ``data``, which contains only its upper ``rows`` rows."""
    image.fp = io.BytesIO(data)
    image.tile = [tile._replace(extents=(0, 0, image.width, rows)) for tile in image.tile]
    return image


@contextlib.contextmanager
def _reasons(max_pixels: int) -> Iterator[None]:
    """Convert every exception of Pillow into UnreadableImage."""
    try:
        with _limit_of_pillow(max_pixels), warnings.catch_warnings():
            # Pillow's warnings on EXIF and size would be repeated by every worker.
            warnings.simplefilter("ignore")
            yield
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than the limit of {max_pixels:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of an unknown format") from error
    except MemoryError as error:
        raise UnreadableImage("not enough memory") from error
    except Exception as error:  # Pillow's decoders raise many exception types for damaged bytes
        raise UnreadableImage(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _limit_of_pillow(max_pixels: int) -> Iterator[None]:
    """Allow Pillow to open ``max_pixels`` if that is more than its own limit, which is a global variable."""
    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _pillow_limit:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


_pillow_limit = threading.RLock()


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a file as uint8 (3, H, W). Raises UnreadableImage with the file name and the reason."""
    try:
        return to_tensor(Picture(Path(path).read_bytes(), max_pixels).rgb())
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from error
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error


def save_png(path: str | os.PathLike[str], x: Tensor) -> None:
    """Write (3, H, W) or (1, 3, H, W) as an 8-bit PNG, atomically; floats are clamped to [0, 1] and rounded.

    Raises:
        ValueError: another shape.
    """
    picture = x.detach().squeeze(0).cpu() if x.dim() == 4 else x.detach().cpu()
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise ValueError(f"x: expected (3, H, W) or (1, 3, H, W), got {tuple(x.shape)}")
    if picture.is_floating_point():
        picture = picture.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    atomic.replace_bytes(Path(path), file.getvalue())


def to_tensor(image: Image.Image) -> Tensor:
    """Convert a Pillow RGB image to uint8 (3, H, W)."""
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def open_header(data: bytes) -> ImageFile.ImageFile:
    """Open an image without decoding its pixels. Raises the exceptions of Pillow."""
    return Image.open(io.BytesIO(data), formats=_known_formats())


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Return the formats of FORMATS that this build of Pillow supports."""
    Image.init()
    if HAS_HEIF:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:  # other code may have disabled Pillow's own limit
        raise UnreadableImage(f"{image.width}x{image.height} is more than the limit of {max_pixels:,} pixels")


def _decoded(image: Image.Image, data: bytes, turned: int | None = None) -> Image.Image:
    """Return upright RGB pixels of an opened file; ``turned`` is the EXIF orientation, None reads it from the file."""
    if isinstance(image, PngImageFile) and image.tile and image.tile[0].args == "LA;16B":
        image = _grey_with_alpha(data)
    low = _low_bytes(image, data)
    image.load()
    image = image if low is None else _rounded(image, low)
    turn = UPRIGHT.get(turned or orientation(image))
    return _to_rgb(image if turn is None else image.transpose(turn))


def _low_bytes(image: Image.Image, data: bytes) -> Image.Image | None:
    """Return the low bytes of a 16-bit colour PNG, None for all other images.

    Pillow keeps the high byte of big-endian samples. If the samples are declared little-endian, it keeps the low byte.
    """
    if not isinstance(image, PngImageFile) or not image.tile or image.tile[0].args not in ("RGB;16B", "RGBA;16B"):
        return None
    low = PngImageFile(io.BytesIO(data))
    low.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in low.tile]
    low.load()
    return low


def _grey_with_alpha(data: bytes) -> Image.Image:
    """Return a 16-bit grey PNG with alpha on white.

    Pillow only keeps the high bytes. Declared as RGBA, its four bytes per pixel are those of the two samples.
    """
    file = PngImageFile(io.BytesIO(data))
    file._mode = "RGBA"
    file.tile = [tile._replace(args="RGBA") for tile in file.tile]
    file.load()
    samples = np.asarray(file).astype(np.float64)
    grey, alpha = (samples[..., high] * 256 + samples[..., high + 1] for high in (0, 2))
    image = Image.fromarray(_sixteen_to_eight(np.rint(65535 - (65535 - grey) * (alpha / 65535))))
    image.info = dict(file.info)
    return image


def _rounded(high: Image.Image, low: Image.Image) -> Image.Image:
    samples = np.asarray(high).astype(np.uint32) * 256 + np.asarray(low)
    image = Image.fromarray(_sixteen_to_eight(samples))
    # The transparent colour has 16 bits and cannot be applied to 8-bit samples.
    image.info = {name: value for name, value in high.info.items() if name != "transparency"}
    return image


def _sixteen_to_eight(samples: np.ndarray) -> np.ndarray:
    """Return round(v / 257): 0 stays 0, and 65535 becomes 255."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) for a broken EXIF block."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data raise many exception types; the pixels can still be decoded
        return 1
    return value if value in UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _integers_to_rgb(image)
    if image.mode == "F":
        raise UnreadableImage("floating-point samples have no defined white")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")


def _integers_to_rgb(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey of mode I;16 (PNG, TIFF) or I (PGM)."""
    samples = np.asarray(image)
    if samples.min() < 0 or samples.max() > 65535:
        raise UnreadableImage("32-bit integer samples have no defined white")
    return Image.fromarray(_sixteen_to_eight(samples)).convert("RGB")


def from_pillow(image: Image.Image) -> Tensor:
    """Convert an opened Pillow image of any mode to upright uint8 (3, H, W), as `Picture` converts files.

    Raises:
        UnreadableImage: floating-point or 32-bit integer samples.
    """
    turn = UPRIGHT.get(orientation(image))
    return to_tensor(_to_rgb(image if turn is None else image.transpose(turn)))
