"""docs/tutorial.ipynb: its cells are executed as they are, and its stored outputs are those of a complete execution."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs/tutorial.ipynb"
# Executes the cells in order in one namespace, as a notebook does. Figures are written instead of shown.
EXECUTE = """
import itertools, json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

numbers = itertools.count()

def show():
    plt.savefig(f"figure_{next(numbers)}.png")
    plt.close("all")

plt.show = show
space = {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    exec(compile(source, f"tutorial.ipynb, code cell {number}", "exec"), space)
print(json.dumps([space["points"], space["jpeg"]]))
"""


def code_cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=float)


def test_tutorial_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    sources = json.dumps(["".join(cell["source"]) for cell in code_cells()])
    command = [sys.executable, "-c", EXECUTE]
    done = subprocess.run(
        command, input=sources, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr

    folder = tmp_path / "outputs/tutorial"
    assert (folder / "coffee.lic").read_bytes().startswith(b"LIC1")
    original, decoded = pixels(folder / "coffee.png"), pixels(folder / "decoded.png")
    assert original.shape == decoded.shape
    assert np.square(original - decoded).mean() < 100  # 28 dB

    for number in range(3):
        assert pixels(tmp_path / f"figure_{number}.png").std() > 10

    points, jpeg = json.loads(done.stdout.splitlines()[-1])
    assert len(points) == 7
    assert all(before < after for before, after in pairwise(map(tuple, points)))
    rates, qualities = zip(*points, strict=True)
    inside = [(bpp, psnr) for bpp, psnr in jpeg if qualities[0] < psnr < qualities[-1]]
    assert inside
    assert all(np.interp(psnr, qualities, rates) < bpp for bpp, psnr in inside)


def test_stored_outputs_are_complete_and_small() -> None:
    assert NOTEBOOK.stat().st_size < 300_000
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert str(Path.home()) not in NOTEBOOK.read_text(encoding="utf-8")
