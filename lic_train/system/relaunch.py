"""The command line that starts another training process of this program."""

from __future__ import annotations

import sys
from collections.abc import Sequence

TRAIN = ("-m", "lic_train.train")  # found in any working directory, as the package is installed
COMMON: list[str] = []  # overrides of every process of this command, such as hydra.searchpath


def train_command(overrides: Sequence[str]) -> list[str]:
    """Return the command that trains one run with these overrides; never a sweep."""
    return [sys.executable, *TRAIN, *overrides, *COMMON]
