"""Export of elements for papers: valid LaTeX, exact CSV, figures that are readable without colour."""

from __future__ import annotations

import csv
import os
import re
import shutil
import string
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.data.decode.images import save_png
from lic_train.errors import DataError
from lic_train.report.elements import Comparison, Figure, Line, Picture, Section, Table
from lic_train.report.export import export
from lic_train.report.export_figures import draw_figure
from lic_train.report.export_latex import escape, latex_table
from tests.conftest import ROOT

HOSTILE = "\\input{x} $x^2$ a_b & 50% #1 ~ {} [1] * <b>|\" '=1+1"
TABLE = Table(
    "bd_rate",
    "Table II: BD-rate, λ = 0.0067",
    ("codec", "BD-rate %", "PSNR (dB)", "note"),
    (("JPEG", 124.2567, 31.25, None), (HOSTILE, -9.1234567890123, None, "=SUM(A1)"), ("[x]", 1, 30, "-2+3")),
    (None, 2, None, None),
    "100 % of the pictures & more.",
)
STYLES = ("model", "anchor", "cited", "training")
FIGURE = Figure(
    "rd",
    "Kodak",
    "bits per pixel",
    "PSNR (dB)",
    [
        Line(
            f"_$ \\bad{{{index} $",
            (0.1, 0.25, 0.8),
            (28 + index, 31.5 + index, 36.1 + index),
            style,
            ("a", "b", "c"),
        )
        for index, style in enumerate(STYLES)
    ],
)


MANY = Figure(
    "many",
    "Twelve",
    "x",
    "y",
    [Line(f"{style} {index}", (1, 2, 3), (index, 5, 7), style) for style in STYLES[:3] for index in range(4)],
)
TRAINING = Figure("training", "t", "x", "y", [Line(f"run {i}", (1, 2), (i, 5), "training") for i in range(4)])
LONG = Figure(
    "long", "t", "x", "y", [Line("a very long name " * 20 + str(i), (1, 2), (1, 2 + i), "anchor") for i in range(14)]
)


def picture(path, colour, height=40, width=60):
    x = torch.tensor(colour, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    x[:, 10:20, 20:40] = torch.tensor([255 - value for value in colour], dtype=torch.uint8)[:, None, None]
    save_png(path, x)
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    colours = [(200, 30, 30), (30, 180, 30), (30, 30, 210)]
    pictures = [
        Picture(f"${name}_", picture(folder / f"{name}.png", colour), *numbers)
        for name, colour, numbers in zip("abc", colours, [(), (0.1234, 30.5), (0.2, None)], strict=True)
    ]
    return Comparison("crops", "Crops", pictures, (20, 10, 20, 10))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, comparison):
    """All elements of this file, exported once."""
    folder = tmp_path_factory.mktemp("exported")
    export([Section("one", [TABLE, FIGURE, MANY]), Section("two", [TRAINING, LONG, comparison])], folder)
    return folder


def tokens(latex):
    """Split LaTeX into commands, escaped characters and single characters."""
    return re.findall(r"\\[A-Za-z]+|\\.|.", latex, re.DOTALL)


def columns_of(latex):
    """Return the rows of the body as lists of cells, split where TeX splits them."""
    body = latex.split("\\toprule\n")[1].split("    \\bottomrule")[0].replace("    \\midrule\n", "")
    assert body.endswith("\\\\\n")
    rows, cell = [[]], ""
    for token in tokens(body):
        if token in ("&", "\\\\"):
            rows[-1].append(cell.strip())
            cell = ""
            if token == "\\\\":
                rows.append([])
        else:
            cell += token
    assert rows.pop() == []
    return rows


def test_latex_rows_digits_and_blanks():
    latex = latex_table(TABLE, "bd_rate")
    rows = columns_of(latex)
    assert [len(row) for row in rows] == [4] * 4
    assert rows[0] == ["codec", r"BD-rate \%", "PSNR (dB)", "note"]
    assert rows[1] == ["JPEG", "124.26", "31.25", ""]
    assert rows[2][1:] == ["$-9.12$", "", "=SUM(A1)"]
    assert rows[3] == ["{[}x{]}", "1.00", "30", "-2+3"]
    assert r"\begin{tabular}{p{0.60\linewidth}rrl}" in latex
    assert r"\caption{Table II: BD-rate, $\lambda$ = 0.0067}" in latex
    assert r"\label{tab:bd_rate}" in latex
    assert r"100 \% of the pictures \& more." in latex


