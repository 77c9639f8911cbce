"""Hydra's search path: YAML files of a package outside of lic_train. tests/test_packaging.py trains its model."""

from __future__ import annotations

import pytest

from lic_train.config.command_line import prepare
from lic_train.errors import ConfigError
from lic_train.system import relaunch
from tests.conftest import ROOT

FOLDER = str(ROOT / "tests" / "outside_package" / "lic_outside" / "conf")


@pytest.fixture(autouse=True)
def _no_search_path():
    yield
    relaunch.COMMON.clear()


@pytest.mark.parametrize(
    "words",
    [
        ["--config-dir", FOLDER, "-m", "model=thin", "lambda=0.01,0.02"],
        ["model=thin", "-m", f"--config-dir={FOLDER}", "lambda=0.01,0.02"],
        ["model=thin", "lambda=0.01,0.02", "-cd", FOLDER, "-m"],
    ],
)
def test_flags_may_stand_anywhere_and_folders_reach_every_process(words):
    prepared = prepare(words)
    assert prepared == ["-m", "model=thin", "lambda=0.01,0.02", f"hydra.searchpath=['file://{FOLDER}']"]
    assert relaunch.train_command(["x=1"])[-1] == prepared[-1]


def test_names_of_the_search_path_are_suggested():
    with pytest.raises(ConfigError, match="did you mean thin"):
        prepare(["--config-dir", FOLDER, "model=thinn"])


def test_missing_folder_and_stray_words_raise():
    with pytest.raises(ConfigError, match=r"--config-dir names no folder\.\nexpected: .*\ngot: /nowhere"):
        prepare(["model=cwam", "--config-dir", "/nowhere"])
    with pytest.raises(ConfigError, match="'cwam' is not an override"):
        prepare(["lambda=0.01", "cwam"])
