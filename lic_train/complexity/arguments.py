"""Arguments of ``lic complexity``, without importing PyTorch."""

from __future__ import annotations

import argparse

from lic_train.system.arguments import command_parser


def complexity_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic complexity``."""
    parser = command_parser(
        "complexity",
        "Count parameters and multiply-adds of a model, and time its forward pass, encoding and decoding.",
        "lic complexity model=cwam\nlic complexity model=mbt2018_mean model.N=192 size=1920x1080 time=false\n"
        "lic complexity model=iblic variants=iblic_modules",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="options as in conf/complexity.yaml")
    return parser