def test_latex_is_balanced_and_names_are_not_executed():
    latex = latex_table(TABLE, "bd_rate")
    found = tokens(latex)
    assert found.count("{") == found.count("}")
    assert found.count("$") % 2 == 0
    named = {token for token in found if token[0] == "\\" and token[1].isalpha()}
    layout = "begin end centering caption label toprule midrule bottomrule linewidth par smallskip footnotesize"
    letters = "lambda textbackslash textasciicircum textasciitilde textless textgreater textbar"
    assert named <= {f"\\{name}" for name in f"{layout} {letters}".split()}
    assert not {"#", "%", "^", "~"} & set(found)
    assert all(before == "{" for before, token in pairwise(found) if token == "*")


@pytest.mark.parametrize("character", string.punctuation)
def test_special_characters_are_escaped(character):
    """A cell of one special character does not affect other cells, in any position."""
    latex = latex_table(Table("t", character, (character, "b"), ((character, 1.5), ("x", character))), "t")
    rows = columns_of(latex)
    assert [len(row) for row in rows] == [2, 2, 2]
    assert rows[0][0] == rows[1][0] == rows[2][1] == escape(character)
    assert tokens(latex).count("{") == tokens(latex).count("}")
    assert (escape(character) == character) == (character in "!'()+,-./:;=?@`")


def test_unsupported_characters_become_code_points():
    assert escape("naïve ś 漢 \u202e\x00") == r"naïve ś \texttt{U+6F22} \texttt{U+202E}\texttt{U+0000}"
    assert escape("ßøłÅé") == "ßøłÅé"
    assert escape("ąĸ") == r"\texttt{U+0105}\texttt{U+0138}"  # no ogonek in the default encoding
    assert escape("a\nb\t c") == "a b c"


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_pdflatex_compiles_the_tables(exported, tmp_path):
    """Tables with hostile cells compile with booktabs as the only package."""
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("no pdflatex on the path")
    inputs = "".join(f"\\input{{{path}}}\n" for path in sorted(exported.glob("*.tex")))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{inputs}\\end{{document}}\n"
    (tmp_path / "paper.tex").write_text(document)
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    if "booktabs.sty' not found" in done.stdout:
        pytest.skip("no booktabs for pdflatex")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_csv_is_exact_and_without_formulas(exported):
    rows = read(exported / "bd_rate.csv")
    assert rows[0] == list(TABLE.columns)
    assert float(rows[2][1]) == -9.1234567890123
    assert [row[3] for row in rows[1:]] == ["", "'=SUM(A1)", "'-2+3"]
    assert rows[2][0] == HOSTILE
    points = read(exported / "rd.csv")
    assert points[0] == ["line", "style", "bits per pixel", "PSNR (dB)", "label"]
    assert points[5] == [FIGURE.lines[1].name, "anchor", "0.25", "32.5", "b"]
    assert len(points) == 1 + 3 * len(STYLES)


def svg_paths(path):
    return [element.get("d", "") for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}path")]


def test_figure_draws_points_at_their_positions(exported):
    """The drawn corners of the lines are an affine map of their points."""
    lines = [path for path in svg_paths(exported / "rd.svg") if path.count("L") == 2 and "z" not in path]
    drawn = [np.array(re.findall(r"-?\d+\.?\d*", line), float).reshape(3, 2) for line in lines]
    drawn = [corners for corners in drawn if len(set(corners[:, 0])) == 3]
    assert len(drawn) >= len(STYLES)
    data = np.array([list(zip(line.x, line.y, strict=True)) for line in FIGURE.lines]).reshape(-1, 2)
    for axis in range(2):
        pixels = np.concatenate([corners[:, axis] for corners in drawn[: len(STYLES)]])
        slope, offset = np.polyfit(data[:, axis], pixels, 1)
        assert np.abs(slope * data[:, axis] + offset - pixels).max() < 0.01
        assert (slope > 0) == (axis == 0)


def test_figure_is_limited_to_the_first_view():
    line = Line("name", (0.1, 0.4, 0.9, 3.0), (28, 32, 36, 45), "anchor")

    def ticks(high: float | None) -> list[float]:
        drawn = draw_figure(Figure("rd", "t", "x", "y", [line], x_high=high), "svg").decode()
        return [float(text) for text in re.findall(r"<!-- ([\d.]+) -->", drawn)]

    everything, first = ticks(None), ticks(1.25)
    assert max(everything) >= 44
    assert 36 <= max(first) <= 39  # 37.5 dB at the end of the view
    assert max(tick for tick in everything if tick < 20) >= 3
    assert 1 <= max(tick for tick in first if tick < 20) <= 1.25


