"""The papers' tables and figures by name, with the user's results next to the published numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from lic_train.errors import ConfigError
from lic_train.report.elements import Element, Section
from lic_train.report.papers import figures, tables
from lic_train.report.papers.facts import ElementFacts, Paper, SectionFacts, load, stored
from lic_train.report.papers.figures import Compare
from lic_train.report.papers.selection import Evidence, Gather
from lic_train.system.reading import printable

__all__ = ["names", "sections"]


def names() -> list[str]:
    """Return the names of the papers that have tables or figures."""
    return [name for name in stored() if load(name).sections]


def sections(name: str, gather: Gather, compare: Compare) -> list[Section]:
    """Return a paper's tables and figures; cells without a matching run are blank.

    Args:
        name: one of `names`.
        gather: returns everything that was evaluated on a picture set, given the name of the set.
        compare: puts crops side by side.

    Raises:
        ConfigError: there is no such paper.
    """
    if name not in names():
        raise ConfigError(
            f"There are no tables and figures of the paper {printable(name)}.",
            expected=f"one of {', '.join(names())}",
            got=printable(name),
        )
    paper, gather = load(name), cache(gather)
    return [_head(name, paper), *(_section(section, paper, gather, compare) for section in paper.sections)]


def _head(name: str, paper: Paper) -> Section:
    blank = "Blank cells: nothing was run here, or no number is published."
    return Section(
        f"The paper's tables and figures: {name}", text="\n".join(filter(None, (paper.cite, paper.source, blank)))
    )


def _section(facts: SectionFacts, paper: Paper, gather: Gather, compare: Compare) -> Section:
    built = [(element, _build(element, Evidence(paper, gather), compare)) for element in facts.elements]
    missing = [f"{element.title}: nothing was run here." for element, made in built if made is None]
    return Section(facts.title, [made for _, made in built if made is not None], "\n".join(missing))


def _build(facts: ElementFacts, evidence: Evidence, compare: Compare) -> Element | None:
    made: Element | None
    match facts.kind:
        case "table":
            made = tables.table(facts, evidence)
        case "points":
            made = tables.points(facts, evidence)
        case "curves":
            made = figures.curves(facts, evidence)
        case "training":
            made = figures.training(facts, evidence)
        case "crops":
            made = figures.crops(facts, evidence, compare)
    return made and replace(made, note=evidence.note(f"{facts.note} {made.note}"))
