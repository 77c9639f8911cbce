"""HTML page of ``lic data check``: one self-contained file, rendered from ``page.html`` with every name escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageFile

from lic_train.data.archives.indexed import Indexed
from lic_train.data.check.looks import KINDS, WORST, Summary
from lic_train.data.decode.images import MAX_PIXELS, UnreadableImage, open_header, open_rgb

SIDE = 160  # pixels, longer side of a thumbnail
MAX_NAMED = 500  # damaged files listed on the page; report.json lists all of them


class Figure(NamedTuple):
    """One image of the page.

    Attributes:
        name: its path.
        thumbnail: a data URL, empty if nothing can be decoded.
        size: width and height as text.
        remark: text below the name, may be empty.
    """

    name: str
    thumbnail: str
    size: str
    remark: str


class Section(NamedTuple):
    """A heading and the images below it; a section without images is left out of the page."""

    title: str
    figures: list[Figure]


def page(root: str, source: Indexed, summary: Summary, crop: int) -> str:
    """Render the page of a checked collection.

    Args:
        root: the collection, as the user typed it.
        source: its images.
        summary: the results of the check.
        crop: side of the training crops in pixels.
    """
    smallest, median, largest = summary.sides()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html").render(
        root=root,
        images=len(source),
        smallest=smallest,
        median=median,
        largest=largest,
        crop=crop,
        counts=_counts(source, summary),
        archives=[(problem.file, problem.reason) for problem in source.index.problems],
        sections=_sections(source, summary),
        damaged=[(source.name(index), reason) for index, reason in sorted(summary.damaged.items())],
        max_named=MAX_NAMED,
    )


def _counts(source: Indexed, summary: Summary) -> list[tuple[str, int, str]]:
    """Label, number and CSS class of each row of the first table."""
    return [
        ("usable for training", summary.whole, "good"),
        ("damaged", len(summary.damaged), "bad"),
        *((meaning, summary.notes[kind], "plain") for kind, meaning in KINDS.items()),
        ("ignored: hidden and system files", source.index.hidden, "plain"),
        ("ignored: not images by their names", sum(source.index.others.values()), "plain"),
    ]


def _sections(source: Indexed, summary: Summary) -> list[Section]:
    damaged = sorted(summary.damaged.items())[:WORST]
    copies = [(index, f"same as {source.name(first)}") for index, first in summary.copies()[:WORST]]
    bits = [(index, f"{bits:.2f} bits") for index, bits in summary.worst("bits")]
    return [
        Section("Damaged: the part that can be decoded", _figures(source, damaged)),
        Section("Smallest", _figures(source, [(index, "") for index, _ in summary.worst("small")])),
        Section("Nearly one colour", _figures(source, [(index, "") for index, _ in summary.worst("flat")])),
        Section("Exact copies", _figures(source, copies)),
        Section("Fewest bits per pixel", _figures(source, bits)),
    ]


def _figures(source: Indexed, images: Iterable[tuple[int, str]]) -> list[Figure]:
    """Figures of numbered images, each with a remark."""
    return [Figure(source.name(index), *_thumbnail(source, index), remark) for index, remark in images]


def _thumbnail(source: Indexed, index: int) -> tuple[str, str]:
    """Return the decodable part of an image as a data URL, and its size; two empty strings if there is none."""
    try:
        data = source.read(index)
        try:
            image = open_rgb(data)
        except UnreadableImage:
            image = _decodable_part(data)
    except Exception:  # damaged bytes can raise anything, and damaged images are listed on this page
        return "", ""
    size = f"{image.width} x {image.height}"
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", size


def _decodable_part(data: bytes) -> Image.Image:
    """Decode as much as possible of a damaged image. Raises any exception."""
    strict, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        image = open_header(data)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage("too large for a preview")
        return image.convert("RGB")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = strict
