"""The W&B workspace plots metrics that runs log; the legend of a run's own chart names the image sets."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image
from wandb_workspaces import workspaces as ws

from lic_train.anchors import stored
from lic_train.rd.curves import Curve, Point
from lic_train.rd.curves import save as save_curve
from lic_train.runs.checkpoints import newest_intact
from lic_train.training import dashboard
from lic_train.training.callbacks import Checkpoints, RateDistortion, checkpoints, rate_distortion
from lic_train.training.callbacks.rate_distortion import RatePoint, draw, stored_anchors
from tests.small_runs import Forked, make_photographs, overrides, run_here
from tests.test_loggers import records
from tests.tiny_training import Tiny, fit


def shown(content: Any) -> set[str]:
    """Return every metric and media key in a workspace's JSON."""
    if isinstance(content, list):
        return set().union(*map(shown, content))
    if not isinstance(content, dict):
        return set()
    axes = {
        str(content[axis]).removeprefix("summary:")
        for axis in ("xAxis", "yAxis", "zAxis")
        if "/" in str(content.get(axis))
    }
    return axes.union(content.get("metrics", []), content.get("mediaKeys", []), *map(shown, content.values()))


def plotted() -> set[str]:
    """Return every metric and picture that a run must log for the workspace to show it."""
    lines = {metric for plots in dashboard.LINES.values() for metrics in plots.values() for metric in metrics}
    return {*lines, *dashboard.POINTS.values(), dashboard.RATE, *dashboard.MEDIA.values()}


def test_workspace_sections_survive_a_round_trip() -> None:
    workspace = dashboard.build("me", "pictures", "rd_curve-cwam")
    names = ["Rate and distortion", "Losses by stage", "Estimate and file", "Throughput", "Reconstructions by lambda"]
    assert [section.name for section in workspace.sections] == names
    scatter = workspace.sections[0].panels[0]
    assert (scatter.x.name, scatter.y.name, scatter.z.name) == ("val/bpp_file", "val/psnr_file", "lambda")
    again = ws.Workspace._from_model(workspace._to_model())
    assert [section.name for section in again.sections] == names
    assert [[panel.title for panel in section.panels] for section in again.sections] == [
        [panel.title for panel in section.panels] for section in workspace.sections
    ]


def test_group_filters_runs_and_lambda_sorts_them() -> None:
    (runs,) = dashboard.as_json(dashboard.build("me", "pictures", "mine"))["spec"]["section"]["runSets"]
    (one,) = runs["filters"]["filters"]
    assert (one["key"], one["op"], one["value"]) == ({"section": "run", "name": "group"}, "=", "mine")
    assert runs["sort"]["keys"] == [{"key": {"section": "config", "name": "lambda"}, "ascending": True}]
    (all_runs,) = dashboard.as_json(dashboard.build("me", "pictures", None))["spec"]["section"]["runSets"]
    assert all_runs["filters"]["filters"] == []


def test_run_logs_all_metrics_of_the_workspace(tmp_path: Path) -> None:
    photographs = make_photographs(tmp_path / "photographs", side=176)
    more = ("logger=wandb", "steps=2", "validate.every=2", "validate.bitstreams=1", "validate.crops=1")
    command = overrides(photographs, tmp_path / "run", *more)

    def train() -> int:
        code = run_here(command)
        wandb.teardown()  # waits until the file is complete
        return code

    assert Forked(train, tmp_path / "log").result() == 0
    found = list(records(tmp_path / "run"))
    rows = [record.history for record in found if record.WhichOneof("record_type") == "history"]
    logged = {(item.nested_key or [item.key])[0] for row in rows for item in row.item}  # a picture has nested keys
    keys = shown(dashboard.as_json(dashboard.build("me", "pictures", None)))
    assert keys == plotted() | {dashboard.STEP_AXIS}
    assert keys <= logged
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert dashboard.LAMBDA in {item.key for item in run.config.update}
    (picture,) = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media/images/val/rate_distortion_*.png")
    with Image.open(picture) as drawn:
        assert np.asarray(drawn.convert("RGB")).std() > 5


