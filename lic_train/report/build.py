"""From an outputs/ tree to the files of its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from lic_train import __version__
from lic_train.errors import ConfigError
from lic_train.evaluate.sets import read_options
from lic_train.rd.curves import Curve
from lic_train.report import card, page, papers
from lic_train.report.comparisons import Comparer, Crop, typical
from lic_train.report.elements import Comparison
from lic_train.report.export import export
from lic_train.report.figures import models
from lic_train.report.gather import Gathered, gather
from lic_train.report.reconstructions import Reconstructions, find_originals
from lic_train.report.runs import LeftOut, read_runs
from lic_train.report.sections import choose_anchor, facts, sections, without_anchor
from lic_train.system.reading import printable

FILES = "files"  # folder beside the page
FILES_TOLD = f"{FILES}/: tables as LaTeX and CSV, figures as PDF, SVG and CSV, crops as PDF and PNG"
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Wish:
    """What to report.

    Attributes:
        outputs: tree of run directories.
        out: folder for the report.
        set: of pictures; None chooses one.
        anchor: key of the curve that BD-rates are over; None is VVC where it is there.
        paper: whose tables and figures are added; None for none.
        root: folder of the original photographs; None is the one of conf/eval.
        pictures: number of photographs to compare.
    """

    outputs: Path
    out: Path
    set: str | None = None
    anchor: str | None = None
    paper: str | None = None
    root: Path | None = None
    pictures: int = 3


@dataclass(frozen=True)
class Written:
    """Where the parts of a report lie, by what they are, and what is not in it."""

    places: dict[str, Path]
    left_out: tuple[LeftOut, ...]


def build(wish: Wish) -> Written:
    """Write the report: the page, and every table and figure of it as files for a paper.

    Raises:
        ConfigError: there is no such tree or paper.
        DataError: there is no such anchor.
        OSError: ``wish.out`` cannot be written.
    """
    if not wish.outputs.is_dir():
        raise ConfigError(f"expected a folder of runs, got {wish.outputs}, which is none; train first: python train.py")
    material = _Material(wish)
    gathered = material.on(wish.set)
    anchor = choose_anchor(gathered, wish.anchor)
    paper = papers.sections(wish.paper, material.on, material.compare) if wish.paper else []
    comparisons = material.side_by_side(gathered)
    missing = [*material.without_pictures(), *without_anchor(gathered, anchor)]
    cards = card.sections(gathered.finished)
    made = sections(gathered, anchor, comparisons, cards, paper, missing)
    stamp = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, lic_train {__version__}"
    told = [*facts(gathered, anchor, missing), ("For a paper", FILES_TOLD), ("Made", stamp)]
    index = wish.out / "index.html"
    title = f"{printable(wish.outputs.resolve().name)}: learned image compression on {gathered.set}"
    page.write(index, made, title, told, partial(_progress, "drawing"))
    export(made, wish.out / FILES)
    return Written({"report": index, "files": wish.out / FILES}, (*gathered.left_out, *missing))


class _Material:
    """What was read once, brought together for any set of pictures."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._runs, self._left_out = read_runs(wish.outputs, partial(_progress, "reading runs"))
        self._gathered: dict[str | None, Gathered] = {}
        self._comparers: dict[str, Comparer] = {}

    def on(self, set_name: str | None) -> Gathered:
        """Everything on a set; None chooses one."""
        if set_name not in self._gathered:
            found = gather(self._wish.outputs, self._runs, self._left_out, set_name)
            self._gathered |= {set_name: found, found.set: found}
        return self._gathered[set_name]

    def compare(self, set_name: str, image: str, curves: Sequence[Curve], crop: Crop) -> Comparison | None:
        """One photograph by the models of ``curves``; None if there is no picture of any."""
        return self._comparer(set_name)(image, curves, crop)

    def side_by_side(self, gathered: Gathered) -> list[Comparison]:
        """The photographs that the report compares all its models on."""
        curves, comparer = models(gathered), self._comparer(gathered.set)
        names = typical(curves)[: self._wish.pictures]
        comparer.prepare(names, curves, partial(_progress, "decoding"))
        return [made for name in names if (made := comparer(name, curves)) is not None]

    def without_pictures(self) -> list[LeftOut]:
        """The codecs whose pictures could not be had, and why."""
        return [item for comparer in self._comparers.values() for item in comparer.left_out()]

    def _comparer(self, set_name: str) -> Comparer:
        if set_name not in self._comparers:
            gathered = self.on(set_name)
            names = {image.name for curve in gathered.curves for point in curve.points for image in point.images}
            folder = self._wish.out / "pictures" / gathered.set
            originals = partial(_originals, self._wish, gathered.set, names)
            self._comparers[set_name] = Comparer(gathered, Reconstructions(gathered.set, originals, folder))
        return self._comparers[set_name]


def _originals(wish: Wish, set_name: str, names: set[str]) -> dict[str, Path]:
    return find_originals(_root(wish, set_name), names)


def _root(wish: Wish, set_name: str) -> Path:
    """The folder of the originals.

    Raises:
        ConfigError: there is none; or the set is not one of conf/eval, and none is given.
    """
    root = wish.root or read_options([f"eval={set_name}"]).eval.root
    if not isinstance(root, str | Path) or not Path(root).expanduser().is_dir():
        got = "none that is known" if root is None else f"{root}, which is no folder"
        raise ConfigError(f"expected a folder with the photographs of {set_name}, got {got}; give it by --root FOLDER")
    return Path(root).expanduser()


def _progress(what: str, items: Sequence[_Item]) -> Iterator[_Item]:
    console = Console(stderr=True)
    yield from track(items, what, console=console, transient=True, disable=not (items and console.is_terminal))
