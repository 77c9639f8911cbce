"""Checkpoints of a run directory: names, integrity and order."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from lic_train.errors import CheckpointError
from lic_train.runs.layout import LAST
from lic_train.system.screen import reason, say

STEP_FILE = re.compile(r"step_(\d{8,})\.ckpt")


def step_file(directory: Path, step: int) -> Path:
    """The numbered checkpoint of an optimizer step."""
    return directory / f"step_{step:08d}.ckpt"


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a training checkpoint onto the CPU and check every byte of it by the file's own CRC-32.

    Raises:
        CheckpointError: missing, cut short, damaged, or not a checkpoint of a training run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not look at the checksums that it writes
        if damaged:
            raise zipfile.BadZipFile(f"wrong checksum in {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # strange bytes can raise anything inside an unpickler
        raise _not_a_checkpoint(path, reason(error)) from error
    if not (isinstance(content, dict) and {"state_dict", "global_step", "loops"} <= content.keys()):
        raise _not_a_checkpoint(path, "a torch file that holds something else")
    return content


def _not_a_checkpoint(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a whole checkpoint.\n"
        "expected: a file written by train.py (weights, optimizer and position)\n"
        f"got: {got}\n"
        "what to do: run the same command again, which continues from the newest whole checkpoint of the run."
    )


def step_of(path: Path) -> int:
    """The optimizer step at which a checkpoint was written; raises CheckpointError if only a broken file could tell."""
    return step_number(path) if STEP_FILE.fullmatch(path.name) else int(read_checkpoint(path, mmap=True)["global_step"])


def step_files(directory: Path) -> list[Path]:
    """The numbered checkpoints in ``directory``, oldest step first."""
    return sorted((path for path in directory.glob("step_*.ckpt") if STEP_FILE.fullmatch(path.name)), key=step_number)


def step_number(path: Path) -> int:
    """The optimizer step in the name of a numbered checkpoint."""
    return int(path.stem.removeprefix("step_"))


def newest_intact(directory: Path) -> Path | None:
    """The newest checkpoint that can be read to its last byte; each broken one is named in a line and passed over."""
    candidates = [*reversed(step_files(directory)), directory / LAST]
    for path in candidates:
        if not path.exists():
            continue
        try:
            read_checkpoint(path, mmap=True)
        except CheckpointError as error:
            got = next(line for line in str(error).splitlines() if line.startswith("got: "))
            say(f"Passing over a broken checkpoint: {path} ({got.removeprefix('got: ')})", style="yellow")
        else:
            return path
    return None
