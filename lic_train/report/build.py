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
from lic_train.report import page
from lic_train.report.comparisons import Comparer, typical
from lic_train.report.elements import Comparison
from lic_train.report.figures import models
from lic_train.report.files import printable
from lic_train.report.gather import Gathered, gather
from lic_train.report.reconstructions import Reconstructions, find_originals
from lic_train.report.runs import LeftOut, read_runs
from lic_train.report.sections import choose_anchor, facts, sections, without_anchor

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
    """Write the report.

    Raises:
        ConfigError: there is no such tree.
        DataError: there is no such anchor.
        OSError: ``wish.out`` cannot be written.
    """
    if not wish.outputs.is_dir():
        raise ConfigError(f"expected a folder of runs, got {wish.outputs}, which is none; train first: python train.py")
    runs, left_out = read_runs(wish.outputs, partial(_progress, "reading runs"))
    gathered = gather(wish.outputs, runs, left_out, wish.set)
    anchor = choose_anchor(gathered, wish.anchor)
    comparer = _comparer(wish, gathered)
    comparisons = _side_by_side(wish, gathered, comparer)
    missing = [*comparer.left_out(), *without_anchor(gathered, anchor)]
    made = sections(gathered, anchor, comparisons, left_out=missing)
    stamp = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, lic_train {__version__}"
    index = wish.out / "index.html"
    title = f"{printable(wish.outputs.resolve().name)}: learned image compression on {gathered.set}"
    page.write(index, made, title, [*facts(gathered, anchor), ("Made", stamp)], partial(_progress, "drawing"))
    return Written({"report": index}, (*gathered.left_out, *missing))


def _comparer(wish: Wish, gathered: Gathered) -> Comparer:
    names = {image.name for curve in gathered.curves for point in curve.points for image in point.images}
    folder = wish.out / "pictures" / gathered.set
    originals = partial(_originals, wish, gathered.set, names)
    return Comparer(gathered, Reconstructions(gathered.set, originals, folder))


def _side_by_side(wish: Wish, gathered: Gathered, comparer: Comparer) -> list[Comparison]:
    curves = models(gathered)
    names = typical(curves)[: wish.pictures]
    comparer.prepare(names, curves, partial(_progress, "decoding"))
    return [made for name in names if (made := comparer(name, curves)) is not None]


def _originals(wish: Wish, set_name: str, names: set[str]) -> dict[str, Path]:
    return find_originals(_root(wish, set_name), names)


def _root(wish: Wish, set_name: str) -> Path:
    """The folder of the originals.

    Raises:
        ConfigError: there is none; or the set is not one of conf/eval, and none is given.
    """
    root = wish.root or read_options([f"eval={set_name}"]).eval.root
    if not isinstance(root, str | Path) or not Path(root).expanduser().is_dir():
        raise ConfigError(f"expected the photographs of {set_name} in a folder, got {root}; give it by --root")
    return Path(root).expanduser()


def _progress(what: str, items: Sequence[_Item]) -> Iterator[_Item]:
    console = Console(stderr=True)
    yield from track(items, what, console=console, transient=True, disable=not (items and console.is_terminal))
