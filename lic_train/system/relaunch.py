"""Command lines of this program: the one that the user typed, and the one that starts another training process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

TRAIN = ("-m", "lic_train.train")  # a module of the installed package, so it is found in every working directory
COMMON: list[str] = []  # overrides of every process of this command, such as hydra.searchpath
TYPED: list[str] = []  # arguments as the user typed them, before they are rewritten for Hydra
_PACKAGE = Path(__file__).resolve().parents[1]


def train_command(overrides: Sequence[str]) -> list[str]:
    """Return the command that trains one run with these overrides; never a sweep."""
    return [sys.executable, *TRAIN, *overrides, *COMMON]


def typed_command() -> list[str]:
    """Return the training command of this process as it can be typed again.

    It is ``python train.py ...`` if the user's script of that name was run, and ``lic train ...`` otherwise, which is
    the same as ``python -m lic_train.train ...``.
    """
    program = Path(sys.argv[0])
    script = program.name == "train.py" and program.resolve().parent != _PACKAGE
    return [*(("python", str(program)) if script else ("lic", "train")), *(TYPED or sys.argv[1:])]
