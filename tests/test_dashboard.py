"""The W&B workspace shows what runs log, and a run's own chart says which pictures its lines are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image
from wandb_workspaces import workspaces as ws

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
    """Every metric and media key in a workspace's JSON, as the server finds them."""
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


def test_the_workspace_has_its_sections_and_survives_its_own_reader() -> None:
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


def test_a_group_chooses_its_runs_and_lambda_orders_them() -> None:
    (runs,) = dashboard.as_json(dashboard.build("me", "pictures", "mine"))["spec"]["section"]["runSets"]
    (one,) = runs["filters"]["filters"]
    assert (one["key"], one["op"], one["value"]) == ({"section": "run", "name": "group"}, "=", "mine")
    assert runs["sort"]["keys"] == [{"key": {"section": "config", "name": "lambda"}, "ascending": True}]
    (all_runs,) = dashboard.as_json(dashboard.build("me", "pictures", None))["spec"]["section"]["runSets"]
    assert all_runs["filters"]["filters"] == []


def test_a_run_logs_all_that_the_workspace_plots(tmp_path: Path) -> None:
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
    logged = {
        (item.nested_key or [item.key])[0] for row in rows for item in row.item
    }  # a picture has keys below its own
    plotted = shown(dashboard.as_json(dashboard.build("me", "pictures", None)))
    assert plotted == dashboard.plotted() | {dashboard.STEP_AXIS}
    assert plotted <= logged
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
def test_without_credentials_the_json_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "dashboard.json"
    assert dashboard.main(["--group", "mine", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert (content["project"], content["name"]) == ("lic_train", "lic_train, mine")
    assert shown(content["spec"]) >= dashboard.plotted()
    said = capsys.readouterr().out
    assert str(out) in said.replace("\n", "")
    assert "wandb login" in said


@pytest.mark.usefixtures("_no_credentials")
def test_with_credentials_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[ws.Workspace] = []

    def save(self: ws.Workspace) -> ws.Workspace:
        saved.append(self)
        self._internal_name = "nw-abc-v"
        return self

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(dashboard, "_look_for_the_server", lambda: None)
    monkeypatch.setattr(ws.Workspace, "save", save)
    monkeypatch.setattr(ws.Workspace, "url", property(lambda self: f"https://example.org/{self.entity}/{self.project}"))
    assert dashboard.main(["--entity", "me", "--project", "pictures", "--out", str(tmp_path / "d.json")]) == 0
    assert (saved[0].entity, saved[0].project) == ("me", "pictures")
    assert "https://example.org/me/pictures" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_credentials")
def test_a_server_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the port that discards
    with pytest.raises(SystemExit) as ended:
        dashboard.main(["--entity", "me", "--out", str(tmp_path / "d.json")])
    assert ended.value.code == 2
    assert "me/lic_train" in capsys.readouterr().err
    assert (tmp_path / "d.json").exists()


# --- the run's own chart ---------------------------------------------------------------------------------------------


class Coding(Tiny):
    """Whose pictures cost less and look better with every step."""

    def on_validation_epoch_end(self) -> None:
        step = float(self.global_step)
        self.log_dict({"val/bpp_file": 1 / step, "val/psnr_file": 30 + step, "val/ms_ssim_db_file": 10 + step})


def test_the_points_of_a_resumed_run_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "save_model", lambda *_: None)
    for steps in (2, 4):
        points = RateDistortion(tmp_path / "pictures", "tiny", "kodak")
        callbacks = [points, Checkpoints(tmp_path, every=2)]
        fit(Coding(), callbacks, steps, resume=newest_intact(tmp_path), val_check_interval=1)
    assert points.points == [RatePoint(step, pytest.approx(1 / step), 30 + step, 10 + step) for step in (1, 2, 3, 4)]
    with Image.open(tmp_path / "pictures" / "rate_distortion.png") as drawn:
        assert drawn.width > 1.5 * drawn.height  # PSNR and MS-SSIM
        assert np.asarray(drawn.convert("RGB")).std() > 5


def test_lines_are_named_with_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    anchor = Curve("jpeg", "JPEG 4:4:4", "anchor", "kodak", (Point("quality 20", 0.5, 28.0), Point("40", 0.8, 31.0)))
    save_curve(tmp_path / "kodak" / "jpeg.json", anchor)
    monkeypatch.setattr(rate_distortion, "ANCHORS", tmp_path)
    monkeypatch.setattr(
        rate_distortion.Axes, "legend", lambda axes, **_: told.extend(axes.get_legend_handles_labels()[1])
    )
    monkeypatch.setattr(rate_distortion.Figure, "suptitle", lambda figure, text, **_: told.append(text))
    points = [RatePoint(5, 1.0, 25.0, None), RatePoint(10, 0.7, 27.0, None)]
    draw(tmp_path / "chart.png", "cwam, lambda 0.0067", points, stored_anchors("kodak"))
    assert told[:2] == ["JPEG 4:4:4 (kodak)", "cwam, lambda 0.0067, step 10 (validation pictures)"]
    assert "kodak" in told[2]
    assert "not to compare" in told[2]
    assert stored_anchors("heldout") == []
