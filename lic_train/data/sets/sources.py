"""The data sets by name: each function turns ``data.root`` into training and validation photographs.

Everything above this file sees a `Source` only. What may lie at a root, and how it is read in place, is told by
`lic_train.data.archives.opening`.
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

VALIDATION = ("val", "valid", "validation")  # names of folders and words in names of archives

# scikit-image (skimage/data) and matplotlib (mpl-data/sample_data) carry these inside their wheels.
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
    """Files listed one by one, told apart by their file names."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = sorted(paths, key=lambda path: path.name)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """The encoded file."""
        return self._paths[index].read_bytes()

    def name(self, index: int) -> str:
        """The file name."""
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
    """Any photographs: a tree, tars, zips or Parquet files, patterns of such, addresses; or a list of any of these.

    Of a root, ``train`` and ``val`` are used if both exist, as folders or in the names of its archives or in an
    archive; else validation photographs are cut off by ratio (see `divide`).

    Args:
        root: what is typed as data.root.
        val_ratio: share of the photographs that serve as validation.
        split: "hash" or "sorted", see `divide`.
        weights: of several roots: shares of the training samples.
        cache: folder for indexes and fetched bytes; None keeps none.
        cache_gib: limit of what is fetched from addresses and kept.

    Raises:
        DataError: there is nothing that can be used.
        ConfigError: an option has no meaning.
    """
    if not root:
        require_folder(None)
    roots = [root] if isinstance(root, str) else [str(each) for each in root or ()]
    _check_weights(weights, len(roots))
    splits = [_split_of(each, kept_in(cache, cache_gib), val_ratio, split) for each in roots]
    return join(splits, _labels(roots), weights) if len(splits) > 1 else splits[0]


@reading()
def imagenet(root: str | None, val_ratio: float = 0.01, cache: str | None = None, cache_gib: float = 0) -> Split:
    """ILSVRC 2012 as folders, or as it is shipped, in tars that stay packed; see `imagenet_layouts`.

    Without validation photographs a hash split of the training photographs stands in. For the arguments see `folder`.

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
    """The colour photographs inside the installed scikit-image and matplotlib; two are held out for validation.

    Raises:
        DataError: a package or a photograph is not there, or ``root`` was given.
    """
    if root is not None:
        raise DataError(f"data=demo takes no data.root, got {root!r}; say data=folder data.root={root}")
    return Split(FileSource([_packaged(*entry) for entry in DEMO_TRAIN]), FileSource([_packaged(*e) for e in DEMO_VAL]))


def kept_in(cache: str | None, gib: float) -> Cache:
    """The cache that the configuration means. Raises ConfigError for a limit below 0."""
    if gib < 0:
        raise ConfigError(f"data.source.cache_gib: expected 0 or more, got {gib}")
    return Cache(Path(cache).expanduser() if cache else None, int(gib * 2**30))


def _split_of(root: str, cache: Cache, val_ratio: float, split: str) -> Split:
    """Training and validation photographs of one root."""
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
    """What a collection calls train and val: archives by their names, or folders inside; None if it does not."""
    has_names = len(source.index.parts) > 1 and not isinstance(source, FolderSource)
    sides = (_sides_of_archives if has_names else _sides_of_folders)(source.index)
    if not all(map(len, sides)):
        return None
    train, val = (Subset(source, side) for side in sides)
    left = len(source) - len(train) - len(val)
    return Split(train, val, f"{left:,} pictures are neither in train nor in val and not used." if left else "")


def _sides_of_archives(index: Index) -> tuple[Integers, Integers]:
    """Pictures of the archives whose names hold the word train, and those of val."""
    words = [set(re.split(r"[^a-z]+", Path(part.path).stem.lower())) for part in index.parts]
    train = [number for number, said in enumerate(words) if "train" in said]
    val = [number for number, said in enumerate(words) if said & set(VALIDATION)]
    return np.flatnonzero(np.isin(index.part_numbers, train)), np.flatnonzero(np.isin(index.part_numbers, val))


def _sides_of_folders(index: Index) -> tuple[Integers, Integers]:
    """Pictures below train/ and those below val/, in the folder that holds everything."""
    first, last = (os.path.dirname(index.name(number)) for number in (0, len(index) - 1))  # in order
    home = os.path.join(os.path.commonpath([first, last]), b"")
    val = [index.below(home + name.encode() + b"/") for name in VALIDATION]
    return index.below(home + b"train/"), max(val, key=len)


def _check_weights(weights: Sequence[float] | None, roots: int) -> None:
    if weights is not None and (len(weights) != roots or not all(weight > 0 for weight in weights)):
        raise ConfigError(f"data.source.weights: expected {roots} numbers above 0, one for each root, got {weights}")


def _labels(roots: Sequence[str]) -> list[str]:
    """The last parts of the roots, with a number where several have the same."""
    names = [printable(root.rstrip("/").rpartition("/")[2]) for root in roots]
    often = Counter(names)
    return [name if often[name] == 1 else f"{name}({number})" for number, name in enumerate(names)]


def _packaged(package: str, below: str) -> Path:
    """A file inside an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = next((Path(place, below) for place in places if Path(place, below).is_file()), None)
    if found is None:
        raise DataError(f"data=demo needs {package}/{below}, which is not installed.\n  to do     pip install -e .")
    return found
