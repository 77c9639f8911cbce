"""Coding at a wanted level, lambda, rate, size or quality of a model with a variable rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lic_train.errors import ConfigError
from lic_train.files import bitstream
from lic_train.files.container import LEVEL_STEPS
from lic_train.layers.gains import Ladder
from lic_train.models.base import Codec
from lic_train.rd import metrics

# The search ends at a file that is smaller than wanted by at most this part, or at this excess of the PSNR in dB.
SIZE_TOLERANCE, PSNR_TOLERANCE = 0.005, 0.02
# The words of the entropy coder have 4 bytes, so the sizes of small files are far apart.
BYTES_TOLERANCE = 8


@dataclass(frozen=True)
class Wanted:
    """What selects the level of a variable rate: at most one of the five; None of all is the middle of the range.

    Attributes:
        level: in [0, L - 1].
        lmbda: lambda, within the ladder.
        bpp: largest rate of the file in bits per pixel of the true size.
        num_bytes: largest size of the file in bytes.
        psnr: smallest PSNR of the decoded picture in dB.

    Raises:
        ConfigError: several are given, or a value is not a number above 0 (the level: at least 0).
    """

    level: float | None = None
    lmbda: float | None = None
    bpp: float | None = None
    num_bytes: int | None = None
    psnr: float | None = None

    def __post_init__(self) -> None:
        if len(self.given) > 1:
            raise ConfigError(
                "More than one rate is wanted.",
                expected="one of level, lambda, bpp, bytes and psnr",
                got=", ".join(f"{name}={value}" for name, value in self.given.items()),
            )
        for name, value in self.given.items():
            if not (0 < value < math.inf or (name == "level" and value == 0)):
                raise ConfigError(
                    f"The wanted {name} is not valid.",
                    expected="a number of at least 0" if name == "level" else "a number above 0",
                    got=f"{value:g}",
                )

    @property
    def given(self) -> dict[str, float]:
        """The option that is given, by its name on the command line."""
        options = {
            "level": self.level,
            "lambda": self.lmbda,
            "bpp": self.bpp,
            "bytes": self.num_bytes,
            "psnr": self.psnr,
        }
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class Encoded:
    """A file at a wanted rate.

    Attributes:
        data: bytes of the file.
        level: level of the file; None of a model with one rate.
        passes: number of times that the picture was encoded, or reconstructed for its PSNR.
        psnr: PSNR of the decoded picture in dB if it was wanted, else None.
    """

    data: bytes
    level: float | None
    passes: int
    psnr: float | None = None


def encode(codec: Codec, x: Tensor, fingerprint: bytes, wanted: Wanted, **options: Any) -> Encoded:
    """Encode a picture at a wanted rate; `lic_train.files.bitstream.encode` defines the other arguments and errors.

    A wanted rate or size is searched with real files: the result is the largest file of at most that size. A wanted
    PSNR is searched with reconstructions, which are those of the decoder: the result is the smallest file with it.

    Raises:
        ConfigError: the codec has one rate, or the wanted level, lambda, rate or quality is out of its reach.
    """
    if codec.ladder is None and wanted.given:
        name = next(iter(wanted.given))
        raise ConfigError(
            "The model has one rate.",
            expected="no wanted rate, or a model that was trained with rate=variable",
            got=f"{name}={wanted.given[name]:g}",
        )
    search = _Search(codec, x, fingerprint, options)
    if codec.ladder is None:
        level = None
    elif wanted.psnr is not None:
        level = search.level_of_psnr(wanted.psnr)
        return Encoded(search.file(level), level, search.passes, search.psnr(level))
    elif wanted.num_bytes is not None:
        level = search.level_of_size(wanted.num_bytes, "bytes", 1)
    elif wanted.bpp is not None:
        level = search.level_of_size(wanted.bpp, "bpp", 8 / (x.shape[1] * x.shape[2]))
    else:
        level = bitstream.stored_level(codec, _level(codec.ladder, wanted))
    return Encoded(search.file(level), level, search.passes)


def _level(ladder: Ladder, wanted: Wanted) -> float:
    if wanted.lmbda is not None:
        return ladder.level_of(wanted.lmbda)
    return ladder.middle if wanted.level is None else ladder.check(wanted.level)


class _Search:
    """Files and reconstructions of one picture by level, each computed once."""

    def __init__(self, codec: Codec, x: Tensor, fingerprint: bytes, options: dict[str, Any]) -> None:
        self._codec, self._x, self._fingerprint, self._options = codec, x, fingerprint, options
        self._files: dict[float | None, bytes] = {}
        self._psnr: dict[float, float] = {}

    @property
    def passes(self) -> int:
        """Number of files and reconstructions so far."""
        return len(self._files) + len(self._psnr)

    def file(self, level: float | None) -> bytes:
        """Return the file at a level."""
        if level not in self._files:
            encoded = bitstream.encode(self._codec, self._x, self._fingerprint, level=level, **self._options)
            self._files[level] = encoded
        return self._files[level]

    def level_of_size(self, wanted: float, name: str, factor: float) -> float:
        """Return the level of the largest file of at most the wanted size, which is ``factor`` times the bytes."""
        self._check_reach(lambda level: factor * len(self.file(level)), wanted, name)
        # The logarithm of the size is almost linear in the level.
        size = wanted / factor
        tolerance = max(SIZE_TOLERANCE, BYTES_TOLERANCE / size)
        return _find(lambda level: math.log(len(self.file(level)) / size), 0.0, self._highest, tolerance, False)

    def level_of_psnr(self, wanted: float) -> float:
        """Return the lowest level with the wanted PSNR."""
        self._check_reach(self.psnr, wanted, "psnr")
        return _find(self.psnr, wanted, self._highest, PSNR_TOLERANCE, True)

    @property
    def _highest(self) -> int:
        assert self._codec.ladder is not None
        return self._codec.ladder.highest

    def _check_reach(self, value: Callable[[float], float], wanted: float, name: str) -> None:
        ends = value(0.0), value(float(self._highest))
        if not ends[0] <= wanted <= ends[1]:
            raise ConfigError(
                f"The wanted {name} is out of reach for this picture.",
                expected=f"{name} from {ends[0]:.6g} to {ends[1]:.6g}",
                got=f"{wanted:g}",
            )

    def psnr(self, level: float) -> float:
        """Return the PSNR of the decoded picture at a level."""
        if level not in self._psnr:
            tile = self._options.get("tile")
            x_hat = bitstream.estimate(self._codec, self._x, tile, level=level).x_hat
            self._psnr[level] = float(metrics.psnr(bitstream.as_floats(self._x), x_hat))
        return self._psnr[level]


def _find(value: Callable[[float], float], wanted: float, highest: int, tolerance: float, at_least: bool) -> float:
    """Return the level at which an increasing function of it is nearest to ``wanted``, on the requested side.

    The bracket is divided by linear interpolation, and in the middle if the same end has moved twice.

    Args:
        value: of a level; ``wanted`` is between those of the first and of the last level.
        wanted: its wanted value.
        highest: L - 1.
        tolerance: difference to the wanted value at which the search ends.
        at_least: return a level with at least the wanted value, otherwise one with at most that.
    """
    low, high = 0, highest * LEVEL_STEPS
    below, above = value(0.0), value(float(highest))
    if below >= wanted if at_least else above <= wanted:
        return 0.0 if at_least else float(highest)
    aim = wanted + (tolerance / 2 if at_least else -tolerance / 2)
    moved = [0, 0]  # how often each end has moved since the other one did
    while high - low > 1 and (above - wanted if at_least else wanted - below) > tolerance:
        share = 0.5 if max(moved) > 1 else (aim - below) / (above - below)
        middle = min(max(round(low + share * (high - low)), low + 1), high - 1)
        found = value(middle / LEVEL_STEPS)
        if found < wanted or (found == wanted and not at_least):
            low, below, moved = middle, found, [moved[0] + 1, 0]
        else:
            high, above, moved = middle, found, [0, moved[1] + 1]
    return (high if at_least else low) / LEVEL_STEPS
