"""Checkpoints of a run directory: names, integrity and order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lic_train.errors import CheckpointError
from lic_train.files.limits import read_zip
from lic_train.runs.layout import LAST
from lic_train.system.screen import reason, say

STEP_FILE = re.compile(r"step_(\d{8,})\.ckpt")


def step_file(directory: Path, step: int) -> Path:
    """Return the path of the numbered checkpoint of an optimizer step."""
    return directory / f"step_{step:08d}.ckpt"


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a training checkpoint onto the CPU and verify the CRC-32 of every entry of the file.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not a checkpoint of a training run.
    """
    try:
        content = read_zip(path, mmap=mmap)
    except Exception as error:  # damaged bytes can raise any exception in the unpickler
        raise _not_a_checkpoint(path, reason(error)) from error
    if not (isinstance(content, dict) and {"state_dict", "global_step", "loops"} <= content.keys()):
        raise _not_a_checkpoint(path, "a torch file with other content")
    return content


def _not_a_checkpoint(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a complete checkpoint.",
        expected="a file written by lic train (weights, optimizer state and position)",
        got=got,
        to_do="run the same command again; it continues from the newest intact checkpoint of the run",
    )


def step_of(path: Path) -> int:
    """Return the optimizer step at which a checkpoint was written, from its name if possible.

    Raises:
        CheckpointError: the name has no step and the file is damaged.
    """
    return step_number(path) if STEP_FILE.fullmatch(path.name) else int(read_checkpoint(path, mmap=True)["global_step"])


def step_files(directory: Path) -> list[Path]:
    """Return the numbered checkpoints in ``directory``, sorted by step."""
    found = (path for path in directory.glob("step_*.ckpt") if STEP_FILE.fullmatch(path.name) and path.is_file())
    return sorted(found, key=step_number)


def step_number(path: Path) -> int:
    """Return the optimizer step in the name of a numbered checkpoint."""
    return int(path.stem.removeprefix("step_"))


def newest_intact(directory: Path) -> Path | None:
    """Return the newest intact checkpoint, None if there is none; each damaged one is reported and skipped."""
    candidates = [*reversed(step_files(directory)), directory / LAST]
    for path in candidates:
        if not path.exists():
            continue
        try:
            read_checkpoint(path, mmap=True)
        except CheckpointError as error:
            say(f"Skipping a damaged checkpoint: {path} ({error.got})", style="yellow")
        else:
            return path
    return None
