"""``lic report OUTPUTS [--set kodak] [--anchor vvc] [--paper NAME] [--cite TABLE] [--out FOLDER]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from lic_train.report.arguments import report_parser
from lic_train.report.build import Options, Written, build
from lic_train.system.command import command

_LISTED = 8  # omissions that are printed


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; return 0."""
    arguments = report_parser().parse_args(argv)
    options = Options(
        outputs=arguments.outputs,
        out=arguments.out or arguments.outputs / "report",
        set=arguments.set,
        anchor=arguments.anchor,
        paper=arguments.paper,
        cite=arguments.cite,
        root=arguments.root,
        pictures=arguments.pictures,
    )
    written = build(options)
    _show(written, Console())
    return 0


def _show(written: Written, console: Console) -> None:
    for item in written.left_out[:_LISTED]:
        console.print(Text.assemble(("left out ", "yellow"), f"{item.what}: {item.reason}"), soft_wrap=True)
    if len(written.left_out) > _LISTED:
        console.print(Text(f"left out {len(written.left_out) - _LISTED} more, listed on the page", "yellow"))
    for what, place in written.places.items():
        console.print(Text(f"{what:8} {place}"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
