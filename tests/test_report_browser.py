"""The page in a real browser: drawing, mouse and keyboard, no console output, no requests, hostile names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lic_train.report.elements import Comparison, Picture
from lic_train.report.gather import gather
from lic_train.report.page import write
from lic_train.report.page.document import HERE
from lic_train.report.runs import read_runs
from lic_train.report.sections import sections
from tests.browser import Browser, Tab, chromium, find_browser
from tests.report_tree import HOSTILE, write_anchors, write_mistakes, write_models

PSNR = "#element-rd_psnr"
PLOT = f"{PSNR} .plot svg"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on the path")
    with chromium(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report of synthetic runs with hostile names, and a comparison of synthetic pictures."""
    folder = tmp_path_factory.mktemp("page")
    write_models(folder)
    write_mistakes(folder)
    write_anchors(folder)
    gathered = gather(folder, *read_runs(folder), package=folder / "package")
    made = sections(gathered, gathered.curve("vvc"), [comparison(folder)])
    write(folder / "index.html", made, HOSTILE, [("name", HOSTILE)])
    return folder / "index.html"


def comparison(folder: Path) -> Comparison:
    """Return plain colours: the original, all layers of one codec, and a codec with a hostile name."""
    paths = {}
    for name, colour in {"original": "white", "decoded": "red", "error": "green", "bits": "blue"}.items():
        paths[name] = folder / f"{name}.png"
        Image.new("RGB", (80, 60), colour).save(paths[name])
    codec = Picture("codec", paths["decoded"], 0.3, 31.2, paths["error"], paths["bits"])
    pictures = [Picture("original", paths["original"]), codec, Picture(HOSTILE, paths["bits"], 0.4, 32.0)]
    return Comparison("picture", "photo", pictures, (10, 10, 64, 48))


@pytest.fixture
def tab(browser, page) -> Tab:
    opened = browser.tab()
    opened.open(page)
    return opened


def count(tab: Tab, selector: str) -> int:
    return tab.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length")


def ticks(tab: Tab, axis: str) -> list[float]:
    texts = tab.evaluate(f"[...document.querySelectorAll('{PSNR} .{axis}-tick')].map((tick) => tick.textContent)")
    return [float(text.replace("−", "-").replace(",", "")) for text in texts]


