"""environment.json: correct values, null for unknown ones, and no errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lic_train
from lic_train.system import relaunch
from lic_train.training import environment
from lic_train.training.environment import record


@pytest.fixture(autouse=True)
def nothing_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is read from sys.argv, whatever training command this process ran before."""
    monkeypatch.setattr(relaunch, "TYPED", [])


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(["git", "-C", directory, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed repository that appears to contain this package."""
    home = tmp_path / "repository" / "lic_train"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("one = 1\n")
    git(home.parent, "init", "-q")
    git(home.parent, "add", ".")
    git(home.parent, "commit", "-q", "-m", "first")
    monkeypatch.setattr(lic_train, "__file__", str(home / "__init__.py"))
    return home


def test_machine_packages_and_command_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "model=cwam"])
    record(tmp_path, [])
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["command"][1:] == ["train.py", "model=cwam"]
    assert found["packages"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert found["torch"]["version"] == torch.__version__
    assert found["cpu"]["cores"] >= 1
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


@needs_git
def test_clean_repository_has_no_diff(tmp_path: Path, package: Path) -> None:
    found = record(tmp_path, [])["code"]
    assert found["commit"] == git(package, "rev-parse", "HEAD").strip()
    assert found["dirty"] is False
    assert not (tmp_path / "dirty.diff").exists()


@needs_git
def test_recorded_diff_can_be_applied(tmp_path: Path, package: Path) -> None:
    (package / "__init__.py").write_text("one = 2\n")
    (package / "new.py").write_text("")
    found = record(tmp_path, [])["code"]
    assert found["dirty"] is True
    assert found["untracked"] == ["lic_train/new.py"]
    git(package.parent, "checkout", "-q", ".")
    git(package.parent, "apply", str(tmp_path / "dirty.diff"))
    assert (package / "__init__.py").read_text() == "one = 2\n"
    git(package.parent, "checkout", "-q", ".")
    (package / "new.py").unlink()
    record(tmp_path, [])
    assert not (tmp_path / "dirty.diff").exists()


@needs_git
def test_large_diff_is_truncated(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAX_DIFF_BYTES", 1000)
    (package / "__init__.py").write_text("x = 1\n" * 10_000)
    record(tmp_path, [])
    text = (tmp_path / "dirty.diff").read_text()
    assert 1000 < len(text) < 1200
    assert "truncated to 1000" in text


@needs_git
def test_unrelated_repository_is_ignored(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = package.parent / "site-packages" / "lic_train"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(lic_train, "__file__", str(installed / "__init__.py"))
    assert record(tmp_path, [])["code"]["commit"] is None


def test_missing_git_gives_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = record(tmp_path, [])
    assert found["code"]["commit"] is None
    assert found["packages"]


def test_earlier_starts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        monkeypatch.setattr(sys, "argv", ["train.py", f"trainer.devices={number}"])
        record(tmp_path, [])
    found = json.loads((tmp_path / "environment.json").read_text())
    assert [start["command"][-1] for start in found["earlier"]] == ["trainer.devices=0", "trainer.devices=1"]
    (tmp_path / "environment.json").write_text('{"started"')
    assert record(tmp_path, [])["earlier"] == []
