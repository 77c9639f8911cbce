"""The sections of the general report, which every outputs/ tree has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lic_train.rd.curves import Curve
from lic_train.report import bd_tables, figures, run_tables, variant_tables
from lic_train.report.elements import Comparison, Figure, Section, Table
from lic_train.report.gather import Gathered
from lic_train.report.runs import LeftOut
from lic_train.system.reading import printable

DEFAULT_ANCHOR = "vvc"
_NO_ANCHOR = (
    f"there is no curve {DEFAULT_ANCHOR} of these pictures; to do: choose another one with --anchor, or make the "
    "anchors: lic anchors --set {set}"
)


def choose_anchor(gathered: Gathered, key: str | None) -> Curve | None:
    """Return the reference curve of BD-rates: ``key``, or VVC if it is available and ``key`` is None.

    Raises:
        DataError: there is no curve ``key``.
    """
    if key is not None:
        return gathered.curve(key)
    return next((curve for curve in gathered.anchors if curve.key == DEFAULT_ANCHOR), None)


def without_anchor(gathered: Gathered, anchor: Curve | None) -> list[LeftOut]:
    """Return the reason that there are no BD-rates, if there is no anchor."""
    return [] if anchor else [LeftOut("BD-rates", _NO_ANCHOR.format(set=gathered.set))]


def sections(
    gathered: Gathered,
    anchor: Curve | None,
    comparisons: Sequence[Comparison] = (),
    cards: Sequence[Section] = (),
    paper: Sequence[Section] = (),
    left_out: Iterable[LeftOut] = (),
) -> list[Section]:
    """Return the sections of the report in the order of interest, without empty ones.

    Args:
        gathered: runs and curves.
        anchor: reference curve of BD-rates; None if there is none.
        comparisons: photographs side by side.
        cards: reproduction cards.
        paper: tables and figures of a paper, which come first.
        left_out: omissions in addition to those in ``gathered``.
    """
    curves = figures.rate_distortion(gathered)
    drawn = {line.name for figure in _figures([*paper, Section("", curves)]) for line in figure.lines}
    found = [
        Section("Rate and distortion", curves),
        Section("BD-rate", bd_tables.bd_tables(gathered, anchor) if anchor else ()),
        Section("Runs", [run_tables.run_table(gathered)] if gathered.runs else ()),
        Section("Complexity", _some(run_tables.complexity_table(gathered))),
        Section("Ablation", variant_tables.variant_tables(gathered)),
        Section("Pictures", comparisons),
        Section("Training", figures.training(gathered), "Every point is the mean over neighbouring steps."),
        *cards,
        Section("Anchors", _some(run_tables.anchor_table(gathered), run_tables.cited_table(gathered, drawn))),
        Section("Left out", _some(run_tables.left_out_table([*gathered.left_out, *left_out]))),
    ]
    return [*paper, *(section for section in found if section.elements)]


def facts(gathered: Gathered, anchor: Curve | None, missing: Sequence[LeftOut] = ()) -> list[tuple[str, str]]:
    """Return (name, value) pairs about the whole report.

    Args:
        gathered: runs and curves.
        anchor: reference curve of BD-rates.
        missing: omissions in addition to those in ``gathered``.
    """
    left_out = len(gathered.left_out) + len(missing)
    pictures = max((len(point.images) for curve in gathered.all_curves for point in curve.points), default=0)
    digest = f", list {gathered.image_list_sha256[:12]}" if gathered.image_list_sha256 else ""
    return [
        ("Pictures", f"{gathered.set}, {pictures}{digest}"),
        ("Runs", f"{len(gathered.runs)} in {len(gathered.curves)} curves"),
        ("Left out", f"{left_out}, listed at the end" if left_out else "nothing"),
        ("BD-rate over", anchor.name if anchor else "nothing"),
        ("Read from", printable(gathered.outputs)),
    ]


def _some(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table]


def _figures(sections: Iterable[Section]) -> Iterator[Figure]:
    return (element for section in sections for element in section.elements if isinstance(element, Figure))
