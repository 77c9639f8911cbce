"""Arguments of ``lic data check``, ``lic data prepare`` and ``lic data download``, without importing PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from lic_train.system.arguments import at_least, command_parser


def check_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic data check``."""
    parser = command_parser(
        "data check",
        "Decode a data set before training on it: list damaged, small and duplicate pictures, and write a page.",
        "lic data check /photographs\nlic data check 'shard-{0000..0099}.tar' --crop 256 --jobs 8",
    )
    parser.add_argument("root", help="any value of data.root=: a folder, an archive, a pattern, an address")
    parser.add_argument(
        "--crop", type=at_least(1), default=256, help="side of the training crops in pixels (default: 256)"
    )
    parser.add_argument("--jobs", type=at_least(1), help="processes (default: all cores)")
    parser.add_argument("--to", type=Path, default=Path("outputs/data_check"), help="folder of report and page")
    return parser


def prepare_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic data prepare``."""
    parser = command_parser(
        "data prepare",
        "Cut large photographs into lossless tiles in tar shards.",
        "lic data prepare /photographs /tiles\nlic data prepare /photographs /tiles --cut patches --seed 1",
    )
    parser.add_argument("root", help="photographs, any value of data.root= with data=folder")
    parser.add_argument("out", type=Path, help="folder for the shards; then data=folder data.root=OUT")
    cuts = "grid: tiles that cover each photograph (default); patches: random 256-pixel patches of photographs scaled "
    parser.add_argument("--cut", default="grid", help=cuts + "down by 0.6 to 1.0, as used for GCAB and GAACNN")
    parser.add_argument("--side", type=at_least(1), default=384, help="side of the tiles in pixels (default: 384)")
    parser.add_argument("--format", default="ppm", help="ppm: raw, fastest (default); webp or png: half the size, slow")
    parser.add_argument("--per-shard", type=at_least(1), default=64, help="photographs of one shard (default: 64)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the random patches")
    ratio = "fraction of validation photographs, if ROOT has no val/"
    parser.add_argument("--val-ratio", type=float, default=0.01, help=ratio)
    parser.add_argument("--jobs", type=at_least(1), help="processes (default: all cores)")
    parser.add_argument("--verify", action="store_true", help="only read and verify existing shards")
    return parser


def download_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic data download``."""
    parser = command_parser(
        "data download",
        "Download a public evaluation set and verify every file.",
        "lic data download kodak\nlic data download kodak --from /mnt/kodak",
    )
    parser.add_argument("set", choices=["kodak"])
    parser.add_argument("--to", type=Path, help="destination folder (default: data/<set>)")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--base", help="address of the folder that contains the files")
    origin.add_argument("--from", dest="folder", type=Path, help="copy and verify from this folder instead")
    return parser
