"""``python -m lic_train.report OUTPUTS [--set kodak] [--anchor vvc] [--paper NAME] [--root FOLDER] [--out FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lic_train.errors import LicError
from lic_train.report.build import Wish, Written, build
from lic_train.system.screen import say_error

_LISTED = 8  # of the things left out, on the screen


def main(argv: list[str] | None = None) -> int:
    """Write the report; returns 0, or 2 after an error."""
    arguments = _parser().parse_args(argv)
    wish = Wish(
        outputs=arguments.outputs,
        out=arguments.out or arguments.outputs / "report",
        set=arguments.set,
        anchor=arguments.anchor,
        paper=arguments.paper,
        root=arguments.root,
        pictures=arguments.pictures,
    )
    try:
        written = build(wish)
    except (LicError, OSError) as error:
        say_error(error)
        return 2
    _show(written, Console())
    return 0


def _show(written: Written, console: Console) -> None:
    for item in written.left_out[:_LISTED]:
        console.print(Text.assemble(("left out ", "yellow"), f"{item.what}: {item.reason}"), soft_wrap=True)
    if len(written.left_out) > _LISTED:
        console.print(Text(f"left out {len(written.left_out) - _LISTED} more; the page lists them", "yellow"))
    for what, place in written.places.items():
        console.print(Text(f"{what:8} {place}"), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lic_train.report",
        description="Curves, BD-rates, tables, photographs and trainings of all runs below a folder, as one HTML page.",
    )
    parser.add_argument("outputs", type=Path, metavar="OUTPUTS", help="tree of run directories")
    parser.add_argument("--set", help="set of pictures (default: kodak, or else the one of most runs)")
    parser.add_argument("--anchor", metavar="KEY", help="curve that BD-rates are over: vvc (default), jpeg, cwam, ...")
    parser.add_argument("--paper", metavar="NAME", help="add a paper's tables and figures: iblic, gcab_gmm, ...")
    parser.add_argument("--root", type=Path, help="folder of the original photographs (default: as in conf/eval)")
    parser.add_argument("--pictures", type=int, default=3, help="photographs to compare (default: 3; 0: none)")
    parser.add_argument("--out", type=Path, help="folder of the report (default: OUTPUTS/report)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
