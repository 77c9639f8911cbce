"""Loading a codec by path, or by the fingerprint in a .lic file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from lic_train.codec.image_codec import ImageCodec
from lic_train.errors import CheckpointError
from lic_train.files import shipped
from lic_train.files.checkpoint import move, read_metadata
from lic_train.runs.load import load_run
from lic_train.system.memory import keep_freed_memory

_LISTED = 8  # models that the error lists when none fits
_MANY = 20  # model files from which on the search shows its progress


def load(path: str | os.PathLike[str], *, device: str = "cpu", checkpoint: str = "best") -> ImageCodec:
    """Load a trained model as a codec.

    Args:
        path: a run directory, an exported model (``.safetensors``), a training checkpoint (``.ckpt``), or "demo", the
            codec inside this package.
        device: "cpu", "cuda", "cuda:1", ...
        checkpoint: of a run directory: "best", "last" or the path of a file.

    Raises:
        CheckpointError: ``path`` contains no intact model.
        ConfigError: this machine has no such device.
    """
    model, metadata = load_run(Path(path).expanduser(), checkpoint)
    if device == "cpu":
        keep_freed_memory()
    return ImageCodec(move(model, device), metadata)


def find_model(fingerprint: bytes, search: Path) -> Path:
    """Return the newest ``.safetensors`` file below ``search`` with this fingerprint. Reads headers only.

    The codec inside the package is found in every case.

    Raises:
        CheckpointError: there is none; the message lists what was found.
    """
    if read_metadata(shipped.FILE).fingerprint == fingerprint:
        return shipped.FILE
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
    raise CheckpointError(
        f"The model that wrote this file was not found below {search}.",
        expected=f"a .safetensors file with the fingerprint {fingerprint.hex()}",
        got="\n".join([f"{len(seen)} files", *seen[:_LISTED], *more]) if seen else "no .safetensors file",
        to_do="name the model with --run, or another folder with --search",
    )


def _progress(paths: list[Path]) -> Iterator[Path]:
    hidden = len(paths) < _MANY
    yield from track(paths, "searching the model", console=Console(stderr=True), transient=True, disable=hidden)
