"""Training, coding and evaluation of learned image compression.

The public API is `load`, `evaluate` and `bd_rate`; every other module is internal and may change in any release.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import TYPE_CHECKING, Any

from lic_train.moved import MovedCommands
from lic_train.system.interrupts import end_on_signals

if TYPE_CHECKING:
    from lic_train.codec.load import load
    from lic_train.evaluate.api import evaluate
    from lic_train.report.api import bd_rate

__all__ = ["__version__", "bd_rate", "evaluate", "load"]
__version__ = "0.1.0"

# The packages behind the API take seconds to import (PyTorch), so they are imported on first use.
_LAZY = {"load": "lic_train.codec.load", "evaluate": "lic_train.evaluate", "bd_rate": "lic_train.report.api"}

# Warnings inside other packages that a user cannot act on.
for _message in (
    ".*torch.jit.script.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    "You have overridden `(on_after_batch_transfer|transfer_batch_to_device)`.*",
):
    warnings.filterwarnings("ignore", message=_message)

if sys.argv[:1] == ["-m"]:  # python -m lic_train..., which now imports the packages of its command
    end_on_signals()

if not any(isinstance(finder, MovedCommands) for finder in sys.meta_path):
    sys.meta_path.append(MovedCommands())


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if name == "evaluate" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
