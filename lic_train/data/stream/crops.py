"""Order, position, scale and flip of every crop: pure functions of (seed, epoch, index), identical on every machine.

The random numbers are SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
2014), implemented here in integer arithmetic, so that no new release of a library changes the data of a resumed run.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

GAMMA = 0x9E3779B97F4A7C15
MASK = 2**64 - 1

# First number of every key: the purpose of the random numbers.
ORDER, WINDOW, REPLACEMENT, SCALE = 1, 2, 3, 4
_SUPPORT = 2  # of Pillow's bicubic filter, in pixels of the smaller picture

Bounds = tuple[float, float]  # smallest and largest factor


class Sample(NamedTuple):
    """One draw from the data set: photograph number ``item`` in pass number ``epoch``, and the number of its crop."""

    epoch: int
    item: int
    crop: int = 0


class Window(NamedTuple):
    """Upper left corner in pixels (negative if the photograph is smaller than the crop), and whether to mirror.

    With ``scaled``, the photograph is first scaled down to this height and width.
    """

    top: int
    left: int
    flip: bool
    scaled: tuple[int, int] | None = None


def splitmix64(state: int, count: int) -> npt.NDArray[np.uint64]:
    """Return the first ``count`` outputs of the generator with initial state ``state``."""
    return _mixed(np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA))


def _mixed(z: Any) -> Any:
    """Apply the output function to 64-bit states: an integer, or an array of uint64."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key(*parts: int) -> int:
    """Return a 64-bit state that depends on all parts and on their order."""
    state = 0
    for part in parts:
        state = _output(state ^ part, 1)
    return state


def _output(state: int, number: int) -> int:
    """Return output ``number`` of `splitmix64`, counted from 1; a Python integer is faster than a short array."""
    return _mixed((state + number * GAMMA) & MASK)


def order(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the permutation of ``range(size)`` in which this epoch visits the data set."""
    return np.argsort(splitmix64(key(ORDER, seed, epoch), size), kind="stable")


def replacement(sample: Sample, attempt: int, size: int, seed: int) -> int:
    """Return the index used for all crops of ``sample`` at the given attempt; attempt 0 is the sample itself."""
    return key(REPLACEMENT, seed, sample.epoch, sample.item, attempt) % size if attempt else sample.item


def random_window(
    size: tuple[int, int],
    crop: int,
    sample: Sample,
    attempt: int,
    *,
    seed: int,
    flip: bool,
    downscale: Bounds | None = None,
) -> Window:
    """Return a uniformly distributed window (the bias of the modulo is below 1e-14), mirrored with probability 1/2.

    Args:
        size: height and width of the photograph.
        crop: side of the window.
        sample: the sample.
        attempt: number of photographs that were skipped before this one.
        seed: seed of the run.
        flip: mirror half of the windows left to right; False mirrors none.
        downscale: bounds of the factor by which the photograph is scaled before, see `scaled_size`; None: 1.
    """
    scaled = None
    if downscale is not None:
        draw = _output(key(SCALE, seed, sample.epoch, sample.item, attempt), sample.crop + 1)
        scaled = size = scaled_size(size, crop, downscale, draw / 2**64)
    state = key(WINDOW, seed, sample.epoch, sample.item, attempt)
    top, left, coin = (_output(state, 3 * sample.crop + draw) for draw in (1, 2, 3))
    return Window(_start(size[0] - crop, top), _start(size[1] - crop, left), flip and bool(coin >> 63), scaled)


def scaled_size(size: tuple[int, int], crop: int, bounds: Bounds, position: float) -> tuple[int, int]:
    """Return the height and width of a photograph after scaling, which are never below the crop because of it.

    Args:
        size: height and width of the photograph.
        crop: side of the crop that is cut out afterwards.
        bounds: smallest and largest factor, at most 1. Both are raised, to at most 1, for a photograph that would
            become smaller than the crop.
        position: position of the factor between the bounds, from 0 to 1.
    """
    needed = min(1.0, crop / min(size))
    low, high = (max(bound, needed) for bound in bounds)
    factor = low + (high - low) * position
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def centre_window(size: tuple[int, int], crop: int, sample: Sample, attempt: int) -> Window:
    """Return the window in the middle, not mirrored; the arguments are those of `random_window`."""
    return Window((size[0] - crop) // 2, (size[1] - crop) // 2, False)


def cut(image: Image.Image, window: Window, crop: int) -> npt.NDArray[np.uint8]:
    """Cut (3, crop, crop), not mirrored, out of an RGB image; pixels outside are filled by repeated reflection.

    Scaling is bicubic, with the filter widened by the factor. The array is a view of an interleaved (crop, crop, 3)
    array, the memory layout of Pillow.
    """
    top, left, _, scaled = window
    if scaled is not None and scaled != (image.height, image.width):
        picture = np.asarray(_scaled(image, window, crop))
    elif top >= 0 and left >= 0 and top + crop <= image.height and left + crop <= image.width:
        picture = np.asarray(image.crop((left, top, left + crop, top + crop)))
    else:
        rows = reflected(top, crop, image.height)
        columns = reflected(left, crop, image.width)
        picture = np.asarray(image)[rows][:, columns]
    return picture.transpose(2, 0, 1)


def rows_needed(height: int, window: Window, crop: int) -> int:
    """Return the number of upper rows of a photograph of this height that `cut` reads for a window."""
    bottom = window.top + crop
    return bottom if window.scaled is None else math.ceil((bottom + _SUPPORT) * height / window.scaled[0])


def _scaled(image: Image.Image, window: Window, crop: int) -> Image.Image:
    """Scale only the pixels of the window; the filter reads beyond its border, as if the whole image were scaled."""
    assert window.scaled is not None
    down, across = image.height / window.scaled[0], image.width / window.scaled[1]
    top, left = window.top * down, window.left * across
    box = (left, top, min(left + crop * across, image.width), min(top + crop * down, image.height))
    return image.resize((crop, crop), Image.Resampling.BICUBIC, box=box)


def reflected(start: int, count: int, length: int) -> npt.NDArray[np.int64]:
    """Return the positions start, start + 1, ... folded back into range(length) at its first and last element."""
    period = max(2 * (length - 1), 1)
    positions = np.arange(start, start + count) % period
    return np.minimum(positions, period - positions) if length > 1 else np.zeros(count, np.int64)


def _start(slack: int, draw: int) -> int:
    """Return one of the abs(slack) + 1 possible starts: 0 ... slack, or slack ... 0 if the photograph is too small."""
    offset = draw % (abs(slack) + 1)
    return offset if slack >= 0 else -offset
