"""``lic report OUTPUTS [--set kodak] [--anchor vvc] [--paper NAME] [--root FOLDER] [--out FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lic_train.errors import LicError
from lic_train.report.build import Options, Written, build
from lic_train.system.screen import say_error

_LISTED = 8  # omissions that are printed


def main(argv: list[str] | None = None) -> int:
    """Write the report; return 0, or 2 after an error."""
    arguments = _parser().parse_args(argv)
    options = Options(
        outputs=arguments.outputs,
        out=arguments.out or arguments.outputs / "report",
        set=arguments.set,
        anchor=arguments.anchor,
        paper=arguments.paper,
        root=arguments.root,
        pictures=arguments.pictures,
    )
    try:
        written = build(options)
    except (LicError, OSError) as error:
        say_error(error)
        return 2
    _show(written, Console())
    return 0


def _show(written: Written, console: Console) -> None:
    for item in written.left_out[:_LISTED]:
        console.print(Text.assemble(("left out ", "yellow"), f"{item.what}: {item.reason}"), soft_wrap=True)
    if len(written.left_out) > _LISTED:
        console.print(Text(f"left out {len(written.left_out) - _LISTED} more, listed on the page", "yellow"))
    for what, place in written.places.items():
        console.print(Text(f"{what:8} {place}"), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lic report",
        description="Write one HTML page with the rate-distortion curves, BD-rates, tables, photographs and training "
        "curves of all runs below a folder, and every table and figure as a file for a paper.",
    )
    parser.add_argument("outputs", type=Path, metavar="OUTPUTS", help="tree of run directories")
    parser.add_argument("--set", help="set of pictures (default: kodak, or else the set of most evaluations)")
    parser.add_argument("--anchor", metavar="KEY", help="reference curve of BD-rates: vvc (default), jpeg, cwam, ...")
    parser.add_argument("--paper", metavar="NAME", help="add a paper's tables and figures: iblic, gcab_gmm, ...")
    parser.add_argument("--root", type=Path, help="folder of the original photographs (default: as in conf/eval)")
    parser.add_argument("--pictures", type=int, default=3, help="number of photographs to compare (default: 3)")
    parser.add_argument("--out", type=Path, help="folder of the report (default: OUTPUTS/report)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
