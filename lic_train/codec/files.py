"""Compressing and decompressing one picture file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from lic_train.codec import rate
from lic_train.codec.image_codec import ImageCodec, codable
from lic_train.codec.load import find_model, load
from lic_train.data.decode import images
from lic_train.data.decode.images import save_png
from lic_train.errors import BitstreamError, ConfigError
from lic_train.files.bitstream import decode_8bit
from lic_train.files.container import unpack
from lic_train.files.tiles import MAX_PIXELS
from lic_train.system import atomic
from lic_train.system.screen import ruled_table


def compress_file(arguments: argparse.Namespace) -> Table:
    """Write the picture ``source`` as ``target`` (.lic) and return a table of bytes, bpp_file and seconds.

    Args:
        arguments: of ``lic compress``; see its help.

    Raises:
        CheckpointError: the run has no intact model.
        ConfigError: this machine has no such device, or the wanted rate is not one of the model.
        DataError: ``source`` is not a readable picture or has too many pixels, or the tiles do not fit the model.
    """
    names = ("level", "lmbda", "bpp", "num_bytes", "psnr")
    wanted = rate.Wanted(**{name: getattr(arguments, name) for name in names})
    codec = _codec(arguments.run, arguments.checkpoint, arguments.device)
    limit = max(_max_pixels(arguments), images.MAX_PIXELS)
    x = images.read_image(arguments.source, limit).to(codec.device)
    began = time.perf_counter()
    fingerprint, max_pixels = codec.metadata.fingerprint, _max_pixels(arguments)
    with codable():
        coded = rate.encode(codec.model, x, fingerprint, wanted, tile=arguments.tile, max_pixels=max_pixels)
    seconds = time.perf_counter() - began
    atomic.replace_bytes(arguments.target, coded.data)
    height, width = x.shape[1:]
    return _table(arguments.target, width, height, len(coded.data), seconds, _about_rate(codec, coded, wanted))


def _about_rate(codec: ImageCodec, coded: rate.Encoded, wanted: rate.Wanted) -> dict[str, str]:
    """Return further columns of the table for a model with a variable rate."""
    if codec.model.ladder is None or coded.level is None:
        return {}
    columns = {"level": f"{coded.level:.4g}", "lambda": f"{codec.model.ladder.lambda_at(coded.level):.4g}"}
    if coded.psnr is not None:
        columns["PSNR"] = f"{coded.psnr:.3f}"
    for name, target in wanted.given.items():
        columns[f"wanted {name}"] = f"{target:g}"
    return {**columns, "passes": str(coded.passes)}


def decompress_file(arguments: argparse.Namespace) -> Table:
    """Write the picture in ``source`` (.lic) as ``target`` (.png) and return the same table.

    Args:
        arguments: of ``lic decompress``; see its help. Without a run the model is searched by its fingerprint.

    Raises:
        BitstreamError: as `lic_train.files.bitstream.decode`.
        CheckpointError: there is no intact model.
        ConfigError: ``target`` has another suffix, or this machine has no such device.
    """
    target, max_pixels = arguments.target, _max_pixels(arguments)
    if target.suffix.lower() != ".png":
        raise ConfigError(
            f"{target} is not the name of a PNG file.", expected="a name that ends in .png", got=target.name
        )
    data = read_lic(arguments.source)
    run = arguments.run or find_model(unpack(data, max_pixels)[0].fingerprint, arguments.search)
    codec = _codec(run, arguments.checkpoint, arguments.device)
    began = time.perf_counter()
    x_hat = decode_8bit(codec.model, data, codec.metadata.fingerprint, max_pixels)
    seconds = time.perf_counter() - began
    save_png(target, x_hat)
    height, width = x_hat.shape[1:]
    return _table(target, width, height, len(data), seconds)


def read_lic(path: Path) -> bytes:
    """Return the bytes of a ``.lic`` file.

    Raises:
        BitstreamError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BitstreamError(f"{path} cannot be read.", expected="a .lic file", got=error.strerror or "") from error


def _max_pixels(arguments: argparse.Namespace) -> int:
    return MAX_PIXELS if arguments.max_pixels is None else arguments.max_pixels


def _codec(run: Path, checkpoint: str, device: str) -> ImageCodec:
    return load(run, device=device, checkpoint=checkpoint)


def _table(
    path: Path, width: int, height: int, num_bytes: int, seconds: float, more: Mapping[str, str] | None = None
) -> Table:
    more = more or {}
    table = ruled_table("bytes", "bpp_file", "seconds", *more, title=f"{path}, {width} x {height}")
    table.add_row(f"{num_bytes:,}", f"{8 * num_bytes / (width * height):.4f}", f"{seconds:.2f}", *more.values())
    return table
