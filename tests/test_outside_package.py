"""A model in a package outside of lic_train: declared as an entry point, its YAML found by Hydra's search path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lic_train.config.compose import prepare
from lic_train.errors import ConfigError
from lic_train.system import relaunch
from tests.conftest import ROOT

PACKAGE = ROOT / "tests" / "outside_package"
RUN = [
    "model=thin", "steps=2", "batch_size=2", "crop=64", "validate.crops=1", "validate.bitstreams=0", "eval.limit=1",
    "logger=csv", "precision=32", "trainer.accelerator=cpu",
]  # fmt: skip


def lic_train(folder: Path, *arguments: str, package: Path = PACKAGE) -> subprocess.CompletedProcess[str]:
    """``python -m lic_train.train`` in ``folder``, with the outside package installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "lic_train.train", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_sweep_over_an_outside_model_trains_and_evaluates(tmp_path):
    done = lic_train(tmp_path, "-m", *RUN, "lambda=0.01,0.02", "hydra.searchpath=[pkg://lic_outside.conf]")
    assert done.returncode == 0, done.stdout + done.stderr
    for lmbda in ("0.01", "0.02"):
        run = tmp_path / "outputs" / "thin" / "thin" / f"lambda_{lmbda}"
        assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["choice"] == {
            "model": "thin",
            "recipe": "thin",
        }
        assert (run / "eval" / "heldout.json").is_file()


def test_undeclared_model_is_not_imported(tmp_path):
    copy = tmp_path / "copy"
    (copy / "lic_outside").mkdir(parents=True)
    (copy / "lic_outside" / "__init__.py").write_text("")
    (copy / "lic_outside" / "thin.py").write_text("raise SystemExit('imported')")
    folder = str(PACKAGE / "lic_outside" / "conf")
    done = lic_train(tmp_path, *RUN, "lambda=0.01", "--config-dir", folder, package=copy)
    assert done.returncode == 2
    assert "lic_outside.thin.Thin" in done.stderr
    assert "imported" not in done.stderr


@pytest.fixture
def _no_search_path():
    yield
    relaunch.COMMON.clear()


@pytest.mark.usefixtures("_no_search_path")
def test_flags_may_stand_anywhere_and_folders_reach_every_process():
    folder = str(PACKAGE / "lic_outside" / "conf")
    for words in (
        ["--config-dir", folder, "-m", "model=thin", "lambda=0.01,0.02"],
        ["model=thin", "-m", f"--config-dir={folder}", "lambda=0.01,0.02"],
        ["model=thin", "lambda=0.01,0.02", "-cd", folder, "-m"],
    ):
        prepared = prepare(words)
        assert prepared == ["-m", "model=thin", "lambda=0.01,0.02", f"hydra.searchpath=['file://{folder}']"]
        assert relaunch.train_command(["x=1"])[-1] == prepared[-1]


@pytest.mark.usefixtures("_no_search_path")
def test_names_of_the_search_path_are_suggested():
    folder = str(PACKAGE / "lic_outside" / "conf")
    with pytest.raises(ConfigError, match="did you mean thin"):
        prepare(["--config-dir", folder, "model=thinn"])
    with pytest.raises(ConfigError, match="config-dir names no folder"):
        prepare(["model=cwam", "--config-dir", "/nowhere"])
