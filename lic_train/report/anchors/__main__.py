"""``python -m lic_train.report.anchors --set kodak [--root DIR] [--codec jpeg ...] [--jobs N]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from lic_train.errors import AnchorError, ConfigError, LicError
from lic_train.evaluate.sets import SetOptions, open_images, read_options
from lic_train.report import curves
from lic_train.report.anchors.codecs import ANCHORS, Anchor
from lic_train.report.anchors.run import Pictures, make, read_pictures
from lic_train.report.anchors.table import table
from lic_train.report.curves import Curve
from lic_train.screen import say_error, say_warning

OUTPUTS = Path("outputs") / "anchors"
VERSIONED = {  # sets whose curves are part of lic_train, and their image lists
    "kodak": "7c58032089a0c7d0623d347acfeb7174542cf115dae729fdeb44384bb96e7e08",
}


def folder(set_name: str) -> Path:
    """Where the curves of a set lie: inside the package for those that are versioned, else below ``outputs``."""
    return Path(__file__).parent / set_name if set_name in VERSIONED else OUTPUTS / set_name


def main(argv: list[str] | None = None) -> int:
    """Run the anchors; returns 0, 1 if some codec had to be left out, or 2 after an error."""
    arguments = _parser().parse_args(argv)
    try:
        pictures = read_pictures(_open(arguments.set, arguments.root))
        _check_list(arguments.set, pictures)
        chosen = [anchor for anchor in ANCHORS if anchor.key in arguments.codec]
        made, left_out = _make_all(chosen, pictures, arguments.set, arguments.jobs)
    except (LicError, OSError) as error:
        say_error(error)
        return 2
    console = Console()
    console.print(table(made, arguments.set, len(pictures.names)))
    console.print(Text(f"curves   {folder(arguments.set)}/*.json"), soft_wrap=True)
    for key, reason in left_out.items():
        say_warning(f"{key} is left out: {reason}")
    return 1 if left_out else 0


def _make_all(
    chosen: Sequence[Anchor], pictures: Pictures, set_name: str, jobs: int
) -> tuple[list[Curve], dict[str, str]]:
    """The curves, each stored as soon as it is complete, and why the others are not among them."""
    versions, left_out = _installed(chosen)
    made = []
    with _progress() as progress:
        for anchor in chosen:
            if anchor.key not in versions:
                continue
            bar = progress.add_task(anchor.key, total=len(pictures.names) * len(anchor.rates))
            try:
                curve = make(
                    anchor,
                    versions[anchor.key],
                    pictures,
                    set_name,
                    OUTPUTS / set_name / "rows",
                    jobs,
                    lambda bar=bar: progress.advance(bar),  # type: ignore[misc]
                )
            except AnchorError as error:
                left_out[anchor.key] = str(error)
                continue
            curves.save(folder(set_name) / f"{anchor.key}.json", curve)
            made.append(curve)
    return made, left_out


def _installed(chosen: Sequence[Anchor]) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the encoders that are here; reasons for the others, which are also said at once."""
    versions, missing = {}, {}
    for anchor in chosen:
        try:
            versions[anchor.key] = anchor.require()
        except AnchorError as error:
            missing[anchor.key] = str(error)
            say_warning(f"going on without {anchor.key}: {error}")
    return versions, missing


def _open(set_name: str, root: Path | None) -> Iterable[tuple[str, Tensor]]:
    if root is None:
        options = read_options([f"eval={set_name}"]).eval
        if options.root is None:
            raise ConfigError(f"expected the folder of {set_name}, got none; give it by --root")
        return open_images(options, Path())
    try:
        return open_images(SetOptions(name=set_name, root=str(root), limit=None), Path())
    except ValidationError as error:
        raise ConfigError(f"expected --set of letters, digits, '_', '-' and '.', got {set_name!r}") from error


def _check_list(set_name: str, pictures: Pictures) -> None:
    if pictures.sha256 != VERSIONED.get(set_name, pictures.sha256):
        raise AnchorError(
            f"expected the pictures that {set_name} consists of, whose curves are part of lic_train, got others "
            f"({len(pictures.names)} pictures, list {pictures.sha256[:12]}); give another name by --set"
        )


def _progress() -> Progress:
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), *times)
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _parser() -> argparse.ArgumentParser:
    keys = [anchor.key for anchor in ANCHORS]
    parser = argparse.ArgumentParser(
        prog="python -m lic_train.report.anchors",
        description="Code a set of pictures with classical codecs: real files, decoded again, measured like a model's. "
        "The same command goes on where an interrupted one stopped.",
    )
    parser.add_argument("--set", required=True, help="kodak, or another set of conf/eval; with --root any name")
    parser.add_argument("--root", type=Path, help="the pictures' folder (default: as in conf/eval)")
    parser.add_argument("--codec", nargs="+", choices=keys, default=keys, help="default: all")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--jobs", type=_positive, default=cores, help="pictures at once (default: the cores, %(default)s)"
    )
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
