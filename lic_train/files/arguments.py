"""Arguments of ``lic zoo``, without importing PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from lic_train.system.arguments import command_parser


def zoo_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic zoo``."""
    parser = command_parser(
        "zoo",
        "Import weights of a CompressAI model as a model file of this package.",
        "lic zoo weights.pth.tar zoo.safetensors model=mbt2018_mean lambda=0.0067",
    )
    parser.add_argument("source", type=Path, metavar="FILE.pth.tar")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors")
    overrides = "keys of conf/zoo.yaml: model= lambda= distortion= model.N= model.M="
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
    return parser
