"""The W&B workspace of a project as code: rate and distortion, losses, estimate and file, throughput, pictures.

``python -m lic_train.training.dashboard [--entity E] [--project P] [--group G] [--out FILE]`` checks it, writes its
JSON, and saves it on the server where there are credentials. Offline runs are uploaded by ``wandb sync``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import wandb
from rich.console import Console
from rich.text import Text

from lic_train.errors import ConfigError
from lic_train.system import atomic
from lic_train.system.screen import errors_without_traceback, reason
from lic_train.training.callbacks import pictures, rate_distortion
from lic_train.training.loggers import STEP_AXIS, has_credentials

try:
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr
except ImportError as error:
    raise SystemExit(
        f"error: expected wandb-workspaces, got: {error}; what to do: pip install wandb-workspaces"
    ) from error

OUT = Path("outputs/dashboard.json")
SERVER_SECONDS = 30

# Title and metrics of every line plot, by section. The metrics of a plot share their unit.
LINES: dict[str, dict[str, list[str]]] = {
    "Losses by stage": {
        "Loss": ["train/loss", "val/loss"],
        "Stage of the recipe": ["train/stage"],
        "Learning rate": ["train/lr"],
        "Rate: bits per pixel of crops, estimated": ["train/bpp", "val/bpp"],
        "Distortion: PSNR of crops [dB]": ["train/psnr", "val/psnr"],
        "Gradient norm before the clip": ["train/grad_norm"],
    },
    "Estimate and file": {
        "Bits per pixel of whole pictures": ["val/bpp_estimate", "val/bpp_file"],
        "Files are larger by this share": ["val/bpp_gap"],
        "Seconds to code, estimate and decode a picture": ["val/seconds_per_image"],
    },
    "Throughput": {
        "Images per second, all devices": ["train/images_per_second"],
        "Share of the time spent waiting for data": ["train/waiting_share"],
    },
}
# Both axes are means over the same whole pictures: the run's validation pictures.
POINTS = {"PSNR [dB]": "val/psnr_file", "MS-SSIM [dB]": "val/ms_ssim_db_file"}
RATE = "val/bpp_file"
MEDIA = {"Points of each run, beside the stored anchors": rate_distortion.KEY, "Reconstructions": pictures.KEY}
LAMBDA = "lambda"  # of the run's configuration


def build(entity: str, project: str, group: str | None) -> ws.Workspace:
    """The workspace: all runs of the project, or those of one group, in the order of lambda."""
    rate = ws.Section(
        name="Rate and distortion", panels=[*_rate_distortion(), _media(rate_distortion.KEY)], is_open=True
    )
    lines = [ws.Section(name=name, panels=_lines(plots), is_open=True) for name, plots in LINES.items()]
    seen = ws.Section(name="Reconstructions by lambda", panels=[_media(pictures.KEY)], is_open=True)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"lic_train, {group}" if group else "lic_train",
        sections=[rate, *lines, seen],
        settings=ws.WorkspaceSettings(x_axis=STEP_AXIS, max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("Group") == group] if group else [],
            order=[expr.Ordering(expr.Config(LAMBDA), ascending=True)],
        ),
    )


def _rate_distortion() -> list[wr.ScatterPlot]:
    """One point for each run, the last validation, coloured by lambda."""
    return [
        wr.ScatterPlot(
            title=f"{label} over bits per pixel of files",
            x=wr.SummaryMetric(RATE),
            y=wr.SummaryMetric(metric),
            z=wr.Config(LAMBDA),
            log_z=True,
            layout=wr.Layout(w=12, h=9),
        )
        for label, metric in POINTS.items()
    ]


def _lines(plots: dict[str, list[str]]) -> list[Any]:
    return [wr.LinePlot(title=title, x=STEP_AXIS, y=list(metrics)) for title, metrics in plots.items()]


def _media(key: str) -> wr.MediaBrowser:
    """A row for each run, a column for each validation."""
    title = next(title for title, shown in MEDIA.items() if shown == key)
    layout = wr.Layout(w=24, h=12)
    return wr.MediaBrowser(title=title, media_keys=[key], grid_x_axis="step", grid_y_axis="run", layout=layout)


def plotted() -> set[str]:
    """Every metric and picture that a run must log for the workspace to show it."""
    lines = {metric for plots in LINES.values() for metrics in plots.values() for metric in metrics}
    return {*lines, *POINTS.values(), RATE, *MEDIA.values()}


def as_json(workspace: ws.Workspace) -> dict[str, Any]:
    """What the server would be sent."""
    view = workspace._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": spec}


def save(workspace: ws.Workspace) -> str:
    """Save it as a new view of the project; returns its address.

    Raises:
        ConfigError: the server cannot be used, or does not know the project.
    """
    try:
        _look_for_the_server()
        workspace.entity = workspace.entity or wandb.Api().default_entity or ""
        return str(workspace.save().url)
    except Exception as error:  # the client raises many types: of its own, of requests, of GraphQL
        raise ConfigError(
            f"The workspace was not saved.\nexpected: a server that knows {workspace.entity}/{workspace.project}\n"
            f"got: {reason(error)}\nwhat to do: check --entity and --project, `wandb login` and the network; the JSON "
            "that was written is whole"
        ) from error


def _look_for_the_server() -> None:
    """Without a network the client would try again for minutes."""
    address = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, whatever it says
        urllib.request.urlopen(address, timeout=SERVER_SECONDS)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lic_train.training.dashboard", description=__doc__)
    parser.add_argument("--entity", default="", help="user or team; default: the account's")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT", "lic_train"), help="default: lic_train")
    parser.add_argument("--group", help="only the runs of one group, for example of one sweep")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the JSON goes, default: {OUT}")
    arguments = parser.parse_args(argv)
    console = Console()
    with errors_without_traceback():
        workspace = build(arguments.entity, arguments.project, arguments.group)
        atomic.replace_text(arguments.out, json.dumps(as_json(workspace), indent=1) + "\n")
        panels = sum(len(section.panels) for section in workspace.sections)
        console.print(f"{len(workspace.sections)} sections with {panels} panels, checked")
        console.print(Text(f"JSON       {arguments.out}"), soft_wrap=True)
        if has_credentials():
            console.print(Text(f"workspace  {save(workspace)}"), soft_wrap=True)
        else:
            console.print("Not saved: there are no credentials. `wandb login`, then the same command again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
