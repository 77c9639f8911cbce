"""Synthetic images and archives of them, written without the code under test."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int, height: int = 24, width: int = 28) -> bytes:
    """Return a small image of noise that depends on the seed."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files below ``root``."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def tar_bytes(files: Mapping[str, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar written by Python's tarfile."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def zip_bytes(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip written by Python's zipfile."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def imagenet_tar(files: Mapping[str, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar with one tar for each class, from files named ``<wnid>/<file>``."""
    classes: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        wnid, _, file = name.partition("/")
        classes.setdefault(wnid, {})[file] = data
    return tar_bytes({f"{wnid}.tar": tar_bytes(inner, kind) for wnid, inner in classes.items()}, kind)


def contents(source) -> dict[str, bytes]:
    """Return all names and files of a source."""
    found = {source.name(i): source.read(i) for i in range(len(source))}
    assert len(found) == len(source)
    return found
