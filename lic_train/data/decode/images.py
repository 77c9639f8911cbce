"""From the bytes of an image file to upright 8-bit RGB, and back to PNG."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from lic_train.data.decode.jpeg_rows import END, jpeg_until
from lic_train.errors import DataError
from lic_train.system import atomic

MAX_PIXELS = 178_956_970  # 512 MiB as 8-bit RGB; also the number above which Pillow itself refuses to open a file
# Pillow would also hand PostScript to an interpreter, whatever the name of the file.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
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
    """These bytes are no image that can be trained on; the message is the reason."""


def decode(data: bytes) -> Tensor:
    """Decode to uint8 (3, H, W). See `Picture` for what is done, and for the errors."""
    return to_tensor(open_rgb(data))


def open_rgb(data: bytes) -> Image.Image:
    """Decode the whole picture, see `Picture`. Raises UnreadableImage."""
    return Picture(data).rgb()


class Picture:
    """A picture of which the header was read, and which becomes an upright Pillow image of mode RGB.

    - EXIF orientation is applied.
    - Transparency is composited on white.
    - 16 bits are divided by 257 and rounded, which maps 65535 to 255. (Two rare kinds lose up to one level more:
      16-bit grey with alpha, and 16-bit colour outside PNG, of which Pillow only gives the high byte.)
    - CMYK goes through R = (255 - C)(255 - K)/255; its JPEGs hold complements, as Adobe writes them. No colour profile
      is applied.
    - Of an animation the first frame is taken. The transparent colour (not alpha) of a 16-bit PNG is ignored.

    Args:
        data: the encoded file.

    Raises:
        UnreadableImage: empty, truncated, foreign or damaged bytes; more than MAX_PIXELS pixels; a format without a
            defined white (floating point, 32-bit integers). Here, or by `rgb`.
    """

    def __init__(self, data: bytes) -> None:
        if not data:
            raise UnreadableImage("the file is empty")
        self.data, self._turned, self._done = data, 1, None
        with _reasons():
            image = open_header(data)
            _check_size(image)
            self._plain, self._opened = image.mode in ("RGB", "L"), image
            if isinstance(image, JpegImageFile):
                self._turned = _orientation(image)
                width, height = image.size[:: -1 if self._turned >= 5 else 1]
            else:  # of other formats, the orientation may stand behind the pixels
                self._done = _decoded(image, data)
                width, height = self._done.size
        self.size: tuple[int, int] = (height, width)

    @property
    def is_plain_jpeg(self) -> bool:
        """An upright JPEG of three colours or of grey, with its end mark: what every decoder understands alike."""
        return self._done is None and self._turned == 1 and self._plain and self.data.endswith(END)

    def rgb(self, rows: int | None = None) -> Image.Image:
        """The picture; with ``rows``, at least that many of them: what is below has no meaning where it saves time."""
        if self._done is not None:
            return self._done
        upper = jpeg_until(self.data, rows) if rows is not None and self._turned <= 2 else None
        if upper is not None and self._opened.tile:
            with contextlib.suppress(UnreadableImage), _reasons():  # else the whole file tells what is wrong
                return _decoded(_of_rows(self._opened, *upper), self.data, self._turned)
        with _reasons():
            image = self._opened if self._opened.tile else open_header(self.data)
            return _decoded(image, self.data, self._turned)


def _of_rows(image: ImageFile.ImageFile, data: bytes, rows: int) -> ImageFile.ImageFile:
    """The opened JPEG, to be decoded from ``data``, which has its upper ``rows`` rows only."""
    image.fp = io.BytesIO(data)
    image.tile = [tile._replace(extents=(0, 0, image.width, rows)) for tile in image.tile]
    return image


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Whatever Pillow raises, as UnreadableImage."""
    try:
        with warnings.catch_warnings():  # workers would repeat Pillow's hints on EXIF and size for ever
            warnings.simplefilter("ignore")
            yield
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than the limit of {MAX_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of an unknown format") from error
    except MemoryError as error:
        raise UnreadableImage("too large for the memory") from error
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead to
        raise UnreadableImage(str(error) or type(error).__name__) from error


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read a file as uint8 (3, H, W). Raises UnreadableImage, which names the file and the reason."""
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from error
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error


def save_png(path: str | os.PathLike[str], x: Tensor) -> None:
    """Write (3, H, W) or (1, 3, H, W) as an 8-bit PNG, all or nothing; floats are clamped to [0, 1] and rounded.

    Raises:
        ValueError: another shape.
    """
    picture = x.detach().squeeze(0).cpu() if x.dim() == 4 else x.detach().cpu()
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise ValueError(f"expected (3, H, W) or (1, 3, H, W), got {tuple(x.shape)}")
    if picture.is_floating_point():
        picture = picture.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    atomic.replace_bytes(Path(path), file.getvalue())


def to_tensor(image: Image.Image) -> Tensor:
    """A Pillow RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def open_header(data: bytes) -> ImageFile.ImageFile:
    """The picture before any of its pixels is decoded. Raises what Pillow raises."""
    return Image.open(io.BytesIO(data), formats=_known_formats())


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:  # Pillow's own limit may be switched off by somebody else
        raise UnreadableImage(f"{image.width}x{image.height} is more than the limit of {MAX_PIXELS:,} pixels")


def _decoded(image: Image.Image, data: bytes, orientation: int | None = None) -> Image.Image:
    """Upright RGB pixels of an opened file; None looks for the orientation."""
    low = _low_bytes(image, data)
    image.load()
    image = image if low is None else _rounded(image, low)
    turn = UPRIGHT.get(orientation or _orientation(image))
    return _to_rgb(image if turn is None else image.transpose(turn))


def _low_bytes(image: Image.Image, data: bytes) -> Image.Image | None:
    """The low bytes of a 16-bit colour PNG, None for everything else.

    Pillow keeps the high byte of big-endian samples. Told that they are little-endian, it keeps the low one.
    """
    if not isinstance(image, PngImageFile) or not image.tile or image.tile[0].args not in ("RGB;16B", "RGBA;16B"):
        return None
    low = PngImageFile(io.BytesIO(data))
    low.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in low.tile]
    low.load()
    return low


def _rounded(high: Image.Image, low: Image.Image) -> Image.Image:
    samples = np.asarray(high).astype(np.uint32) * 256 + np.asarray(low)
    image = Image.fromarray(_sixteen_to_eight(samples))
    image.info = {name: value for name, value in high.info.items() if name != "transparency"}  # a 16-bit colour
    return image


def _sixteen_to_eight(samples: np.ndarray) -> np.ndarray:
    """round(v / 257): 0 stays 0, and 65535 becomes 255."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """1 to 8, 1 for upright; a broken EXIF block counts as none."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # as for the pixels, anything may be raised; the picture itself is good
        return 1
    return orientation if orientation in UPRIGHT else 1


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
    """Grey of 16 bits: mode I;16 (PNG, TIFF) or I (PGM)."""
    samples = np.asarray(image)
    if samples.min() < 0 or samples.max() > 65535:
        raise UnreadableImage("32-bit integer samples have no defined white")
    return Image.fromarray(_sixteen_to_eight(samples)).convert("RGB")


def from_pillow(image: Image.Image) -> Tensor:
    """Convert an opened Pillow image of any mode to upright uint8 (3, H, W), as `Picture` converts files.

    Raises:
        UnreadableImage: floating-point or 32-bit integer samples.
    """
    turn = UPRIGHT.get(_orientation(image))
    return to_tensor(_to_rgb(image if turn is None else image.transpose(turn)))
