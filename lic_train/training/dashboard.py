"""The W&B workspace of a project as code: rate and distortion, losses, estimate and file, throughput, pictures.

``lic dashboard [--entity E] [--project P] [--group G] [--out FILE]`` validates it, writes its JSON, and saves it on the
server if there are credentials. Offline runs are uploaded by ``wandb sync``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import wandb
from rich.console import Console
from rich.text import Text

from lic_train.errors import ConfigError
from lic_train.runs.metric_names import (
    BPP_ESTIMATE,
    BPP_FILE,
    BPP_GAP,
    GRAD_NORM,
    IMAGES_PER_SECOND,
    LEARNING_RATE,
    MS_SSIM_DB_FILE,
    PSNR_FILE,
    SECONDS_PER_IMAGE,
    STAGE,
    TRAIN,
    VAL,
    WAITING_SHARE,
)
from lic_train.system import atomic
from lic_train.system.command import command, errors_without_traceback
from lic_train.system.screen import reason
from lic_train.training.arguments import dashboard_parser
from lic_train.training.callbacks import pictures, rate_distortion
from lic_train.training.loggers import STEP_AXIS, has_credentials

with errors_without_traceback():
    try:
        from wandb_workspaces import expr
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2 as wr
    except ImportError as error:
        raise ConfigError(
            "The dashboard needs the package wandb-workspaces.",
            expected="an installed wandb-workspaces",
            got=reason(error),
            to_do="pip install 'lic-train[dashboard]'",
        ) from error

SERVER_SECONDS = 30


def _of_both(term: str) -> list[str]:
    """Return the names of a recipe term in training and in validation."""
    return [TRAIN + term, VAL + term]


# Title and metrics of every line plot, by section. The metrics of a plot share their unit.
LINES: dict[str, dict[str, list[str]]] = {
    "Losses by stage": {
        "Loss": _of_both("loss"),
        "Stage of the recipe": [STAGE],
        "Learning rate": [LEARNING_RATE],
        "Rate: bits per pixel of crops, estimated": _of_both("bpp"),
        "Distortion: PSNR of crops [dB]": _of_both("psnr"),
        "Gradient norm before the clip": [GRAD_NORM],
    },
    "Estimate and file": {
        "Bits per pixel of whole pictures": [BPP_ESTIMATE, BPP_FILE],
        "Relative excess of the file size over the estimate": [BPP_GAP],
        "Seconds to encode, estimate and decode a picture": [SECONDS_PER_IMAGE],
    },
    "Throughput": {
        "Images per second, all devices": [IMAGES_PER_SECOND],
        "Share of the time spent waiting for data": [WAITING_SHARE],
    },
}
# Both axes are means over the same whole pictures: the run's validation pictures.
POINTS = {"PSNR [dB]": PSNR_FILE, "MS-SSIM [dB]": MS_SSIM_DB_FILE}
RATE = BPP_FILE
MEDIA = {"Points of each run with the stored anchors": rate_distortion.KEY, "Reconstructions": pictures.KEY}
LAMBDA = "lambda"  # key of the run's configuration


def build(entity: str, project: str, group: str | None) -> ws.Workspace:
    """Return the workspace of all runs of the project, or of one group, sorted by lambda."""
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
    """Return scatter plots with one point per run, its last validation, coloured by lambda."""
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
    """Return a media panel with a row per run and a column per validation."""
    title = next(title for title, shown in MEDIA.items() if shown == key)
    layout = wr.Layout(w=24, h=12)
    return wr.MediaBrowser(title=title, media_keys=[key], grid_x_axis="step", grid_y_axis="run", layout=layout)


def as_json(workspace: ws.Workspace) -> dict[str, Any]:
    """Return the content that is sent to the server."""
    view = workspace._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": spec}


def save(workspace: ws.Workspace) -> str:
    """Save the workspace as a new view of the project; return its URL.

    Raises:
        ConfigError: the server is not reachable, or the project does not exist on it.
    """
    try:
        _check_server()
        workspace.entity = workspace.entity or wandb.Api().default_entity or ""
        return str(workspace.save().url)
    except Exception as error:  # the client raises many types: its own, those of requests and of GraphQL
        raise ConfigError(
            "The workspace was not saved; its JSON file is complete.",
            expected=f"a server with the project {workspace.entity}/{workspace.project}",
            got=reason(error),
            to_do="check --entity and --project, `wandb login` and the network",
        ) from error


def _check_server() -> None:
    """Open the server's address: without a network the client would retry for minutes."""
    address = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    with contextlib.suppress(urllib.error.HTTPError):  # any answer is sufficient
        urllib.request.urlopen(address, timeout=SERVER_SECONDS)


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = dashboard_parser().parse_args(argv)
    console = Console()
    workspace = build(arguments.entity, arguments.project, arguments.group)
    atomic.replace_text(arguments.out, json.dumps(as_json(workspace), indent=1) + "\n")
    panels = sum(len(section.panels) for section in workspace.sections)
    console.print(f"{len(workspace.sections)} sections with {panels} panels, validated")
    console.print(Text(f"JSON       {arguments.out}"), soft_wrap=True)
    if has_credentials():
        console.print(Text(f"workspace  {save(workspace)}"), soft_wrap=True)
    else:
        console.print("Not saved on the server: no credentials. Run `wandb login`, then the same command again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
