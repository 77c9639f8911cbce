"""The HTML page as text: self-contained, escaped, with the numbers of its elements."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lic_train.report.elements import Comparison, Figure, Line, Picture, Section, Table
from lic_train.report.page import render
from lic_train.report.page.document import number, script_json, table
from tests.report_tree import HOSTILE


class Tags(HTMLParser):
    """Parses all tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def photograph(tmp_path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def everything(text: str, photograph: Path) -> list[Section]:
    """Return one section with each kind of element and ``text`` in every field."""
    line = Line(text, [0.1, 0.2], [30.0, 31.0], "model", [text, text])
    pictures = [Picture("original", photograph), Picture(text, photograph, 0.3, 31.2, photograph, None)]
    elements = [
        Table(text, text, [text, text], [[text, 1.5], [None, None]], (None, 2), text),
        Figure(text, text, text, text, [line], text),
        Comparison(text, text, pictures, (10, 20, 32, 24), text),
    ]
    return [Section(text, elements, text)]


@pytest.mark.parametrize("text", [HOSTILE, "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "]]>-->'&amp;"])
def test_hostile_text_adds_no_tag_and_no_attribute(photograph, text):
    plain = Tags(render(everything("plain", photograph), "plain", [("plain", "plain")]))
    hostile = Tags(render(everything(text, photograph), text, [(text, text)]))
    assert [(tag, set(attributes)) for tag, attributes in hostile.tags] == [(t, set(a)) for t, a in plain.tags]
    assert text in "".join(hostile.texts["p"])


def test_page_is_self_contained(photograph):
    page = Tags(render(everything("plain", photograph), "plain", []))
    addresses = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
    assert addresses
    assert [address[:40] for address in addresses if not address.startswith(("data:", "#"))] == []
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "base", "form"}
    assert "@import" not in page.texts["style"][0]
    assert "url(" not in page.texts["style"][0]


def test_policy_allows_only_the_inline_script_and_style(photograph):
    page = Tags(render(everything("plain", photograph), "plain", []))
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv"))
    script = page.texts["script"][-1]
    for kind, text in (("script-src", script), ("style-src", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_json_cannot_close_its_element():
    data = {"name": "</script><!--\u2028&"}
    text = script_json(data)
    inside = text.removeprefix('<script type="application/json">').removesuffix("</script>")
    assert json.loads(inside) == data
    assert not set("<>&\u2028") & set(inside)


def test_crops_are_lossless(photograph):
    page = Tags(render(everything("plain", photograph), "plain", []))
    crop = next(image for image in page.of("img") if image.get("data-layer") == "picture")
    shown = Image.open(io.BytesIO(base64.b64decode(crop["src"].partition(",")[2]))).convert("RGB")
    expected = Image.open(photograph).crop((10, 20, 42, 44))
    assert np.array_equal(np.asarray(shown), np.asarray(expected))


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (-3.14159, 2, "−3.14"),
        (-0.001, 2, "0.00"),
        (12345, None, "12,345"),
        (0.0067, None, "0.0067"),
        (1e6, 0, "1,000,000"),
    ],
)
def test_number_format(value, digits, shown):
    assert number(value, digits) == shown


def test_cells_contain_values_for_sorting():
    page = Tags(table(Table("key", "title", ["a", "b"], [["x", -1.23456], ["y", None]], (None, 2))))
    assert [cell.get("data-value") for cell in page.of("td")] == [None, "-1.23456", None, None]
    assert "number blank" in page.of("td")[3]["class"]


def test_blank_column_with_decimals_is_numeric():
    blank = Table("key", "title", ["Codec", "paper", "here", "remark"], [["a", 1.5, None, None]], (None, 2, 2, None))
    cells = Tags(table(blank)).of("td")
    assert [cell["class"] for cell in cells] == ["words", "number", "number blank", " blank"]


def test_command_lines_are_not_truncated():
    command = "python train.py " + " ".join(f"key_{number}=value" for number in range(80))
    text = table(Table("key", "title", ["Codec", "command"], [["a", command]]))
    assert [cell["class"] for cell in Tags(text).of("td")] == ["words", "words code"]
    assert command in text
