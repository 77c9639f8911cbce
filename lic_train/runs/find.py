"""Search for run directories below a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lic_train.errors import CheckpointError
from lic_train.runs.layout import CHECKPOINTS, CONFIG, EVAL, FINISHED, METRICS, results_folder

_MARKS = (CONFIG.parts[0], CHECKPOINTS, FINISHED, METRICS)  # a folder with one of these is a run directory
_OTHERS = ("anchors", "complexity", "report")  # folders of outputs/ that contain no runs
_MAX_DEPTH = 8
_ASIDE = re.compile(r"\.old-\d+$")


def run_directories(root: Path) -> Iterator[Path]:
    """Yield ``root`` if it is a run directory, otherwise every run directory below it, sorted.

    Symbolic links are not followed, and run directories are not searched for nested ones.
    """
    return (path for path, _, is_run in _folders(root) if is_run)


def model_files(root: Path) -> Iterator[Path]:
    """Yield every model file below ``root`` that is outside run directories and was evaluated, sorted by folder."""
    for folder, files, is_run in _folders(root):
        models = [] if is_run else sorted(file for file in files if file.endswith(".safetensors"))
        yield from (folder / file for file in models if (results_folder(folder / file) / EVAL).is_dir())


def _folders(root: Path) -> Iterator[tuple[Path, list[str], bool]]:
    """Yield every folder to search, its files, and whether it is a run directory."""
    for folder, names, files in os.walk(root):
        path = Path(folder)
        is_run = any(mark in names or mark in files for mark in _MARKS)
        yield path, files, is_run
        if is_run or len(path.relative_to(root).parts) >= _MAX_DEPTH:
            names.clear()
        else:
            names[:] = sorted(name for name in names if not name.startswith(".") and name not in _OTHERS)


def moved_aside(run: Path) -> bool:
    """Return whether ``fresh=true`` renamed this run directory to ``<name>.old-N``."""
    return _ASIDE.search(run.name) is not None


def find_runs(path: Path) -> list[Path]:
    """Return ``path`` itself if it is a run or a model file, otherwise every run with checkpoints below it, sorted.

    Runs that were moved aside are excluded.

    Raises:
        CheckpointError: there is no run.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist.", expected="a run directory, a model file or a folder that contains runs"
        )
    if path.is_file() or (path / CHECKPOINTS).is_dir():
        return [path]
    runs = [run for run in run_directories(path) if _can_be_evaluated(run)]
    if not runs:
        raise CheckpointError(f"There are no runs with checkpoints in {path}.", to_do="train first: lic train ...")
    return runs


def _can_be_evaluated(run: Path) -> bool:
    return (run / CHECKPOINTS).is_dir() and (run / CONFIG).is_file() and not moved_aside(run)
