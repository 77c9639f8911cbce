"""``lic anchors --set kodak [--root DIR] [--codec jpeg ...] [--jobs N]``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from lic_train.anchors.arguments import anchors_parser
from lic_train.anchors.codecs import ANCHORS, Anchor
from lic_train.anchors.run import Pictures, make, read_pictures
from lic_train.anchors.table import table
from lic_train.errors import AnchorError, ConfigError, DataError
from lic_train.evaluate.sets import SetOptions, open_images, read_options
from lic_train.rd import curves
from lic_train.rd.curves import Curve
from lic_train.system.command import command
from lic_train.system.screen import say_warning

OUTPUTS = Path("outputs") / "anchors"
ANY_FOLDER = "folder"  # the set of conf/eval whose folder is always given by the user
VERSIONED = {  # sets whose curves are part of lic_train, with their image lists
    "kodak": "7c58032089a0c7d0623d347acfeb7174542cf115dae729fdeb44384bb96e7e08",
}


def folder(set_name: str) -> Path:
    """Return the folder of a set's curves: inside the package for versioned sets, else below ``outputs``."""
    return Path(__file__).parent / set_name if set_name in VERSIONED else OUTPUTS / set_name


@command("the same command resumes")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the anchors; return 0, or 1 if a codec was left out."""
    arguments = anchors_parser().parse_args(argv)
    torch.set_num_threads(1)  # the processes of --jobs share the cores
    pictures = read_pictures(arguments.set, _open(arguments.set, arguments.root))
    _check_list(pictures)
    left_out: dict[str, AnchorError] = {}
    versions = _installed([anchor for key, anchor in ANCHORS.items() if key in (arguments.codec or ANCHORS)], left_out)
    made = _make_all(versions, pictures, arguments.jobs, left_out)
    Console().print(table(made, pictures))
    for key, reason in left_out.items():
        say_warning(f"{key} is left out: {reason}")
    return 1 if left_out else 0


def _installed(chosen: Sequence[Anchor], left_out: dict[str, AnchorError]) -> list[tuple[Anchor, str]]:
    """Return the installed anchors with their versions; add the errors of the others to ``left_out`` and warn."""
    here = []
    for anchor in chosen:
        try:
            here.append((anchor, anchor.require()))
        except AnchorError as error:
            left_out[anchor.key] = error
            say_warning(f"{anchor.key} is not installed, continuing without it")
    return here


def _make_all(
    versions: Sequence[tuple[Anchor, str]], pictures: Pictures, jobs: int, left_out: dict[str, AnchorError]
) -> list[Curve]:
    """Make the curves and save each when it is complete; add codecs that fail to ``left_out``."""
    made = []
    with _progress() as progress:
        for anchor, version in versions:
            bar = progress.add_task(anchor.key, total=len(pictures.names) * len(anchor.rates))
            try:
                step = partial(progress.advance, bar)
                curve = make(anchor, version, pictures, OUTPUTS / pictures.set / "rows", jobs, step)
            except AnchorError as error:
                left_out[anchor.key] = error
                continue
            path = folder(pictures.set) / f"{anchor.key}.json"
            curves.save(path, curve)
            progress.console.print(Text(f"{anchor.key:9} {path}"), soft_wrap=True)
            made.append(curve)
    return made


def _open(set_name: str, root: Path | None) -> Iterable[tuple[str, Tensor]]:
    try:
        given = None if root is None else SetOptions(name=set_name, root=str(root), limit=None)
    except ValidationError as error:
        raise ConfigError(
            "The name in --set is not valid.", expected="letters, digits, '_', '-' and '.'", got=repr(set_name)
        ) from error
    if given is None and set_name == ANY_FOLDER:
        raise _missing(set_name, "none")
    options = given or read_options([f"eval={set_name}"]).eval
    folders = [options.root] if isinstance(options.root, str) else options.root or []
    absent = [folder for folder in folders if not Path(folder).expanduser().is_dir()]
    if absent:
        raise _missing(set_name, ", ".join(absent))
    return open_images(options, Path())


def _missing(set_name: str, got: str) -> DataError:
    return DataError(
        f"The pictures of {set_name} are missing.",
        expected="a folder of pictures",
        got=got,
        to_do="give the folder with --root, or download the set as described in data/README.md",
    )


def _check_list(pictures: Pictures) -> None:
    if pictures.sha256 != VERSIONED.get(pictures.set, pictures.sha256):
        raise AnchorError(
            f"These are not the pictures of {pictures.set}, whose curves are part of lic_train.",
            expected=f"image list {VERSIONED[pictures.set][:12]}",
            got=f"{len(pictures.names)} pictures, list {pictures.sha256[:12]}",
            to_do="give the set another name with --set",
        )


def _progress() -> Progress:
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), *times)
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


if __name__ == "__main__":
    sys.exit(main())
