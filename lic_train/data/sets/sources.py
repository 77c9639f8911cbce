"""Data sets by name: each function turns ``data.root`` into training and validation photographs.

Other packages only use the `Source` interface. `lic_train.data.archives.opening` lists the supported kinds of roots.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lic_train.data.archives.index import Index
from lic_train.data.archives.indexed import Cache, FolderSource, Indexed, reading, require_folder
from lic_train.data.archives.names import SUFFIXES, printable
from lic_train.data.archives.opening import open_source
from lic_train.data.sets import imagenet_layouts
from lic_train.data.sets.splits import Integers, Source, Split, Subset, divide, join
from lic_train.errors import ConfigError, DataError

__all__ = ["SUFFIXES", "FolderSource", "Source", "Split", "demo", "folder", "imagenet"]

VALIDATION = ("val", "valid", "validation")  # folder names, and words in the names of archives

# Files inside the wheels of scikit-image (skimage/data) and matplotlib (mpl-data/sample_data).
DEMO_TRAIN = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/motorcycle_right.png"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
DEMO_VAL = (("skimage", "data/chelsea.png"), ("skimage", "data/coffee.png"))


class FileSource:
    """A list of files, sorted and identified by their file names."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = sorted(paths, key=lambda path: path.name)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """Return the encoded file."""
        return self._paths[index].read_bytes()

    def name(self, index: int) -> str:
        """Return the file name."""
        return printable(self._paths[index].name)


@reading()
def folder(
    root: str | Sequence[str] | None,
    val_ratio: float = 0.05,
    split: str = "hash",
    weights: Sequence[float] | None = None,
    cache: str | None = None,
    cache_gib: float = 0,
) -> Split:
    """Return any photographs: a tree, tars, zips, Parquet files, patterns or addresses of these, or a list of roots.

    In each root, ``train`` and ``val`` are used if both exist, as folders, in the names of its archives, or in an
    archive. Otherwise a fraction of the photographs is used for validation (see `divide`).

    Args:
        root: value of data.root.
        val_ratio: fraction of the photographs used for validation.
        split: "hash" or "sorted", see `divide`.
        weights: fractions of the training samples, one for each of several roots.
        cache: folder for indexes and downloaded data; None disables the cache.
        cache_gib: limit of the downloaded data in GiB.

    Raises:
        DataError: there is nothing usable.
        ConfigError: an option is invalid.
    """
    if not root:
        require_folder(None)
    roots = [root] if isinstance(root, str) else [str(each) for each in root or ()]
    _check_weights(weights, len(roots))
    splits = [_split_of(each, kept_in(cache, cache_gib), val_ratio, split) for each in roots]
    return join(splits, _labels(roots), weights) if len(splits) > 1 else splits[0]


@reading()
def imagenet(root: str | None, val_ratio: float = 0.01, cache: str | None = None, cache_gib: float = 0) -> Split:
    """Return ILSVRC 2012 as folders, or as distributed, in tars that stay packed; see `imagenet_layouts`.

    Without validation photographs, a hash split of the training photographs is used. For the arguments see `folder`.

    Raises:
        DataError: the layout is another one.
    """
    if root is None:
        require_folder(None)
    train, val = imagenet_layouts.open_imagenet(str(root), kept_in(cache, cache_gib))
    if val is None:
        return divide(train, val_ratio, "hash", note=f"{root} has no validation photographs in val/. ")
    return Split(train, val)


def demo(root: str | None = None) -> Split:
    """Return the colour photographs inside the installed scikit-image and matplotlib; two are used for validation.

    Raises:
        DataError: a package or a photograph is missing, or ``root`` is set.
    """
    if root is not None:
        raise DataError(
            "data=demo has no data.root.", expected="null", got=repr(root), to_do=f"use data=folder data.root={root}"
        )
    return Split(FileSource([_packaged(*entry) for entry in DEMO_TRAIN]), FileSource([_packaged(*e) for e in DEMO_VAL]))


def kept_in(cache: str | None, gib: float) -> Cache:
    """Return the configured cache. Raises ConfigError for a negative limit."""
    if gib < 0:
        raise ConfigError("Invalid value of data.source.cache_gib.", expected="0 or more", got=str(gib))
    return Cache(Path(cache).expanduser() if cache else None, int(gib * 2**30))


def _split_of(root: str, cache: Cache, val_ratio: float, split: str) -> Split:
    """Return training and validation photographs of one root."""
    base = Path(root).expanduser()
    if not (base / "train").is_dir():
        source = open_source(root, cache)
        return _named_split(source) or divide(source, val_ratio, split)
    train = open_source(str(base / "train"), cache)
    val = next((base / name for name in VALIDATION if (base / name).is_dir()), None)
    if val is not None:
        return Split(train, open_source(str(val), cache))
    return divide(train, val_ratio, split, note=f"{base} has train/ but no val/. ")


def _named_split(source: Indexed) -> Split | None:
    """Split by the names train and val of archives, or of folders inside; None if these names do not exist."""
    has_names = len(source.index.parts) > 1 and not isinstance(source, FolderSource)
    sides = (_sides_of_archives if has_names else _sides_of_folders)(source.index)
    if not all(map(len, sides)):
        return None
    train, val = (Subset(source, side) for side in sides)
    left = len(source) - len(train) - len(val)
    return Split(train, val, f"{left:,} images are neither in train nor in val and are not used." if left else "")


def _sides_of_archives(index: Index) -> tuple[Integers, Integers]:
    """Return the images of the archives whose names contain the word train, and of those with the word val."""
    words = [set(re.split(r"[^a-z]+", Path(part.path).stem.lower())) for part in index.parts]
    train = [number for number, found in enumerate(words) if "train" in found]
    val = [number for number, found in enumerate(words) if found & set(VALIDATION)]
    return np.flatnonzero(np.isin(index.part_numbers, train)), np.flatnonzero(np.isin(index.part_numbers, val))


def _sides_of_folders(index: Index) -> tuple[Integers, Integers]:
    """Return the images below train/ and below val/, in the innermost folder that contains all images."""
    first, last = (os.path.dirname(index.name(number)) for number in (0, len(index) - 1))  # the index is sorted
    home = os.path.join(os.path.commonpath([first, last]), b"")
    val = [index.below(home + name.encode() + b"/") for name in VALIDATION]
    return index.below(home + b"train/"), max(val, key=len)


def _check_weights(weights: Sequence[float] | None, roots: int) -> None:
    if weights is not None and (len(weights) != roots or not all(weight > 0 for weight in weights)):
        raise ConfigError(
            "Invalid value of data.source.weights.",
            expected=f"{roots} numbers above 0, one for each root",
            got=str(weights),
        )


def _labels(roots: Sequence[str]) -> list[str]:
    """Return the last components of the roots, with a number where several are equal."""
    names = [printable(root.rstrip("/").rpartition("/")[2]) for root in roots]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name}({number})" for number, name in enumerate(names)]


def _packaged(package: str, below: str) -> Path:
    """Return the path of a file inside an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = next((Path(place, below) for place in places if Path(place, below).is_file()), None)
    if found is None:
        raise DataError(f"data=demo needs {package}/{below}, which is not installed.", to_do="pip install lic-train")
    return found
