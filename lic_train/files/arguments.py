"""Arguments of ``lic zoo``, without importing PyTorch."""

from __future__ import annotations

import argparse

from lic_train.system.arguments import command_parser


def zoo_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic zoo``."""
    parser = command_parser(
        "zoo",
        "Import weights that the authors of a model published, or CompressAI, as a model file of this package. Model "
        "and widths are recognised from the tensors.",
        "lic zoo stf_0067_best.pth.tar stf_0067.safetensors\n"
        "lic zoo checkpoint.pth.tar tinylic.safetensors --quality-from q3\n"
        "lic zoo weights.pth.tar zoo.safetensors model=mbt2018_mean lambda=0.0067",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE ... OUT.safetensors | KEY=VALUE",
        help="the file, or the files over which the authors distribute one model, and the file to write; overrides: "
        "lambda= distortion= model= model.N=, as in conf/zoo.yaml",
    )
    parser.add_argument(
        "--quality-from",
        metavar="NAME",
        help="name by which the authors published the file, if it has another one here; selects lambda and the "
        "published result",
    )
    return parser
