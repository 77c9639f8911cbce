"""The ``lic`` command: dispatch, help without PyTorch, and unknown names."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from lic_train import cli
from lic_train.moved import MOVED

HEAVY = ("torch", "lightning", "hydra", "matplotlib")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def imported_by(arguments: list[str]) -> tuple[set[str], str]:
    """The heavy packages that ``lic ARGUMENTS`` imports, and its output."""
    code = f"""
import sys
from lic_train.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
print("imported", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    text, _, last = done.stdout.strip().rpartition("imported")
    return set(last.split()), text


def test_help_lists_every_command_with_examples_and_imports_nothing_heavy():
    imported, text = imported_by(["--help"])
    assert imported == set()
    assert all(name in text for name in cli.COMMANDS)
    assert "lic train model=cwam lambda=0.0067" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_has_an_example_and_imports_nothing_heavy(name):
    imported, text = imported_by([*name.split(), "--help"])
    assert imported == set()
    assert f"lic {name}" in text
    assert "example" in text


def test_import_of_the_package_is_light():
    done = run_python(f"import sys, lic_train; print({{*{HEAVY!r}}} & {{*sys.modules}}, dir(lic_train))")
    assert done.stdout.strip() == "set() ['__version__', 'bd_rate', 'evaluate', 'load']"


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["trian"], "did you mean train?"),
        (["decompres", "x"], "did you mean decompress"),
        (["data", "chek"], "did you mean data check"),
        (["data", "x"], "data check"),
        (["xyzzy"], "lic --help"),
    ],
)
def test_unknown_command_names_the_nearest(words, suggestion, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert suggestion in error
    assert f"got: {' '.join(words[:2]) if words[0] == 'data' else words[0]}" in error


def test_version_and_a_command_without_arguments(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lic_train 0.")
    assert cli.main([]) == 0
    assert cli.main(["data"]) == 0
    assert capsys.readouterr().out.count("usage: lic COMMAND") == 2


def test_exit_code_of_a_command_is_that_of_lic(tmp_path, capsys):
    assert (
        cli.main(["compress", str(tmp_path / "x.png"), str(tmp_path / "x.lic"), "--run", str(tmp_path / "none")]) == 2
    )
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["lic_train", "lic_train.checkpoint"])
def test_python_m_runs_the_command(module):
    done = subprocess.run([sys.executable, "-W", "error", "-m", module, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize("module", MOVED)
def test_former_names_are_the_moved_modules(module):
    former, moved = find_spec(module), find_spec(MOVED[module])
    assert former is not None
    assert moved is not None
    assert former.origin == moved.origin
