"""Pictures as ``data:`` addresses: crops without loss, the whole photograph small."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from lic_train.data.decode.images import open_rgb
from lic_train.system.reading import read_bytes

_OVERVIEW_WIDTH = 400


def crop(path: Path, box: tuple[int, int, int, int]) -> str:
    """The part (left, top, width, height) of a picture file; lossless, as a codec's errors are what is looked at.

    Raises:
        Unreadable: no such file.
        DataError: it is no picture.
    """
    left, top, width, height = box
    part = open_rgb(read_bytes(path)).crop((left, top, left + width, top + height))
    return _address(part, "WEBP", lossless=True, quality=100, method=4)


def overview(path: Path) -> tuple[str, tuple[int, int]]:
    """The whole picture at a small size, and its true width and height.

    Raises:
        Unreadable: no such file.
        DataError: it is no picture.
    """
    picture = open_rgb(read_bytes(path))
    size = picture.size
    picture.thumbnail((_OVERVIEW_WIDTH, _OVERVIEW_WIDTH))
    return _address(picture, "JPEG", quality=85), size


def _address(picture: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
