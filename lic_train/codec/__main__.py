"""The commands of a trained codec: ``lic compress``, ``lic decompress`` and ``lic export``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lic_train.files.shipped import NAME
from lic_train.system.command import command

_RUN = "run directory, .safetensors or .ckpt file"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    made = argparse.ArgumentParser(prog="lic", description="Compress and decompress pictures; export models.")
    commands = made.add_subparsers(required=True, dest="command")
    compress = _command(
        commands,
        "compress",
        "Write the picture IN as OUT.lic.",
        "examples:\n  lic compress photo.png photo.lic\n"
        "  lic compress photo.png photo.lic --run outputs/cwam/cwam/lambda_0.0067\n"
        "  lic compress photo.png photo.lic --run outputs/cwam/cwam/variable --bpp 0.5",
    )
    _coding(compress, "IN", "OUT.lic")
    compress.add_argument("--run", type=Path, default=Path(NAME), help=f"{_RUN} (default: {NAME}, in this package)")
    tile = "side of the tiles in pixels, 0 for none (default: none up to 33554432 pixels, else 2048)"
    compress.add_argument("--tile", type=int, metavar="N", help=tile)
    _rates(compress)
    decompress = _command(
        commands,
        "decompress",
        "Write the picture in IN.lic as OUT.png.",
        "examples:\n  lic decompress photo.lic photo.png\n  lic decompress photo.lic photo.png --run model.safetensors",
    )
    _coding(decompress, "IN.lic", "OUT.png")
    decompress.add_argument("--run", type=Path, help=f"{_RUN}; without it the model is searched by its fingerprint")
    search = "folder to search the model in (default: outputs)"
    decompress.add_argument("--search", type=Path, default=Path("outputs"), help=search)
    export = _command(
        commands,
        "export",
        "Write a run's model as one safetensors file, or as ONNX networks with tables.",
        "examples:\n  lic export outputs/cwam/cwam/lambda_0.0067 cwam.safetensors\n"
        "  lic export outputs/mbt2018_mean/mbt2018_mean/lambda_0.0067 mbt2018_mean --onnx",
    )
    export.add_argument("run", type=Path, help=_RUN)
    export.add_argument("out", type=Path, nargs="?", help="default: RUN/model.safetensors, with --onnx RUN/onnx")
    export.add_argument("--checkpoint", default="best", help="best, last or a file (default: best)")
    form = export.add_mutually_exclusive_group()
    form.add_argument("--half", action="store_true", help="round the weights to float16, which halves the file")
    form.add_argument("--onnx", action="store_true", help="write a folder of ONNX files; see docs/onnx.md")
    show = _command(commands, "show", "List what a model file contains.", "example:\n  lic show cwam.safetensors")
    show.add_argument("run", metavar="file", type=Path, help=_RUN)
    return made


def _rates(command: argparse.ArgumentParser) -> None:
    """Add the options of a model with a variable rate, which exclude one another."""
    options = command.add_argument_group("of a model with a variable rate (default: the middle of its range)")
    rates = options.add_mutually_exclusive_group()
    rates.add_argument("--level", type=float, metavar="L", help="level, 0 for the lowest rate")
    rates.add_argument("--lambda", type=float, metavar="LAMBDA", dest="lmbda", help="lambda, within its ladder")
    rates.add_argument("--bpp", type=float, metavar="R", help="largest rate of the file in bits per pixel")
    rates.add_argument("--bytes", type=int, metavar="N", dest="num_bytes", help="largest size of the file")
    rates.add_argument("--psnr", type=float, metavar="DB", help="smallest PSNR of the decoded picture")


def _command(commands: argparse._SubParsersAction, name: str, about: str, example: str) -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=example, formatter_class=layout
    )
    return made


def _coding(command: argparse.ArgumentParser, source: str, target: str) -> None:
    command.add_argument("source", type=Path, metavar=source)
    command.add_argument("target", type=Path, metavar=target)
    command.add_argument("--checkpoint", default="best", help="best, last or a file of the run (default: best)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    command.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger pictures (default: 268435456)")


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    # Imported after parsing, so that --help and mistakes are answered without PyTorch.
    from rich.console import Console
    from rich.text import Text

    from lic_train.codec import export, files

    console = Console()
    match arguments.command:
        case "compress":
            console.print(files.compress_file(arguments))
        case "decompress":
            console.print(files.decompress_file(arguments))
        case "export":
            if arguments.onnx:
                line = export.export_onnx(arguments.run, arguments.out, arguments.checkpoint)
            else:
                line = export.export(arguments.run, arguments.out, arguments.checkpoint, arguments.half)
            console.print(Text(line), soft_wrap=True)
        case "show":
            console.print(export.contents(arguments.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
