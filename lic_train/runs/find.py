"""Runs below a folder: what a whole ``outputs/`` tree or a sweep is made of."""

from __future__ import annotations

import os
from pathlib import Path

from lic_train.errors import CheckpointError

_PARTS = frozenset({"checkpoints", "eval", "pictures", "wandb", ".hydra"})  # of a run; none holds further runs


def find_runs(path: Path) -> list[Path]:
    """``path`` itself if it is a run or a model's file, else every run below it, sorted.

    A run is a folder with ``checkpoints/`` and ``.hydra/config.yaml``. Runs that were moved aside
    (``<name>.old-N``, by ``fresh=true``) are left out.

    Raises:
        CheckpointError: there is nothing.
    """
    if not path.exists():
        raise CheckpointError(f"expected a run directory, a model or a folder with runs, got {path}: no such file")
    if path.is_file() or (path / "checkpoints").is_dir():
        return [path]
    runs = []
    for folder, names, _ in os.walk(path):
        here = Path(folder)
        if (here / "checkpoints").is_dir() and (here / ".hydra" / "config.yaml").is_file():
            runs.append(here)
        names[:] = sorted(name for name in names if name not in _PARTS and ".old-" not in name)
    if not runs:
        raise CheckpointError(f"expected runs below {path}, got none; train first: python train.py ...")
    return sorted(runs)
