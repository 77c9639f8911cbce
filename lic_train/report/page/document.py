"""The whole page: template, style and script in one file, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template

from lic_train.report.elements import Comparison, Figure, Section, Table
from lic_train.report.page import markup
from lic_train.system import atomic
from lic_train.system.reading import printable, slug

HERE = Path(__file__).parent
SCRIPTS = ("axes.js", "figure.js", "controls.js", "comparison.js", "main.js")
Element = Table | Figure | Comparison


Track = Callable[[Sequence[Section]], Iterator[Section]]


def write(
    path: Path, sections: Sequence[Section], title: str, facts: Sequence[tuple[str, str]], track: Track = iter
) -> None:
    """`render` into ``path``, all or nothing."""
    atomic.replace_text(path, render(sections, title, facts, track))


def render(sections: Sequence[Section], title: str, facts: Sequence[tuple[str, str]], track: Track = iter) -> str:
    """The page as text.

    Args:
        sections: in this order; pictures of comparisons are read from disk and embedded as crops.
        title: of the page.
        facts: name and value of what holds for all of it, shown below the title.
        track: wraps the sections, to show progress.
    """
    script = "(() => {\n" + '"use strict";\n' + "".join(_read(name) for name in SCRIPTS) + "})();\n"
    style = _read("style.css")
    names = [f"{number}-{slug(section.title)}" for number, section in enumerate(sections, start=1)]
    return Template(_read("document.html")).substitute(
        title=escape(printable(title)),
        facts="".join(_fact(*fact) for fact in facts),
        contents=" ".join(_link(name, section) for name, section in zip(names, sections, strict=True)),
        sections="\n".join(_section(name, section) for name, section in zip(names, track(sections), strict=True)),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
    )


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names the one inline text that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(printable(value, 300))}</dd></div>"


def _link(name: str, section: Section) -> str:
    return f'<a href="#{name}">{escape(printable(section.title))}</a>'


def _section(name: str, section: Section) -> str:
    text = "".join(f"<p>{escape(line)}</p>\n" for line in section.text.splitlines())
    parts = []
    for small, elements in groupby(section.elements, markup.is_small):
        drawn = "\n".join(_element(element) for element in elements)
        parts.append(f'<div class="small-figures">\n{drawn}\n</div>' if small else drawn)
    body = "\n".join(parts)
    return f'<section id="{name}">\n<h2>{escape(printable(section.title))}</h2>\n{text}{body}\n</section>'


def _element(element: Element) -> str:
    if isinstance(element, Table):
        return markup.table(element)
    return markup.figure(element) if isinstance(element, Figure) else markup.comparison(element)
