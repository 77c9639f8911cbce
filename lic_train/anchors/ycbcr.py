"""Convert RGB to planar YCbCr and back: BT.709, full range, 10 bits, computed in float64 and rounded once each way.

The video encoders receive and return these planes, so that none of ffmpeg's colour conversions is involved. Without a
codec in between, the round trip in 4:4:4 is exact for every 8-bit RGB value.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

COLOUR = "YCbCr BT.709, full range, 10 bits, made from 8-bit RGB and inverted in float64, rounded"
SUBSAMPLED = "chroma halved and doubled by a Lanczos filter, centred"
CHROMA = {"yuv444p10le": "4:4:4", "yuv420p10le": "4:2:0"}
_RED, _BLUE = 0.2126, 0.0722  # ITU-R BT.709-6, item 3.2
_GREEN = 1 - _RED - _BLUE
_PEAK = 1023


def to_planes(picture: np.ndarray, pixel_format: str) -> bytes:
    """Return the planes Y, Cb and Cr in this order, with 16 bits per sample, little-endian.

    Args:
        picture: uint8 (H, W, 3), RGB.
        pixel_format: "yuv444p10le", or "yuv420p10le", which repeats the last row or column of odd sides.
    """
    red, green, blue = np.moveaxis(picture / 255.0, -1, 0)
    luma = _RED * red + _GREEN * green + _BLUE * blue
    planes = [luma, (blue - luma) / (2 * (1 - _BLUE)) + 0.5, (red - luma) / (2 * (1 - _RED)) + 0.5]
    if CHROMA[pixel_format] == "4:2:0":
        luma, *chroma = (np.pad(plane, [(0, side % 2) for side in plane.shape], mode="edge") for plane in planes)
        planes = [luma, *(_resized(plane, luma.shape[0] // 2, luma.shape[1] // 2) for plane in chroma)]
    return b"".join(np.rint(np.clip(plane, 0, 1) * _PEAK).astype("<u2").tobytes() for plane in planes)


def from_planes(data: bytes, pixel_format: str, height: int, width: int) -> np.ndarray:
    """Invert `to_planes`; return uint8 (height, width, 3).

    Raises:
        ValueError: ``data`` has another size.
    """
    even = CHROMA[pixel_format] == "4:2:0"
    shape = (height + height % 2, width + width % 2) if even else (height, width)
    half = (shape[0] // 2, shape[1] // 2) if even else shape
    luma, blue, red = _split(np.frombuffer(data, "<u2") / _PEAK, shape, half)
    blue, red = (_resized(plane, *shape) - 0.5 for plane in (blue, red))
    red, blue = luma + 2 * (1 - _RED) * red, luma + 2 * (1 - _BLUE) * blue
    picture = np.stack([red, (luma - _RED * red - _BLUE * blue) / _GREEN, blue], axis=-1)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)[:height, :width]


def _split(samples: np.ndarray, shape: tuple[int, int], half: tuple[int, int]) -> list[np.ndarray]:
    first = shape[0] * shape[1]
    luma, chroma = samples[:first].reshape(shape), samples[first:].reshape(2, *half)
    return [luma, *chroma]


def _resized(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    if plane.shape == (height, width):
        return plane
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float64)
