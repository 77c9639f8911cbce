"""Data sets by name: each function turns ``data.root`` into training and validation photographs.

Other packages only use the `Source` interface. `lic_train.data.archives.opening` lists the supported kinds of roots.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lic_train.data.archives.indexed import Cache, FolderSource, reading, require_folder
from lic_train.data.archives.names import SUFFIXES, printable
from lic_train.data.archives.opening import open_source
from lic_train.data.sets import imagenet_layouts
from lic_train.data.sets.parts import TEST, TRAIN, UNNAMED, VAL, Parts, parts_of, rows
from lic_train.data.sets.splits import Integers, Source, Split, Subset, divide, join
from lic_train.errors import ConfigError, DataError

__all__ = ["SUFFIXES", "FolderSource", "Source", "Split", "demo", "folder", "imagenet"]

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

    In each root, names of folders and archives such as ``train2017``, ``DIV2K_valid_HR`` and ``test`` define the parts
    (see `lic_train.data.sets.parts`). With train, only train is trained on; val is validated on; test is never used.
    Without val, a fraction of the training photographs is used for validation (see `divide`).

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
    """Return training and validation photographs of one root; see `lic_train.data.sets.parts`."""
    source = open_source(root, cache)
    parts = parts_of(source.index)
    if len(parts.unnamed) == len(source):
        whole = divide(source, val_ratio, split)
        return whole._replace(rows=tuple(rows(parts, source.index, [UNNAMED])))
    trained = next((part for part in (TRAIN, UNNAMED, VAL) if len(_members(parts, part))), None)
    if trained is None:
        raise _only_test(root, parts)
    train, table = Subset(source, _members(parts, trained)), tuple(rows(parts, source.index, [trained]))
    if trained != VAL and len(parts.val):
        return Split(train, Subset(source, parts.val), rows=table)
    lack = f"{printable(root)} has {parts.where(trained) or 'no train'} but no "
    note = lack + ("pictures outside of it. " if trained == VAL else "val. ")
    return divide(train, val_ratio, split, note=note)._replace(rows=table)


def _members(parts: Parts, part: str) -> Integers:
    return {TRAIN: parts.train, UNNAMED: parts.unnamed, VAL: parts.val}[part]


def _only_test(root: str, parts: Parts) -> DataError:
    return DataError(
        f"{printable(root)} contains only test pictures, which are never trained on.",
        expected="train, or pictures outside of val and test",
        got=f"{len(parts.test):,} pictures in {parts.where(TEST)}",
        to_do="correct data.root; if these pictures are meant for training, name their folder: data.root=.../test",
    )


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
