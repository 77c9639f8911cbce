"""Arguments of ``lic dashboard``, without importing PyTorch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lic_train.system.arguments import command_parser

OUT = Path("outputs/dashboard.json")


def dashboard_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic dashboard``."""
    parser = command_parser(
        "dashboard",
        "Save the W&B workspace with the charts of all runs; without credentials write it as JSON.",
        "lic dashboard --group cwam\nlic dashboard --entity lab --project codecs",
    )
    parser.add_argument("--entity", default="", help="user or team; default: the account's")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT", "lic_train"), help="default: lic_train")
    parser.add_argument("--group", help="only the runs of one group, for example of one sweep")
    parser.add_argument("--out", type=Path, default=OUT, help=f"path of the JSON file, default: {OUT}")
    return parser
