"""What pip installs: every package, configuration and template; and training from the installed copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_listed_packages_are_those_of_the_tree():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "lic_train").rglob("*.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"lic_train.conf", "hydra_plugins"}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == expected


def test_clone_that_is_not_the_installed_package_uses_its_own_configuration():
    code = (
        "import sys; sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]; "
        "from lic_train.config.folder import CONF_DIR; print(CONF_DIR)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ROOT / "conf")


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """The content of a wheel that was built from a copy of the repository."""
    copy, target = tmp_path_factory.mktemp("copy") / "repository", tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "outputs", "site", "*.egg-info", "__pycache__", "build", ".*cache"
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    build = f"import setuptools.build_meta as backend; backend.build_wheel({str(target)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_wheel_has_every_configuration_and_template(installed):
    for source, place in ((ROOT / "conf", "lic_train/conf"), (ROOT / "lic_train", "lic_train")):
        files = [path for path in source.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".md")]
        assert files
        for path in files:
            assert (installed / place / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert "lic = lic_train.cli:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text()


def test_sweep_of_an_outside_model_trains_from_the_installed_copy(installed, tmp_path):
    command = [
        "model=thin", "-m", "lambda=0.01", "hydra.searchpath=[pkg://lic_outside.conf]", "steps=2", "batch_size=2",
        "crop=64", "validate.crops=1", "validate.bitstreams=0", "eval.limit=1", "logger=csv", "precision=32",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    path = os.pathsep.join([str(installed), str(ROOT / "tests" / "outside_package")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import lic_train, lic_train.conf as c; print(lic_train.__file__, c.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.count(str(installed)) == 2
    run = [sys.executable, "-W", "ignore", "-m", "lic_train", "train", *command]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "outputs" / "thin" / "thin" / "lambda_0.01"
    assert yaml.safe_load((folder / "finished.json").read_text())["step"] == 2
    assert yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())["choice"] == {
        "model": "thin",
        "recipe": "thin",
    }
    assert (folder / "eval" / "heldout.json").is_file()
