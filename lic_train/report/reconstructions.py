"""Reconstructed pictures of an evaluation, saved ones or decoded again from the files, verified by their PSNR."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lic_train.data.decode.images import read_image, save_png
from lic_train.data.sets.sources import FolderSource
from lic_train.errors import DataError, LicError
from lic_train.evaluate.pictures import save_bits_map, save_error_map
from lic_train.evaluate.results import Row
from lic_train.files.bitstream import decode, estimate
from lic_train.files.checkpoint import load_model, move
from lic_train.models.base import Codec
from lic_train.rd import metrics
from lic_train.report.runs import Run
from lic_train.runs import layout
from lic_train.system.reading import Unreadable, read_bytes, slug

_SAME_PSNR = 1e-3  # dB: rounding of float arithmetic


@dataclass(frozen=True)
class Reconstruction:
    """Picture files of one reconstruction: the picture, its error map, its bit allocation. Maps may be missing."""

    path: Path
    error: Path | None = None
    bits: Path | None = None


def find_originals(root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the files below ``root`` by the names that an evaluation gives them, for all of ``names`` found.

    Raises:
        DataError: ``root`` is not a folder or contains no picture.
    """
    source, wanted, found = FolderSource(root), set(names), {}
    for index in range(len(source)):
        flat = source.name(index).replace("/", "_").lstrip(".")
        for name in wanted & {flat, os.path.splitext(flat)[0]}:
            found[name] = root / source.name(index)
    return found


class Reconstructions:
    """Finds or makes the reconstructions of one picture set. Failures are cached, so that none is tried twice.

    Args:
        set_name: name of the picture set.
        originals: returns the files of the photographs by name; called when the first one is needed.
        folder: folder for pictures that are decoded here; a later report reuses them.
    """

    def __init__(self, set_name: str, originals: Callable[[], dict[str, Path]], folder: Path) -> None:
        self._originals = functools.cache(originals)
        self._set, self._folder = set_name, folder
        self._known: dict[tuple[Path, str], Reconstruction | LicError] = {}
        self._loaded: tuple[Path, Codec, bytes] | None = None

    def __call__(self, run: Run, row: Row) -> Reconstruction:
        """Return the reconstruction by ``run`` of the photograph in ``row``.

        Raises:
            LicError: the photograph, the file or the model is missing, or differs from what was measured.
        """
        key = run.path, row.stem
        if key not in self._known:
            try:
                self._known[key] = self._find(run, row)
            except Unreadable as error:
                self._known[key] = DataError(
                    f"The .lic file or the original of {row.name} cannot be read.", got=str(error)
                )
            except LicError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, LicError):
            raise found
        return found

    def original(self, name: str) -> Path:
        """Return the file of a photograph.

        Raises:
            LicError: the photograph is not in the folder.
        """
        if name not in self._originals():
            raise DataError(f"The photograph {name} is not in the folder of original photographs.")
        return self._originals()[name]

    def _find(self, run: Run, row: Row) -> Reconstruction:
        original = self.original(row.name)
        folder = layout.coded(run.path, self._set)
        saved = {kind: folder / kind / f"{row.stem}.png" for kind in (layout.DECODED, *layout.MAPS)}
        found = {kind: path for kind, path in saved.items() if path.is_file()}
        if layout.DECODED not in found:
            return self._decoded(run, row, original)
        _check(read_image(original), read_image(found[layout.DECODED]), row)
        return Reconstruction(found[layout.DECODED], found.get(layout.ERROR), found.get(layout.BITS))

    def _decoded(self, run: Run, row: Row, original: Path) -> Reconstruction:
        data = read_bytes(layout.coded(run.path, self._set) / f"{row.stem}{layout.LIC}")
        name = f"{slug(run.model)}_{hashlib.sha256(data + read_bytes(original)).hexdigest()[:16]}"
        paths = [self._folder / slug(row.name) / f"{name}{kind}.png" for kind in ("", "_error", "_bits")]
        if not all(path.is_file() for path in paths):
            self._make(run, row, data, read_image(original), paths)
        return Reconstruction(*paths)

    def _make(self, run: Run, row: Row, data: bytes, original: Tensor, paths: Sequence[Path]) -> None:
        codec, fingerprint = self._codec(run)
        device = next(codec.parameters()).device
        x = original.to(device).float().div(255)
        protocol = run.results[self._set].protocol
        padded = protocol.pad(x, codec.downsampling_factor)
        x_hat = padded.crop(decode(codec, data, fingerprint).cpu())
        _check(original, metrics.to_8bit(x_hat), row)
        expected = estimate(codec, padded.x, protocol.tile, level=row.level)
        save_png(paths[0], x_hat)
        save_error_map(paths[1], x.cpu(), x_hat)
        save_bits_map(paths[2], padded.crop(expected.bits_map()))

    def _codec(self, run: Run) -> tuple[Codec, bytes]:
        """Return the run's model and its fingerprint. One model is cached, because calls are sorted by run."""
        if self._loaded is None or self._loaded[0] != run.path:
            self._loaded = None  # frees the memory first
            codec, metadata = load_model(run.file or layout.best_model(run.path))
            on_gpu = run.results[self._set].environment.get("device") != "cpu" and torch.cuda.is_available()
            self._loaded = run.path, move(codec, "cuda" if on_gpu else "cpu"), metadata.fingerprint
        return self._loaded[1:]


def _check(original: Tensor, decoded: Tensor, row: Row) -> None:
    """Verify that a reconstruction has the PSNR of ``row``; both pictures are 8-bit (3, H, W).

    Raises:
        DataError: the sizes differ, or the PSNR is another one.
    """
    if original.shape != decoded.shape:
        raise DataError(
            f"The reconstruction of {row.name} has another size.", expected=_size(original), got=_size(decoded)
        )
    psnr = float(metrics.psnr(original.float() / 255, decoded.float() / 255))
    expected = math.inf if row.psnr is None else row.psnr
    if psnr != expected and not abs(psnr - expected) < _SAME_PSNR:
        raise DataError(
            f"The original, the file or the saved picture of {row.name} is not the one that was measured.",
            expected=f"a PSNR of {expected:.3f} dB",
            got=f"{psnr:.3f} dB",
        )


def _size(picture: Tensor) -> str:
    return f"{picture.shape[2]} × {picture.shape[1]}"
