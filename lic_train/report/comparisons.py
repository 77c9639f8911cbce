"""Photographs side by side: the original, and what each codec made of it at nearly the same rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from lic_train.data.decode.images import read_image
from lic_train.errors import LicError
from lic_train.evaluate.pictures import BITS_FULL_SCALE, ERROR_GAIN
from lic_train.rd.curves import Curve
from lic_train.report.elements import Comparison, Picture
from lic_train.report.gather import Gathered, parameter
from lic_train.report.reconstructions import Reconstruction, Reconstructions
from lic_train.report.runs import LeftOut
from lic_train.system.reading import slug

Crop = tuple[int, int, int, int]  # left, top, width, height in pixels
CROP_SIZE = (256, 192)
MAPS = (
    f"Error: absolute difference of 8-bit RGB times {ERROR_GAIN}. Bits: estimated bits per pixel, black 0, lightest "
    f"{BITS_FULL_SCALE:g}."
)


@dataclass(frozen=True)
class Pick:
    """One codec at one rate on one photograph; ``make`` gives its picture, or raises a LicError."""

    codec: str
    parameter: str
    bpp: float
    psnr: float | None
    order: str
    make: Callable[[], Reconstruction]


class Comparer:
    """Puts crops of photographs side by side.

    Args:
        gathered: the runs.
        reconstructions: where their pictures come from.
    """

    def __init__(self, gathered: Gathered, reconstructions: Reconstructions) -> None:
        self._gathered, self._reconstructions = gathered, reconstructions
        self._failures: dict[str, dict[str, None]] = {}  # codecs, in order, by reason

    def prepare(
        self, names: Sequence[str], curves: Sequence[Curve], track: Callable[[list[Pick]], Iterator[Pick]] = iter
    ) -> None:
        """Make all pictures that comparisons of ``names`` need, model after model; ``track`` shows progress."""
        picks = [pick for name in names for pick in self._picks(name, curves)]
        for pick in track(sorted(picks, key=lambda pick: pick.order)):
            self._made(pick)

    def __call__(self, name: str, curves: Sequence[Curve], crop: Crop | None = None) -> Comparison | None:
        """The photograph ``name`` by the models of ``curves``; None if there is no picture of any.

        Without ``crop`` it is the place where the codecs' errors differ most.
        """
        picks = self._picks(name, curves)
        made = [(pick, found) for pick in picks if (found := self._made(pick)) is not None]
        if not made:
            return None
        original = self._reconstructions.original(name)
        pictures = [
            Picture(pick.codec, found.path, pick.bpp, pick.psnr, found.error, found.bits) for pick, found in made
        ]
        return Comparison(
            key=f"picture_{slug(name)}",
            title=name,
            pictures=[Picture("original", original), *pictures],
            crop=crop or most_different(original, [found.path for _, found in made]),
            note=f"Each codec at its rate nearest to {self._target(name, curves):.3f} bpp: {_chosen(made)}. {MAPS}",
        )

    def left_out(self) -> list[LeftOut]:
        """The codecs whose pictures could not be had, and why."""
        return [LeftOut(f"photographs by {', '.join(codecs)}", why) for why, codecs in self._failures.items()]

    def _made(self, pick: Pick) -> Reconstruction | None:
        try:
            return pick.make()
        except LicError as error:
            self._failures.setdefault(str(error), {})[pick.codec] = None
            return None

    def _picks(self, name: str, curves: Sequence[Curve]) -> list[Pick]:
        """Of each curve the rate nearest to the common one, by ratio."""
        target = self._target(name, curves)
        offers = [self._offers(name, curve) for curve in curves]
        return [min(offer, key=lambda pick: abs(math.log(pick.bpp / target))) for offer in offers if offer]

    def _target(self, name: str, curves: Sequence[Curve]) -> float:
        rates = [pick.bpp for curve in curves for pick in self._offers(name, curve)]
        return median(rates) if rates else 1.0

    def _offers(self, name: str, curve: Curve) -> list[Pick]:
        runs = [run for run in self._gathered.runs if run.where in curve.about.get("runs", ())]
        rows = [(run, run.results[self._gathered.set].row(name)) for run in runs]
        return [
            Pick(
                codec=curve.name,
                parameter=parameter(run),
                bpp=row.bpp_file,
                psnr=row.psnr,
                order=run.where,
                make=partial(self._reconstructions, run, row),
            )
            for run, row in rows
            if row is not None
        ]


def _chosen(made: Sequence[tuple[Pick, Reconstruction]]) -> str:
    return ", ".join(f"{pick.codec} {pick.parameter}" for pick, _ in made)


def typical(curves: Sequence[Curve]) -> list[str]:
    """Names of the photographs that all models together find hardest, in between and easiest."""
    qualities: dict[str, list[float]] = {}
    for image in (image for curve in curves for point in curve.points for image in point.images):
        qualities.setdefault(image.name, []).append(math.inf if image.psnr is None else image.psnr)
    ranked = sorted(qualities, key=lambda name: (sum(qualities[name]) / len(qualities[name]), name))
    return list(dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1]])) if ranked else []


def most_different(original: Path, decoded: Sequence[Path], size: tuple[int, int] = CROP_SIZE) -> Crop:
    """Where the codecs' errors differ most from each other; with one codec, where its error is largest.

    Args:
        original: picture file.
        decoded: picture files of the same size.
        size: width and height of the crop; a smaller picture gives its own.
    """
    x = _samples(original)
    errors = np.stack([np.abs(_samples(path) - x).mean(axis=0) for path in decoded])
    spread = np.ptp(errors, axis=0) if len(errors) > 1 else errors[0]
    width, height = min(size[0], spread.shape[1]), min(size[1], spread.shape[0])
    sums = np.pad(spread.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(np.argmax(windows), windows.shape)
    return int(left), int(top), width, height


def _samples(path: Path) -> np.ndarray:
    """(3, H, W), float64."""
    return read_image(path).numpy().astype(np.float64)
