"""Write the report of an outputs/ tree: the page and the files for papers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from lic_train import __version__
from lic_train.config.names import group_options
from lic_train.errors import ConfigError
from lic_train.evaluate.sets import read_options
from lic_train.rd.curves import Curve
from lic_train.report import card, page, papers
from lic_train.report.cited.table import read_table, write_curves
from lic_train.report.comparisons import Comparer, typical
from lic_train.report.elements import Comparison, Crop
from lic_train.report.export import export
from lic_train.report.figures import models
from lic_train.report.gather import CITED, Gathered, gather
from lic_train.report.reconstructions import Reconstructions, find_originals
from lic_train.report.runs import LeftOut, read_runs
from lic_train.report.sections import choose_anchor, facts, sections, without_anchor
from lic_train.system.reading import printable

FILES = "files"  # folder next to the page
_FILES_FACT = f"{FILES}/: tables as LaTeX and CSV, figures as PDF, SVG and CSV, crops as PDF and PNG"
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Options:
    """Options of a report.

    Attributes:
        outputs: tree of run directories.
        out: folder of the report.
        set: name of the picture set; None chooses one.
        anchor: key of the reference curve of BD-rates; None chooses VVC if it is available.
        paper: name of the paper whose tables and figures are added; None adds none.
        cite: table of published points, whose curves are stored in ``outputs/cited/``; None adds none.
        root: folder of the original photographs; None uses the folder of conf/eval, or else that of the runs.
        pictures: number of photographs to compare.
    """

    outputs: Path
    out: Path
    set: str | None = None
    anchor: str | None = None
    paper: str | None = None
    cite: Path | None = None
    root: Path | None = None
    pictures: int = 3


@dataclass(frozen=True)
class Written:
    """The parts of a written report by name, and what it does not contain."""

    places: dict[str, Path]
    left_out: tuple[LeftOut, ...]


def build(options: Options) -> Written:
    """Write the page, and each of its tables and figures as files for a paper.

    Raises:
        ConfigError: there is no such tree or paper.
        DataError: there is no such anchor, or the table of published points is not valid.
        OSError: ``options.out`` cannot be written.
    """
    if not options.outputs.is_dir():
        raise ConfigError(
            f"There is no folder {options.outputs}.",
            expected="a folder with run directories",
            got="no such folder",
            to_do="train first: lic train",
        )
    if options.cite:
        write_curves(read_table(options.cite), options.outputs / CITED)
    material = _Material(options)
    if material.is_empty:
        raise ConfigError(
            f"There are no runs in {options.outputs}.",
            expected="a folder with run directories",
            got="none",
            to_do="give the folder of the runs, usually outputs/, or train first: lic train",
        )
    gathered = material.on(options.set)
    anchor = choose_anchor(gathered, options.anchor)
    paper = papers.sections(options.paper, material.on, material.compare) if options.paper else []
    comparisons = material.side_by_side(gathered)
    missing = [*material.without_pictures(), *without_anchor(gathered, anchor)]
    cards = card.sections(gathered.finished)
    made = sections(gathered, anchor, comparisons, cards, paper, missing)
    stamp = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, lic_train {__version__}"
    listed = [*facts(gathered, anchor, missing), ("For a paper", _FILES_FACT), ("Made", stamp)]
    index = options.out / "index.html"
    title = f"{printable(options.outputs.resolve().name)}: learned image compression on {gathered.set}"
    page.write(index, made, title, listed, partial(_progress, "drawing"))
    export(made, options.out / FILES)
    return Written({"report": index, "files": options.out / FILES}, (*gathered.left_out, *missing))


class _Material:
    """The runs of a tree, read once and gathered for any set of pictures."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._runs, self._left_out = read_runs(options.outputs, partial(_progress, "reading runs"))
        self._gathered: dict[str | None, Gathered] = {}
        self._comparers: dict[str, Comparer] = {}

    @property
    def is_empty(self) -> bool:
        """Whether the tree contains neither runs nor directories that look like runs."""
        return not (self._runs or self._left_out)

    def on(self, set_name: str | None) -> Gathered:
        """Return everything on a set; None chooses the set."""
        if set_name not in self._gathered:
            found = gather(self._options.outputs, self._runs, self._left_out, set_name)
            self._gathered |= {set_name: found, found.set: found}
        return self._gathered[set_name]

    def compare(self, set_name: str, image: str, curves: Sequence[Curve], crop: Crop) -> Comparison | None:
        """Return one photograph by the models of ``curves``; None if there are no reconstructions."""
        return self._comparer(set_name)(image, curves, crop)

    def side_by_side(self, gathered: Gathered) -> list[Comparison]:
        """Return the photographs on which the report compares all its models."""
        curves, comparer = models(gathered), self._comparer(gathered.set)
        names = typical(curves)[: self._options.pictures]
        comparer.prepare(names, curves, partial(_progress, "decoding"))
        return [made for name in names if (made := comparer(name, curves)) is not None]

    def without_pictures(self) -> list[LeftOut]:
        """Return the codecs without reconstructions, with the reason."""
        return [item for comparer in self._comparers.values() for item in comparer.left_out()]

    def _comparer(self, set_name: str) -> Comparer:
        if set_name not in self._comparers:
            gathered = self.on(set_name)
            names = {image.name for curve in gathered.curves for point in curve.points for image in point.images}
            folder = self._options.out / "pictures" / gathered.set
            originals = partial(_originals, self._options.root, gathered, names)
            self._comparers[set_name] = Comparer(gathered, Reconstructions(gathered.set, originals, folder))
        return self._comparers[set_name]


def _originals(root: Path | None, gathered: Gathered, names: set[str]) -> dict[str, Path]:
    return find_originals(_root(root, gathered), names)


def _root(given: Path | None, gathered: Gathered) -> Path:
    """Return the folder of the original photographs: ``given``, that of conf/eval, or the ``eval.root`` of a run.

    Raises:
        ConfigError: no folder is known, or none exists.
    """
    folders = [given] if given else _known_roots(gathered)
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"The original photographs of {gathered.set} are missing.",
        expected="a folder with the photographs",
        got=f"{printable(folders[0])}, which does not exist" if folders else "no folder",
        to_do="give the folder with --root FOLDER",
    )


def _known_roots(gathered: Gathered) -> list[Path]:
    sections = [run.config.get("eval") for run in gathered.runs]
    roots: list[object] = []
    with contextlib.suppress(ConfigError):  # a set of conf/eval without a folder of its own, such as folder
        roots += [read_options([f"eval={gathered.set}"]).eval.root] if gathered.set in group_options("eval") else []
    roots += [s.get("root") for s in sections if isinstance(s, dict) and s.get("name") == gathered.set]
    return [Path(root).expanduser() for root in roots if isinstance(root, str | Path)]


def _progress(what: str, items: Sequence[_Item]) -> Iterator[_Item]:
    console = Console(stderr=True)
    yield from track(items, what, console=console, transient=True, disable=not (items and console.is_terminal))