def test_lines_differ_in_marker_and_dash(exported):
    text = (exported / "many.svg").read_text()
    shapes = re.findall(r'<path id="m[0-9a-f]+" d="([^"]+)" style="[^"]*stroke-', text)
    assert len(set(shapes)) >= len(MANY.lines)
    assert len(set(re.findall(r"stroke-dasharray: ([^;]+)", text))) == 2


def test_training_lines_differ_in_dash(exported):
    text = (exported / "training.svg").read_text()
    assert len(set(re.findall(r"stroke-dasharray: ([^;]+)", text))) == 3


def test_comparison_of_crops(exported):
    drawn = np.asarray(Image.open(exported / "crops.png").convert("RGB")).astype(int)
    centres = []
    for colour in ([55, 225, 225], [225, 75, 225], [225, 225, 45]):
        rows, columns = np.nonzero(np.abs(drawn - colour).max(axis=2) == 0)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width
        assert width / height == pytest.approx(2, abs=0.02)
        centres.append((columns.mean(), rows.mean()))
    assert centres == sorted(centres)
    assert np.ptp([row for _, row in centres]) < 1
    pdf = (exported / "crops.pdf").read_bytes()
    assert len(re.findall(rb"/Width 20\b", pdf)) == 3


@pytest.mark.parametrize("crop", [(50, 10, 20, 10), (0, 35, 10, 10), (-1, 0, 5, 5), (0, 0, 0, 5)])
def test_crop_outside_the_picture_raises(tmp_path, comparison, crop):
    wrong = Comparison("crops", "Crops", comparison.pictures, crop)
    with pytest.raises(DataError, match="got: a picture of 60 x 40"):
        export([Section("all", [wrong])], tmp_path / "out")


def test_unreadable_picture_raises(tmp_path, comparison):
    for path in (tmp_path / "none.png", tmp_path / "broken.png"):
        (tmp_path / "broken.png").write_bytes(b"\x89PNG")
        wrong = Comparison("crops", "Crops", [Picture("a", path)], (0, 0, 1, 1))
        with pytest.raises(DataError, match=path.name):
            export([Section("all", [wrong])], tmp_path / "out")


def test_hostile_keys_give_distinct_files_in_the_folder(tmp_path):
    keys = ["../../evil", "/etc/passwd", "a/b", "a_b", "A_B", "", ".hidden", "x" * 500, "nul\x00", "é"]
    tables = [Table(key, "t", ("a",), ((index,),)) for index, key in enumerate(keys)]
    paths = export([Section("all", tables[:5]), Section("more", tables[5:])], tmp_path / "out")
    assert sorted(tmp_path.rglob("*.csv")) == sorted(path for path in paths if path.suffix == ".csv")
    assert {path.parent for path in paths} == {tmp_path / "out"}
    assert len({path.name.casefold() for path in paths}) == len(paths) == 2 * len(keys)
    assert [read(path)[1] for path in paths[1::2]] == [[str(index)] for index in range(len(keys))]
    assert not any(path.name.startswith(".") for path in paths)


@pytest.mark.parametrize(
    "element",
    [Table("t", "", (), ()), Figure("f", "", "", "", [Line("", (), ())])],
)
def test_empty_elements_are_exported(tmp_path, element):
    assert all(path.stat().st_size for path in export([Section("all", [element])], tmp_path) if path.suffix != ".csv")


def test_files_are_reproducible_in_another_process(exported, tmp_path, comparison):
    code = (
        "from pathlib import PosixPath; from lic_train.report.elements import *; "
        "from lic_train.report.export import export; "
        f"print(*export([{Section('all', [TABLE, FIGURE, comparison])!r}], {tmp_path!r}), sep=chr(10))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": "1000000000"}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT, capture_output=True)
    names = [path.name for path in map(Path, done.stdout.decode().splitlines())]
    assert names == ["bd_rate.tex", "bd_rate.csv", "rd.pdf", "rd.svg", "rd.csv", "crops.pdf", "crops.png"]
    for name in names:
        assert (exported / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert b"CreationDate" not in (exported / "rd.pdf").read_bytes()


def test_long_and_many_names_fit_into_the_figure(exported):
    root = ElementTree.parse(exported / "long.svg").getroot()
    width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    legend = next(g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.attrib.get("id") == "legend_1")
    moves = [g.get("transform", "") for g in legend.iter()]
    texts = [re.match(r"translate\(([\d.-]+) ([\d.-]+)\) scale\(0\.065", move) for move in moves]
    corners = np.array([text.groups() for text in texts if text], float)
    assert len(corners) == len(LONG.lines)
    assert corners.min() > 0
    assert (corners[:, 0] < width / 4).all()
    assert (corners[:, 1] < height).all()
    assert len(set(corners[:, 1])) == len(LONG.lines)
