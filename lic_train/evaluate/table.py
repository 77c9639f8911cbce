"""Tables of results for the terminal, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lic_train.evaluate.image_metrics import METRICS
from lic_train.evaluate.protocol import Protocol
from lic_train.files.zoo.published import Published, point
from lic_train.system.screen import ruled_table

Columns = Sequence[tuple[str, str, str]]  # heading, key in rows and mean, format

_COLUMNS: Columns = (
    ("bpp_file", "bpp_file", ".4f"),
    ("bpp", "bpp", ".4f"),
    ("PSNR", "psnr", ".2f"),
    ("MS-SSIM", "ms_ssim", ".4f"),
    ("enc s", "encode_seconds", ".2f"),
    ("dec s", "decode_seconds", ".2f"),
)
_METRICS_IN_A_TABLE = 5


def table(result: dict[str, Any]) -> RenderableType:
    """Return a table with one row for each image and a row of means; further metrics follow in tables below it.

    Rows of images that were decoded differently are red.
    """
    tables = [_image_table(result, _COLUMNS, _title(result), equal=True)]
    return Group(*tables, *(_image_table(result, columns) for columns in _metric_columns([result])))


def overview(results: Sequence[tuple[str, dict[str, Any]]]) -> RenderableType:
    """Return a table with one row for each evaluation: run, set and means; further metrics follow in tables below it.

    Args:
        results: names of the runs and their results.
    """
    tables = [_overview_table(results, _COLUMNS, "means over images")]
    metrics = _metric_columns([result for _, result in results])
    return Group(*tables, *(_overview_table(results, columns) for columns in metrics))


def notes(result: dict[str, Any]) -> list[str]:
    """Return the evaluation options if they are not the house convention, and the published result beside this one."""
    protocol = Protocol.model_validate(result.get("protocol", {}))
    lines = [] if protocol.is_house else [f"measured with {protocol.described}"]
    if "published" in result:
        published = Published.model_validate(result["published"])
        if published.set == result["set"]:
            here = point(result["mean"]["bpp_file"], published.metric, result["mean"][published.metric])
            lines.append(f"published {published.described}, here {here}")
        if published.command not in ("", protocol.described):
            lines.append(f"the authors measured with {published.command}")
    return lines


def _image_table(result: dict[str, Any], columns: Columns, title: Text | str = "", equal: bool = False) -> Table:
    made = ruled_table(title=title)
    made.add_column("picture", no_wrap=True, overflow="ellipsis", max_width=17)
    _add_columns(made, columns)
    if equal:
        made.add_column("equal", no_wrap=True)
    means = _means(f"mean of {len({row['name'] for row in result['rows']})}", result)
    rows = [*((row_name(row), row) for row in result["rows"]), *means]
    for number, (name, values) in enumerate(rows, start=1):
        verdict = ["yes" if values["equal"] else "NO"] if equal else []
        last = number == len(rows) - len(means)  # a rule separates the images from their means
        made.add_row(name, *_cells(values, columns), *verdict, style=_style(values), end_section=last)
    return made


def _overview_table(results: Sequence[tuple[str, dict[str, Any]]], columns: Columns, title: str = "") -> Table:
    made = ruled_table(title=title)
    made.add_column("run", overflow="fold")
    made.add_column("set", no_wrap=True, overflow="ellipsis", max_width=10)
    _add_columns(made, columns)
    for name, result in results:
        for label, mean in _means(name, result):
            made.add_row(label, result["set"], *_cells(mean, columns), style=_style(mean))
    return made


def row_name(row: dict[str, Any]) -> str:
    """Return the name of an image, and its level if the model has a variable rate."""
    return _at_level(row["name"], row.get("level"))


def _at_level(name: str, level: float | None) -> str:
    return name if level is None else f"{name} @ {level:.3g}"


def _means(name: str, result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return labels and means of a result: one, or one for each level of a variable rate."""
    levels = [(_at_level(name, each["level"]), each["mean"]) for each in result.get("levels", [])]
    return levels or [(name, result["mean"])]


def _metric_columns(results: Sequence[dict[str, Any]]) -> Iterator[Columns]:
    """Columns of the metrics that any result contains, split into tables that fit the terminal."""
    names = [name for name in METRICS if any(name in result["mean"] for result in results)]
    for start in range(0, len(names), _METRICS_IN_A_TABLE):
        yield [(name, name, ".4f") for name in names[start : start + _METRICS_IN_A_TABLE]]


def _title(result: dict[str, Any]) -> Text:
    name = result["model"].get("_target_", "model").rpartition(".")[2]
    shown = ("step",) if "levels" in result else ("lambda", "step")
    training = [f"{key} {value}" for key, value in result["training"].items() if key in shown]
    return Text(", ".join([f"{result['set']}: {name}", *training, result["checkpoint"]["file"]]))


def _add_columns(made: Table, columns: Columns) -> None:
    for heading, _, _ in columns:
        made.add_column(heading, justify="right", no_wrap=True)


def _style(values: dict[str, Any]) -> str | None:
    return None if values["equal"] else "bold red"


def _cells(values: dict[str, Any], columns: Columns) -> list[str]:
    return ["-" if values.get(key) is None else format(values[key], spec) for _, key, spec in columns]
