"""Arguments of ``lic report`` and ``lic card``, without importing PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from lic_train.system.arguments import at_least, command_parser


def report_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic report``."""
    parser = command_parser(
        "report",
        "Write one HTML page with the rate-distortion curves, BD-rates, tables, photographs and training curves of all "
        "runs below a folder, and every table and figure as files for a paper.",
        "lic report outputs/\nlic report outputs/ --set kodak --anchor hevc --pictures 6\n"
        "lic report outputs/ --paper iblic\nlic report outputs/ --cite published.tsv --anchor vtm18",
    )
    parser.add_argument("outputs", type=Path, metavar="OUTPUTS", help="tree of run directories")
    parser.add_argument("--set", help="set of pictures (default: kodak, or else the set of most evaluations)")
    parser.add_argument("--anchor", metavar="KEY", help="reference curve of BD-rates: vvc (default), jpeg, cwam, ...")
    parser.add_argument("--paper", metavar="NAME", help="add a paper's tables and figures: iblic, gcab_gmm, ...")
    parser.add_argument(
        "--cite", type=Path, metavar="TABLE", help="TSV file of published points; its curves join this tree's reports"
    )
    parser.add_argument("--root", type=Path, help="folder of the original photographs (default: as in the runs)")
    parser.add_argument("--pictures", type=at_least(0), default=3, help="number of photographs to compare (default: 3)")
    parser.add_argument("--out", type=Path, help="folder of the report (default: OUTPUTS/report)")
    return parser


def card_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic card``."""
    parser = command_parser("card", "Write card.md into every finished run.", "lic card outputs/")
    parser.add_argument("outputs", type=Path, metavar="OUTPUTS", help="tree of run directories, or one run directory")
    return parser
