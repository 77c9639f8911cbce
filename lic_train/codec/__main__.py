"""Compress and decompress one picture from the command line.

``python -m lic_train.codec compress IN OUT.lic --run RUN`` and ``... decompress IN.lic OUT.png [--run RUN]``. RUN is a
run directory, or an exported model (``.safetensors``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lic_train.data.decode.images import read_image, save_png
from lic_train.errors import BitstreamError, CheckpointError, LicError
from lic_train.files.bitstream import MAX_PIXELS, decode, encode, unpack
from lic_train.files.checkpoint import load_model, move, read_metadata
from lic_train.models.base import Codec
from lic_train.runs.load import load_run
from lic_train.system import atomic
from lic_train.system.memory import keep_freed_memory
from lic_train.system.screen import ruled_table, say_error, say_warning

_LISTED = 8  # models that the error names when none fits
_MANY = 20  # model files from which on the search shows its progress


def compress(source: Path, target: Path, codec: Codec, fingerprint: bytes, max_pixels: int = MAX_PIXELS) -> Table:
    """Write the picture ``source`` as ``target`` (.lic) and return a table of bytes, bpp_file and seconds.

    Args:
        source: any picture that `lic_train.data.decode.images` reads.
        target: replaced when the new file is complete.
        codec: ready to code.
        fingerprint: of ``codec``.
        max_pixels: as in `lic_train.files.bitstream.encode`.

    Raises:
        DataError: ``source`` is no readable picture.
        ValueError: it has too many pixels.
    """
    x = read_image(source).to(_device(codec)).float().div(255)
    began = time.perf_counter()
    data = encode(codec, x, fingerprint, max_pixels)
    seconds = time.perf_counter() - began
    atomic.replace_bytes(target, data)
    height, width = x.shape[1:]
    return _table(target, width, height, len(data), seconds)


def decompress(source: Path, target: Path, codec: Codec, fingerprint: bytes, max_pixels: int = MAX_PIXELS) -> Table:
    """Write the picture inside ``source`` (.lic) as ``target`` (.png) and return the same table.

    Raises:
        BitstreamError: as `lic_train.files.bitstream.decode`.
        ValueError: ``target`` has another ending.
    """
    if target.suffix.lower() != ".png":
        raise ValueError(f"expected a name that ends in .png, got {target}; only PNG is written")
    data = read_lic(source)
    began = time.perf_counter()
    x_hat = decode(codec, data, fingerprint, max_pixels).cpu()
    seconds = time.perf_counter() - began
    save_png(target, x_hat)
    height, width = x_hat.shape[1:]
    return _table(target, width, height, len(data), seconds)


def read_lic(path: Path) -> bytes:
    """The bytes of a ``.lic`` file.

    Raises:
        BitstreamError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BitstreamError(f"cannot read {path}: {error.strerror}") from error


def find_model(fingerprint: bytes, search: Path) -> Path:
    """The newest ``.safetensors`` file below ``search`` whose header names ``fingerprint``. Reads headers only.

    Raises:
        CheckpointError: there is none; the message lists what was looked at.
    """
    paths = sorted(search.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    seen = []
    for path in _progress(paths):
        try:
            found = read_metadata(path).fingerprint
        except CheckpointError:
            seen.append(f"{path} (unreadable, or not from lic_train)")
            continue
        if found == fingerprint:
            return path
        seen.append(f"{path} ({found.hex()})")
    more = [f"and {len(seen) - _LISTED} more"] if len(seen) > _LISTED else []
    looked = "\n  ".join([f"looked at {len(seen)} files:", *seen[:_LISTED], *more]) if seen else "found no .safetensors"
    raise CheckpointError(
        f"expected the model {fingerprint.hex()} below {search}, {looked}\n"
        "Give the model that wrote the file by --run, or another folder by --search"
    )


def _progress(paths: list[Path]) -> Iterator[Path]:
    hidden = len(paths) < _MANY
    yield from track(paths, "looking for the model", console=Console(stderr=True), transient=True, disable=hidden)


def _device(codec: Codec) -> torch.device:
    return next(codec.parameters()).device


def _table(path: Path, width: int, height: int, num_bytes: int, seconds: float) -> Table:
    table = ruled_table("bytes", "bpp_file", "seconds", title=f"{path}, {width} x {height}")
    table.add_row(f"{num_bytes:,}", f"{8 * num_bytes / (width * height):.4f}", f"{seconds:.2f}")
    return table


def _load(arguments: argparse.Namespace) -> tuple[Codec, bytes]:
    if arguments.run is not None:
        codec, metadata = load_run(arguments.run, arguments.checkpoint)
    else:
        header, _ = unpack(read_lic(arguments.source), arguments.max_pixels)
        codec, metadata = load_model(find_model(header.fingerprint, arguments.search))
    if arguments.device == "cpu":
        keep_freed_memory()
    codec = move(codec, arguments.device)
    if _device(codec).type != "cpu":
        say_warning(
            f"on {arguments.device} the entropy parameters differ in the last digits from another device's: "
            "a file must be decoded on the kind of device that encoded it"
        )
    return codec, metadata.fingerprint


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lic_train.codec", description="Compress and decompress a picture.")
    commands = parser.add_subparsers(required=True)
    for act, names in ((compress, ("IN", "OUT.lic")), (decompress, ("IN.lic", "OUT.png"))):
        command = commands.add_parser(act.__name__, help=f"{names[0]} -> {names[1]}")
        command.add_argument("source", type=Path, metavar=names[0])
        command.add_argument("target", type=Path, metavar=names[1])
        command.add_argument("--run", type=Path, required=act is compress, help="run directory or .safetensors")
        command.add_argument("--checkpoint", default="best", help="best, last or a file of the run (default: best)")
        command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
        command.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help=f"default: {MAX_PIXELS}")
        command.set_defaults(act=act)
    command.add_argument("--search", type=Path, default=Path("outputs"), help="without --run (default: outputs)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        codec, fingerprint = _load(arguments)
        table = arguments.act(arguments.source, arguments.target, codec, fingerprint, arguments.max_pixels)
    except (LicError, ValueError, OSError) as error:
        say_error(error)
        return 2
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