@pytest.fixture
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_no_credentials")
def test_json_is_written_without_credentials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "dashboard.json"
    assert dashboard.main(["--group", "mine", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert (content["project"], content["name"]) == ("lic_train", "lic_train, mine")
    assert shown(content["spec"]) >= plotted()
    printed = capsys.readouterr().out
    assert str(out) in printed.replace("\n", "")
    assert "wandb login" in printed


@pytest.mark.usefixtures("_no_credentials")
def test_workspace_is_saved_with_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[ws.Workspace] = []

    def save(self: ws.Workspace) -> ws.Workspace:
        saved.append(self)
        self._internal_name = "nw-abc-v"
        return self

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(dashboard, "_check_server", lambda: None)
    monkeypatch.setattr(ws.Workspace, "save", save)
    monkeypatch.setattr(ws.Workspace, "url", property(lambda self: f"https://example.org/{self.entity}/{self.project}"))
    assert dashboard.main(["--entity", "me", "--project", "pictures", "--out", str(tmp_path / "d.json")]) == 0
    assert (saved[0].entity, saved[0].project) == ("me", "pictures")
    assert "https://example.org/me/pictures" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_credentials")
def test_unreachable_server_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port
    assert dashboard.main(["--entity", "me", "--out", str(tmp_path / "d.json")]) == 2
    assert "me/lic_train" in capsys.readouterr().err
    assert (tmp_path / "d.json").exists()


def test_missing_package_raises_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(dashboard.__file__)
    assert ended.value.code == 2
    assert "pip install 'lic-train[dashboard]'" in capsys.readouterr().err


# --- the run's own chart ---------------------------------------------------------------------------------------------


class Coding(Tiny):
    """Logs a lower rate and a higher quality with every step."""

    def on_validation_epoch_end(self) -> None:
        step = float(self.global_step)
        self.log_dict({"val/bpp_file": 1 / step, "val/psnr_file": 30 + step, "val/ms_ssim_db_file": 10 + step})


def test_resumed_run_has_all_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "save_model", lambda *_: None)
    for steps in (2, 4):
        points = RateDistortion(tmp_path / "pictures", "tiny", "kodak")
        callbacks = [points, Checkpoints(tmp_path, every=2)]
        fit(Coding(), callbacks, steps, resume=newest_intact(tmp_path), val_check_interval=1)
    assert points.points == [RatePoint(step, pytest.approx(1 / step), 30 + step, 10 + step) for step in (1, 2, 3, 4)]
    with Image.open(tmp_path / "pictures" / "rate_distortion.png") as drawn:
        assert drawn.width > 1.5 * drawn.height  # PSNR and MS-SSIM
        assert np.asarray(drawn.convert("RGB")).std() > 5


def test_legend_names_the_image_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    anchor = Curve("jpeg", "JPEG 4:4:4", "anchor", "kodak", (Point("quality 20", 0.5, 28.0), Point("40", 0.8, 31.0)))
    save_curve(tmp_path / "kodak" / "jpeg.json", anchor)
    monkeypatch.setattr(stored, "HERE", tmp_path)
    monkeypatch.setattr(
        rate_distortion.Axes, "legend", lambda axes, **_: texts.extend(axes.get_legend_handles_labels()[1])
    )
    monkeypatch.setattr(rate_distortion.Figure, "suptitle", lambda figure, text, **_: texts.append(text))
    points = [RatePoint(5, 1.0, 25.0, None), RatePoint(10, 0.7, 27.0, None)]
    draw(tmp_path / "chart.png", "cwam, lambda 0.0067", points, stored_anchors("kodak"))
    assert texts[:2] == ["JPEG 4:4:4 (kodak)", "cwam, lambda 0.0067, step 10 (validation images)"]
    assert "kodak" in texts[2]
    assert "not for comparison" in texts[2]
    assert stored_anchors("heldout") == []
