"""``lic compress IN OUT.lic --run RUN`` and ``lic decompress IN.lic OUT.png [--run RUN]``.

RUN is a run directory, an exported model (``.safetensors``) or a training checkpoint (``.ckpt``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_NAMES = {"compress": ("IN", "OUT.lic"), "decompress": ("IN.lic", "OUT.png")}
_EXAMPLES = {
    "compress": "example: lic compress photo.png photo.lic --run outputs/cwam/cwam/lambda_0.0067",
    "decompress": "examples:\n  lic decompress photo.lic photo.png\n"
    "  lic decompress photo.lic photo.png --run model.safetensors",
}


def parser() -> argparse.ArgumentParser:
    """The parser of both commands."""
    made = argparse.ArgumentParser(prog="lic", description="Compress and decompress a picture.")
    commands = made.add_subparsers(required=True, dest="command")
    for name, (source, target) in _NAMES.items():
        command = commands.add_parser(
            name,
            help=f"{source} -> {target}",
            description=f"Write {source} as {target}.",
            epilog=_EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("source", type=Path, metavar=source)
        command.add_argument("target", type=Path, metavar=target)
        command.add_argument("--run", type=Path, required=name == "compress", help="run directory or model file")
        command.add_argument("--checkpoint", default="best", help="best, last or a file of the run (default: best)")
        command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
        command.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger pictures (default: 33554432)")
        if name == "decompress":
            search = "folder to search the model in, without --run (default: outputs)"
            command.add_argument("--search", type=Path, default=Path("outputs"), help=search)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    # After parsing, so that --help and mistakes are answered without importing PyTorch.
    from rich.console import Console

    from lic_train.codec import files
    from lic_train.errors import LicError
    from lic_train.files.bitstream import MAX_PIXELS
    from lic_train.system.screen import say_error

    max_pixels = arguments.max_pixels or MAX_PIXELS
    try:
        codec, fingerprint = files.load_for_coding(
            arguments.run,
            arguments.checkpoint,
            arguments.device,
            arguments.source,
            getattr(arguments, "search", Path()),
            max_pixels,
        )
        act = files.compress if arguments.command == "compress" else files.decompress
        table = act(arguments.source, arguments.target, codec, fingerprint, max_pixels)
    except (LicError, ValueError, OSError) as error:
        say_error(error)
        return 2
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
