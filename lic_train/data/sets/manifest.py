"""Manifest of the training data of a run, used to detect that a resumed run would continue with other photographs."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from lic_train.data.archives.indexed import Indexed
from lic_train.data.sets.splits import Joined, Source, Split, Subset
from lic_train.errors import DataError
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, mistakes, read_json

NAME = "data_manifest.json"
FORMAT = 1


class Side(TypedDict):
    """One side of the split: the number of photographs, and a SHA-256 over their names and sizes."""

    photographs: int
    sha256: str


class Manifest(TypedDict):
    """Content of ``data_manifest.json``."""

    format: int
    root: str
    train: Side
    val: Side


_MANIFEST = TypeAdapter(Manifest)


def manifest_of(split: Split, root: str) -> Manifest:
    """Return the manifest of a data set at ``root``."""
    return {"format": FORMAT, "root": root, "train": _side(split.train), "val": _side(split.val)}


def require_same(path: Path, now: Manifest) -> str:
    """Compare with the manifest of the first start of the run.

    Returns:
        The root at the first start; the same photographs may have another root now.

    Raises:
        DataError: the photographs differ, or the manifest cannot be read.
    """
    before = _read(path)
    lines = [line for side in ("train", "val") for line in _differences(side, before[side], now[side])]
    if lines:
        raise DataError(
            f"{path.parent} is a run on other photographs.",
            expected=f"the photographs of the first start, from {before['root']}",
            got="\n".join(["(first start -> now)", *lines]),
            to_do="restore the old files, or start again with fresh=true, or continue with the new files in a new run: "
            f"name=... init_from={path.parent}",
        )
    return before["root"]


def write(path: Path, manifest: Manifest) -> None:
    """Write the manifest."""
    atomic.replace_text(path, json.dumps(manifest, indent=1) + "\n")


def digest(source: Source) -> str:
    """Return the SHA-256 over names and sizes in hexadecimal; over names only for a source without an index."""
    if isinstance(source, Indexed):
        return source.index.digest
    if isinstance(source, Subset):
        return sha256(digest(source.source).encode() + source.indices.astype("<i8").tobytes()).hexdigest()
    if isinstance(source, Joined):
        return sha256("".join(map(digest, source.sources)).encode()).hexdigest()
    return sha256(json.dumps([source.name(i) for i in range(len(source))]).encode()).hexdigest()


def _side(source: Source) -> Side:
    return {"photographs": len(source), "sha256": digest(source)}


def _differences(side: str, before: Side, now: Side) -> list[str]:
    what = {"train": "training", "val": "validation"}[side]
    if before["photographs"] != now["photographs"]:
        return [f"{what} photographs: {before['photographs']:,} -> {now['photographs']:,}"]
    if before["sha256"] != now["sha256"]:
        return [f"names or sizes of {what} photographs: {before['sha256'][:12]}... -> {now['sha256'][:12]}..."]
    return []


def _read(path: Path) -> Manifest:
    try:
        return _MANIFEST.validate_python(read_json(path))
    except (Unreadable, ValidationError) as error:
        reason = mistakes(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{path} cannot be read ({reason}).",
            expected="the manifest of the training data of this run",
            to_do="restore the file, or remove it if you are sure that the photographs are the same",
        ) from error
