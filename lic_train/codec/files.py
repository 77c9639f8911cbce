"""Compressing and decompressing one picture file."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.table import Table

from lic_train.codec.load import find_model, load
from lic_train.data.decode.images import read_image, save_png
from lic_train.errors import BitstreamError, ConfigError
from lic_train.files.bitstream import decode, encode, unpack
from lic_train.models.base import Codec
from lic_train.system import atomic
from lic_train.system.screen import ruled_table, say_warning


def compress(source: Path, target: Path, codec: Codec, fingerprint: bytes, max_pixels: int) -> Table:
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


def decompress(source: Path, target: Path, codec: Codec, fingerprint: bytes, max_pixels: int) -> Table:
    """Write the picture in ``source`` (.lic) as ``target`` (.png) and return the same table.

    Raises:
        BitstreamError: as `lic_train.files.bitstream.decode`.
        ConfigError: ``target`` has another suffix.
    """
    if target.suffix.lower() != ".png":
        raise ConfigError(
            f"{target} is not the name of a PNG file.", expected="a name that ends in .png", got=target.name
        )
    data = read_lic(source)
    began = time.perf_counter()
    x_hat = decode(codec, data, fingerprint, max_pixels).cpu()
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


def load_for_coding(
    run: Path | None, checkpoint: str, device: str, source: Path, search: Path, max_pixels: int
) -> tuple[Codec, bytes]:
    """Return the model of ``run``, or without a run the one that wrote ``source``, and its fingerprint.

    Raises:
        CheckpointError: there is no such model.
        BitstreamError: ``source`` is needed to find the model and is not a .lic file.
        ConfigError: this machine has no such device.
    """
    if run is None:
        header, _ = unpack(read_lic(source), max_pixels)
        run = find_model(header.fingerprint, search)
    codec = load(run, device=device, checkpoint=checkpoint)
    if codec.device.type != "cpu":
        say_warning(
            f"on {device} the entropy parameters differ in the last digits from those of another device: "
            "decode a file on the kind of device that encoded it"
        )
    return codec.model, codec.metadata.fingerprint


def _device(codec: Codec) -> torch.device:
    return next(codec.parameters()).device


def _table(path: Path, width: int, height: int, num_bytes: int, seconds: float) -> Table:
    table = ruled_table("bytes", "bpp_file", "seconds", title=f"{path}, {width} x {height}")
    table.add_row(f"{num_bytes:,}", f"{8 * num_bytes / (width * height):.4f}", f"{seconds:.2f}")
    return table
