"""The last thing on the screen: a table of the results that fits 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from lic_train.system.screen import ruled_table

_COLUMNS = (
    ("bpp_file", "bpp_file", ".4f"),
    ("bpp", "bpp", ".4f"),
    ("PSNR", "psnr", ".2f"),
    ("MS-SSIM", "ms_ssim", ".4f"),
    ("enc s", "encode_seconds", ".2f"),
    ("dec s", "decode_seconds", ".2f"),
)


def table(result: dict[str, Any]) -> Table:
    """One line for each picture and their mean; a picture that was decoded differently is red."""
    made = ruled_table(title=_title(result))
    made.add_column("picture", no_wrap=True, overflow="ellipsis", max_width=16)
    for heading, _, _ in _COLUMNS:
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("equal", no_wrap=True)
    rows = result["rows"]
    for number, row in enumerate(rows, start=1):
        _add(made, row["name"], row, end_section=number == len(rows))
    _add(made, f"mean of {len(rows)}", result["mean"])
    return made


def overview(results: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """One line for each evaluation: name of the run, set, and the means over the pictures."""
    made = ruled_table(title="means over pictures")
    made.add_column("run", overflow="fold")
    made.add_column("set", no_wrap=True, overflow="ellipsis", max_width=10)
    for heading, _, _ in _COLUMNS:
        made.add_column(heading, justify="right", no_wrap=True)
    for name, result in results:
        mean = result["mean"]
        style = None if mean["equal"] else "bold red"
        made.add_row(Text(name), Text(result["set"]), *_cells(mean), style=style)
    return made


def _title(result: dict[str, Any]) -> Text:
    name = result["model"].get("_target_", "model").rpartition(".")[2]
    training = [f"{key} {value}" for key, value in result["training"].items() if key in ("lambda", "step")]
    return Text(", ".join([f"{result['set']}: {name}", *training, result["checkpoint"]["file"]]))


def _add(made: Table, name: str, values: dict[str, Any], end_section: bool = False) -> None:
    equal = "yes" if values["equal"] else "NO"
    style = None if values["equal"] else "bold red"
    made.add_row(Text(name), *_cells(values), equal, style=style, end_section=end_section)


def _cells(values: dict[str, Any]) -> list[str]:
    return ["-" if values[key] is None else format(values[key], spec) for _, key, spec in _COLUMNS]