def box(tab: Tab, selector: str) -> dict[str, float]:
    return tab.evaluate(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")


def test_no_problems_no_requests_and_no_execution_of_names(tab, page):
    assert tab.problems() == []
    assert tab.requests() == [page.resolve().as_uri()]
    assert tab.evaluate("document.title") == HOSTILE
    assert count(tab, "script:not([type])") == 1
    assert count(tab, "[onerror]") == 0


def test_curves_have_lines_and_markers(tab):
    names = tab.evaluate(
        f"[...document.querySelectorAll('{PSNR} .plot .series[data-name]')].map((s) => s.dataset.name)"
    )
    assert names[:3] == ["cwam", "gaacnn", "mbt2018"]
    assert len(names) == 3 + 8 + 1  # models, anchors, and the curve in outputs/cited
    points = tab.evaluate(f"document.querySelector('{PSNR} .series[data-name=cwam] .line').getAttribute('d')")
    assert points.count("L") == 3
    assert count(tab, f"{PSNR} .plot .series[data-name=cwam] .marker") == 4
    frame, plot = box(tab, f"{PSNR} .plot .frame"), box(tab, PLOT)
    line = box(tab, f"{PSNR} .series[data-name=cwam] .line")
    assert frame["x"] <= line["x"] < line["x"] + line["width"] <= frame["x"] + frame["width"]
    assert frame["y"] <= line["y"] < line["y"] + line["height"] <= frame["y"] + frame["height"]
    assert plot["width"] > 900


def test_axes_have_round_ticks_around_the_points(tab):
    for axis, low, high in (("x", 0.12, 1.1), ("y", 27, 37)):
        values = ticks(tab, axis)
        steps = np.diff(values)
        assert np.allclose(steps, steps[0])
        assert f"{steps[0]:e}"[:3] in ("1.0", "2.0", "2.5", "5.0")
        assert values[0] - steps[0] <= low < high <= values[-1] + steps[0]


def test_legend_hides_and_shows_a_curve(tab):
    button = f"{PSNR} .legend button[data-name=JPEG]"
    curve = f"{PSNR} .plot .series[data-name=JPEG]"
    low = min(ticks(tab, "y"))
    tab.click(button)
    assert count(tab, curve) == 0
    assert tab.evaluate(f"document.querySelector('{button}').getAttribute('aria-pressed')") == "false"
    assert min(ticks(tab, "y")) >= low
    tab.click(button)
    assert count(tab, curve) == 1


def test_hovering_shows_name_parameter_rate_and_quality(tab):
    tab.mouse("mouseMoved", tab.middle(f"{PSNR} .plot .series[data-name=cwam] .marker:last-child"))
    tab.frame()
    assert not tab.evaluate(f"document.querySelector('{PSNR} .tip').hidden")
    shown = tab.evaluate(f"document.querySelector('{PSNR} .tip').innerText").split("\n")
    assert shown[:2] == ["cwam", "λ 0.0483"]
    assert shown[2].startswith("bits per pixel: 1.14")
    assert shown[3].startswith("PSNR [dB]: 37.")
    tab.mouse("mouseMoved", (1, 1))
    tab.frame()
    assert tab.evaluate(f"document.querySelector('{PSNR} .tip').hidden")


def test_dragging_zooms_and_reset_restores(tab):
    before = ticks(tab, "x"), ticks(tab, "y")
    x, y = tab.middle(PLOT)
    tab.drag((x - 100, y - 80), (x + 100, y + 80))
    zoomed = ticks(tab, "x"), ticks(tab, "y")
    for old, new in zip(before, zoomed, strict=True):
        assert min(old) < min(new) < max(new) < max(old)
    tab.click(f"{PSNR} .tools button:last-child")
    assert (ticks(tab, "x"), ticks(tab, "y")) == before


def test_first_view_ends_at_the_usual_rates(tab):
    def end(name: str) -> tuple[float, float]:
        """Return the start of the name at a line and the right end of the axes."""
        names = f"[...document.querySelectorAll('{PSNR} .label')].find((label) => label.textContent === '{name}')"
        return tab.evaluate(f"{names}.getBoundingClientRect().x"), box(tab, f"{PSNR} .plot .frame")["right"]

    first = ticks(tab, "x"), ticks(tab, "y")
    assert max(first[0]) <= 1.25
    x, right = end("JPEG")
    assert right < x < right + 20
    tab.click(f"{PSNR} .tools button[aria-label='Show everything']")
    assert 1.5 <= max(ticks(tab, "x")) <= 1.7
    assert max(ticks(tab, "y")) >= max(first[1])
    tab.click(f"{PSNR} .tools button:last-child")
    assert (ticks(tab, "x"), ticks(tab, "y")) == first


def test_placement_of_names_terminates_despite_rounding(tab):
    """2.428... + 14 - 2.428... is below 14 in floating point: adjacent names would be moved without end."""
    y = 17 / 7
    assert y + 14 - y < 14
    source = (HERE / "axes.js").read_text(encoding="utf-8")
    labels = [{"x": 0, "y": y, "width": 9}, {"x": 0, "y": y, "width": 9}, {"x": 0, "y": y + 1, "width": 9}]
    spread = f"(() => {{ {source}; const labels = {json.dumps(labels)}; spread(labels, 14, 0, 99); return labels; }})()"
    assert [label["y"] for label in tab.evaluate(spread)] == pytest.approx([y, y + 14, y + 28])


def test_all_curves_have_different_looks(tab):
    looks = tab.evaluate(
        f"[...document.querySelectorAll('{PSNR} .plot .series[data-name]')].map((series) => ["
        "getComputedStyle(series).color, getComputedStyle(series.querySelector('.line')).strokeDasharray])"
    )
    assert len(looks) == 12
    assert len({tuple(look) for look in looks}) == 12


def test_wheel_zooms_only_with_control(tab):
    before = ticks(tab, "x")
    place = tab.middle(PLOT)
    tab.call("Input.dispatchMouseEvent", type="mouseWheel", x=place[0], y=place[1], deltaX=0, deltaY=-100)
    tab.frame()
    assert ticks(tab, "x") == before
    place = tab.middle(PLOT)
    tab.call("Input.dispatchMouseEvent", type="mouseWheel", x=place[0], y=place[1], deltaX=0, deltaY=-100, modifiers=2)
    tab.wait(f"document.querySelector('{PSNR} .x-tick').textContent !== '0.0'")
    assert max(ticks(tab, "x")) < max(before)


def test_keys_select_points_and_zoom(tab):
    before = ticks(tab, "x")
    tab.evaluate(f"document.querySelector('{PLOT}').focus()")
    shown = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        tab.key(key)
        shown.append(tab.evaluate(f"document.querySelector('{PSNR} .tip').innerText").split("\n")[:2])
    assert shown == [["cwam", "λ 0.0018"], ["cwam", "λ 0.0067"], ["gaacnn", "λ 0.0067"]]
    tab.key("+")
    assert max(ticks(tab, "x")) < max(before)
    tab.key("0")
    assert ticks(tab, "x") == before


def test_heading_sorts_its_table(tab):
    def first() -> list[str]:
        return tab.evaluate(
            "[...document.querySelectorAll('#element-bd_psnr tbody tr')].map((row) => row.cells[0].textContent)"
        )

    rising = first()
    button = "#element-bd_psnr th:nth-child(2) button"
    tab.click(button)
    assert first() == rising
    tab.click(button)
    assert rising[-1] == "A paper, cited"  # has no BD-rate, and stays at the end
    assert first() == [*rising[-2::-1], rising[-1]]
    assert tab.evaluate(f"document.querySelector('{button}').closest('th').getAttribute('aria-sort')") == "descending"


def test_slider_moves_between_original_and_reconstruction(tab):
    over, divider = ".stage img.over", ".stage .divider"
    assert tab.evaluate(f"document.querySelector('{over}').style.clipPath") == "inset(0px 50% 0px 0px)"
    tab.evaluate("document.querySelector('.stage input').focus()")
    for _ in range(20):
        tab.key("ArrowRight")
    assert tab.evaluate(f"document.querySelector('{over}').style.clipPath") == "inset(0px 40% 0px 0px)"
    stage, line = box(tab, ".stage"), box(tab, divider)
    assert line["x"] + line["width"] / 2 == pytest.approx(stage["x"] + 0.6 * stage["width"], abs=2)


def test_buttons_select_codec_error_and_bits(tab):
    def colour() -> list[int]:
        """Return the colour of the lower picture."""
        return tab.evaluate(
            "(async () => { const image = document.querySelector('.stage img'); await image.decode();"
            "const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;"
            "const context = canvas.getContext('2d'); context.drawImage(image, 0, 0, 1, 1);"
            "return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); })()"
        )

    seen = [colour()]
    for number in (2, 3):
        tab.click(f".choices [data-choice=layer]:nth-of-type({number + 2})")
        seen.append(colour())
    tab.click(".choices [data-choice=codec]:nth-of-type(2)")
    seen.append(colour())
    assert seen == [[255, 0, 0], [0, 128, 0], [0, 0, 255], [0, 0, 255]]
    assert tab.evaluate("document.querySelector('.stage .right').textContent") == HOSTILE


@pytest.mark.parametrize(("width", "dark"), [(360, False), (800, True), (1400, False)])
def test_content_fits_every_width_and_colour_scheme(browser, page, width, dark):
    tab = browser.tab()
    tab.open(page, width=width, dark=dark)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert box(tab, PLOT)["width"] == pytest.approx(box(tab, PSNR)["width"], abs=1)
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground[4:-1].split(",")) < 200) == dark
    assert tab.problems() == []


def contrast(a: str, b: str) -> float:
    """Return the WCAG 2.2 contrast of two colours ``rgb(r, g, b)``."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_of_text_and_curves(browser, page, dark):
    tab = browser.tab()
    tab.open(page, dark=dark)
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    for selector, least in (("p.note", 4.5), ("td", 4.5), ("nav a", 4.5)):
        assert contrast(tab.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"), ground) >= least
    names = [f"{family}{number}" for family in "mat" for number in range(8)]
    script = (
        "(name) => { const e = document.createElement('i'); e.className = name; document.body.append(e);"
        "return getComputedStyle(e).color; }"
    )
    colours = tab.evaluate(f"{json.dumps(names)}.map({script})")
    assert [name for name, colour in zip(names, colours, strict=True) if contrast(colour, ground) < 3] == []


def test_printing_omits_controls(tab, tmp_path):
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    tab.call("Emulation.setEmulatedMedia", media="print")
    for selector in (".tools", ".inspector", "nav"):
        assert tab.evaluate(f"getComputedStyle(document.querySelector('{selector}')).display") == "none"
    assert tab.evaluate("[...document.querySelectorAll('section')].every((s) => s.offsetHeight > 0)")
