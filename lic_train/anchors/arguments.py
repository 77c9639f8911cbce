"""Arguments of ``lic anchors``, without importing PyTorch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lic_train.system.arguments import at_least, command_parser

CODECS = ("jpeg", "jpeg2000", "webp", "avif", "jxl", "hevc", "av1", "vvc")


def anchors_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic anchors``."""
    parser = command_parser(
        "anchors",
        "Encode a set of pictures with classical codecs: real files, decoded again and measured like a model. "
        "The same command continues an interrupted one.",
        "lic anchors --set kodak\nlic anchors --set holiday --root /photographs --codec jpeg hevc --jobs 8",
    )
    sets = "kodak or another set of conf/eval; any name with --root"
    parser.add_argument("--set", required=True, metavar="NAME", help=sets)
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of the pictures (default: as in conf/eval)")
    names = f"any of {', '.join(CODECS)} (default: all)"
    parser.add_argument("--codec", nargs="+", choices=CODECS, metavar="CODEC", help=names)
    jobs = "files made at once (default: the number of cores, %(default)s)"
    parser.add_argument("--jobs", type=at_least(1), metavar="N", default=os.cpu_count() or 1, help=jobs)
    return parser
