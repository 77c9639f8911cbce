"""The folder of Hydra's configuration groups."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def _folder() -> Path:
    try:
        return Path(str(resources.files("lic_train.conf")))
    except ModuleNotFoundError:  # this file is imported from a clone, and the clone is not the installed package
        return Path(__file__).resolve().parents[2] / "conf"


CONF_DIR = _folder()
