"""Export a run's model as one file, and show what a file contains.

``python -m lic_train.codec.export export RUN [OUT.safetensors] [--checkpoint last]`` and ``... show FILE``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lic_train.errors import LicError
from lic_train.files.checkpoint import save_model
from lic_train.runs.load import load_run
from lic_train.system.screen import ruled_table, say_error


def _export(arguments: argparse.Namespace, console: Console) -> None:
    model, metadata = load_run(arguments.run, arguments.checkpoint)
    out = arguments.out or (arguments.run if arguments.run.is_dir() else arguments.run.parent) / "model.safetensors"
    identity = save_model(out, model, metadata.config, metadata.extra)
    console.print(Text(f"{metadata.path} -> {out}, fingerprint {identity.hex()}"), soft_wrap=True)


def _show(arguments: argparse.Namespace, console: Console) -> None:
    model, metadata = load_run(arguments.run)
    table = ruled_table(title=str(metadata.path))
    table.show_header = False
    for name, value in {**metadata.config, **metadata.training}.items():
        table.add_row(name, str(value))
    table.add_row("parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}")
    table.add_row("fingerprint", metadata.fingerprint.hex())
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lic_train.codec.export", description="Export and show models.")
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export", help="write a run's model as one safetensors file")
    export.add_argument("run", type=Path, help="run directory or checkpoint")
    export.add_argument("out", type=Path, nargs="?", help="default: RUN/model.safetensors")
    export.add_argument("--checkpoint", default="best", help="best, last or a file (default: best)")
    export.set_defaults(act=_export)
    show = commands.add_parser("show", help="print what a file holds")
    show.add_argument("run", metavar="file", type=Path, help="safetensors, checkpoint or run directory")
    show.set_defaults(act=_show)
    arguments = parser.parse_args(argv)
    try:
        arguments.act(arguments, Console())
    except LicError as error:
        say_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
