"""Photographs side by side: the original and each codec's reconstruction at nearly the same rate."""

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
from lic_train.report.elements import Comparison, Crop, Picture
from lic_train.report.gather import Gathered
from lic_train.report.reconstructions import Reconstruction, Reconstructions
from lic_train.report.runs import LeftOut, one_line
from lic_train.system.reading import slug

CROP_SIZE = (256, 192)
MAPS = (
    f"Error: absolute difference of 8-bit RGB times {ERROR_GAIN}. Bits: estimated bits per pixel, black is 0 and "
    f"the lightest colour is {BITS_FULL_SCALE:g}."
)


@dataclass(frozen=True)
class Pick:
    """One codec at one rate on one photograph.

    Attributes:
        codec: name of the codec.
        parameter: label of the rate, "λ 0.0067".
        bpp: bits per pixel of the file.
        psnr: PSNR in dB; None if the reconstruction is exact.
        order: sort key that groups the picks of one run.
        make: returns the reconstruction or raises a LicError.
    """

    codec: str
    parameter: str
    bpp: float
    psnr: float | None
    order: str
    make: Callable[[], Reconstruction]


class Comparer:
    """Builds comparisons of crops.

    Args:
        gathered: the runs.
        reconstructions: finds or makes the reconstructions of the runs.
    """

    def __init__(self, gathered: Gathered, reconstructions: Reconstructions) -> None:
        self._gathered, self._reconstructions = gathered, reconstructions
        self._failures: dict[str, dict[str, None]] = {}  # codecs, in order, by reason

    def prepare(
        self, names: Sequence[str], curves: Sequence[Curve], track: Callable[[list[Pick]], Iterator[Pick]] = iter
    ) -> None:
        """Make all reconstructions for comparisons of ``names``, one model after the other.

        Args:
            names: photographs.
            curves: curves of models.
            track: wraps the list of picks to show progress.
        """
        picks = [pick for name in names for pick in self._picks(name, curves)]
        for pick in track(sorted(picks, key=lambda pick: pick.order)):
            self._made(pick)

    def __call__(self, name: str, curves: Sequence[Curve], crop: Crop | None = None) -> Comparison | None:
        """Return the photograph ``name`` by the models of ``curves``; None if there are no reconstructions.

        The default of ``crop`` is the region where the codecs' errors differ most.
        """
        picks = self._picks(name, curves)
        made = [(pick, found) for pick in picks if (found := self._made(pick)) is not None]
        if not made:
            return None
        original = self._reconstructions.original(name)
        pictures = [
            Picture(pick.codec, found.path, pick.bpp, pick.psnr, found.error, found.bits) for pick, found in made
        ]
        chosen = ", ".join(f"{pick.codec} {pick.parameter}" for pick, _ in made)
        return Comparison(
            key=f"picture_{slug(name)}",
            title=name,
            pictures=[Picture("original", original), *pictures],
            crop=crop or most_different(original, [found.path for _, found in made]),
            note=f"Each codec at its rate nearest to {self._target(name, curves):.3f} bpp: {chosen}. {MAPS}",
        )

    def left_out(self) -> list[LeftOut]:
        """Return the codecs without reconstructions, with the reason."""
        return [LeftOut(f"photographs by {', '.join(codecs)}", why) for why, codecs in self._failures.items()]

    def _made(self, pick: Pick) -> Reconstruction | None:
        try:
            return pick.make()
        except LicError as error:
            self._failures.setdefault(one_line(error), {})[pick.codec] = None
            return None

    def _picks(self, name: str, curves: Sequence[Curve]) -> list[Pick]:
        """Return the rate of each curve whose ratio to the common rate is nearest to one."""
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
                parameter=run.parameter,
                bpp=row.bpp_file,
                psnr=row.psnr,
                order=run.where,
                make=partial(self._reconstructions, run, row),
            )
            for run, row in rows
            if row is not None
        ]


def typical(curves: Sequence[Curve]) -> list[str]:
    """Return the names of the photographs with the lowest, the median and the highest PSNR over all models."""
    qualities: dict[str, list[float]] = {}
    for image in (image for curve in curves for point in curve.points for image in point.images):
        qualities.setdefault(image.name, []).append(math.inf if image.psnr is None else image.psnr)
    ranked = sorted(qualities, key=lambda name: (sum(qualities[name]) / len(qualities[name]), name))
    return list(dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1]])) if ranked else []


def most_different(original: Path, decoded: Sequence[Path], size: tuple[int, int] = CROP_SIZE) -> Crop:
    """Return the crop where the codecs' errors differ most; for one codec, where its error is largest.

    Args:
        original: picture file.
        decoded: picture files of the same size.
        size: width and height of the crop; the crop of a smaller picture is the whole picture.
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
    """Return the picture as float64 (3, H, W)."""
    return read_image(path).numpy().astype(np.float64)
