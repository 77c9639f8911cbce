"""Tables of the general report: runs, complexity of the models, anchors, omissions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from lic_train.complexity.results import Complexity
from lic_train.rd.style import METRIC_LABELS
from lic_train.report.elements import COMMANDS, Cell, Table
from lic_train.report.gather import Gathered
from lic_train.report.runs import LeftOut, Run
from lic_train.system.reading import printable

_MAX_ABOUT = 1500  # characters about the origin of a curve


def run_table(gathered: Gathered) -> Table:
    """Return one row for each run in a curve."""
    columns: dict[str, int | None] = {
        "Run": None,
        "λ": None,
        "Steps": None,
        "bpp": 4,
        "Estimate off by [%]": 2,
        **dict.fromkeys(METRIC_LABELS.values(), 2),
        f"Lowest {METRIC_LABELS['psnr']}": 2,
        "of": None,
        "Encode [s]": 2,
        "Decode [s]": 2,
        "Decoded equal": None,
    }
    return Table(
        key="runs",
        title=f"Runs on {gathered.set}",
        columns=list(columns),
        rows=[_run_row(run, gathered.set) for run in gathered.runs],
        digits=list(columns.values()),
        note="bpp: bits of whole files. Estimate: bits from the likelihoods relative to the files. Encode and decode: "
        "mean over the pictures, on the device that each result names. Decoded equal: a separately loaded model "
        "decoded every file to the encoder's reconstruction.",
    )


def complexity_table(gathered: Gathered) -> Table | None:
    """Return parameters, multiply-adds and times of every counted model; None if there is none."""
    columns = {
        "Model": None,
        "Parameters [M]": 3,
        "g_a [M]": 3,
        "g_s [M]": 3,
        "kMAC / pixel": 1,
        "at": None,
        "Forward [ms]": 0,
        "Encode [ms]": 0,
        "Decode [ms]": 0,
        "Peak memory [MiB]": 0,
    }
    if not gathered.complexity:
        return None
    return Table(
        key="complexity",
        title="Complexity of the models",
        columns=list(columns),
        rows=[_complexity_row(found) for found in gathered.complexity.values()],
        digits=list(columns.values()),
        note="Multiply-adds of one forward pass at the given size, per pixel. Times and memory as defined in the files "
        "of complexity/. Blank: not measured. Measured by lic complexity model=NAME.",
    )


def anchor_table(gathered: Gathered) -> Table | None:
    """Return how the anchors were made; None if there are no anchors."""
    columns = ["Codec", "Encoder", COMMANDS, "How"]
    rows: list[list[Cell]] = []
    for curve in gathered.anchors:
        about = dict(curve.about)
        encoder, command = (printable(about.pop(name, ""), _MAX_ABOUT) for name in ("encoder", "command"))
        rows.append([curve.name, encoder, command, _described(about)])
    note = "Encoded and decoded here, on the same pictures."
    return Table("anchors", "Anchors: how they were made", columns, rows, note=note) if rows else None


def cited_table(gathered: Gathered, names: Collection[str]) -> Table | None:
    """Return the sources of the cited curves with these names; None if there are none."""
    rows = [[curve.name, _described(curve.about)] for curve in gathered.cited if curve.name in names]
    note = "Not measured here: rates, qualities and pictures as in the sources."
    return Table("cited", "Cited curves: sources", ["Codec", "Source"], rows, note=note) if rows else None


def left_out_table(left_out: Sequence[LeftOut]) -> Table | None:
    """Return the omissions with their reasons; None if there are none."""
    rows = [[item.what, item.reason] for item in left_out]
    return Table("left_out", "Not in this report", ["What", "Why"], rows) if rows else None


def _run_row(run: Run, set_name: str) -> list[Cell]:
    result = run.results[set_name]
    mean = result.mean
    rated = [row for row in result.rows if row.psnr is not None]
    worst = min(rated, key=lambda row: row.psnr or 0, default=None)
    return [
        run.where,
        run.lmbda,
        run.step,
        mean.bpp_file,
        100 * (mean.bpp / mean.bpp_file - 1),
        mean.psnr,
        mean.ms_ssim_db,
        worst.psnr if worst else None,
        worst.name if worst else None,
        mean.encode_seconds,
        mean.decode_seconds,
        "yes" if mean.equal else "NO",
    ]


def _complexity_row(found: Complexity) -> list[Cell]:
    millions = [found.parameters.get(part) for part in ("total", "g_a", "g_s")]
    macs = max(found.macs, key=lambda count: count.height * count.width, default=None)
    time = found.time
    return [
        printable(found.model),
        *[None if count is None else count / 1e6 for count in millions],
        macs.total / (macs.height * macs.width) / 1e3 if macs else None,
        f"{macs.width} × {macs.height}" if macs else None,
        *([time.forward_ms, time.encode_ms, time.decode_ms] if time else [None] * 3),
        None if found.peak_bytes is None else found.peak_bytes / 2**20,
    ]


def _described(about: dict[str, Any]) -> str:
    values = (f"{key}: {value}" for key, value in about.items() if isinstance(value, str | int | float))
    return printable("; ".join(values), _MAX_ABOUT)
