"""Pictures as ``data:`` URLs: lossless crops and a small version of the whole photograph."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from lic_train.data.decode.images import open_rgb
from lic_train.report.elements import Crop
from lic_train.system.reading import read_bytes

_OVERVIEW_SIDE = 400  # pixels of the longer side


def crop(path: Path, box: Crop) -> str:
    """Return a crop of a picture file as a lossless WebP, because coding artefacts must be visible unchanged.

    Raises:
        Unreadable: the file cannot be read.
        DataError: the file is not a picture.
    """
    left, top, width, height = box
    part = open_rgb(read_bytes(path)).crop((left, top, left + width, top + height))
    return _data_url(part, "WEBP", lossless=True, quality=100, method=4)


def overview(path: Path) -> tuple[str, tuple[int, int]]:
    """Return the whole picture as a small JPEG, and the width and height of the file.

    Raises:
        Unreadable: the file cannot be read.
        DataError: the file is not a picture.
    """
    picture = open_rgb(read_bytes(path))
    size = picture.size
    picture.thumbnail((_OVERVIEW_SIDE, _OVERVIEW_SIDE))
    return _data_url(picture, "JPEG", quality=85), size


def _data_url(picture: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
