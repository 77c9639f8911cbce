"""Layouts of ILSVRC 2012 on disk: folders, tars inside a tar, tars of classes, or a zip.

train/<wnid>/*.JPEG, val/             unpacked; val/ flat or in class folders; also below Data/CLS-LOC (Kaggle)
train/<wnid>.tar, val/                the outer tar unpacked, the tars of the classes packed
ILSVRC2012_img_train.tar, ..._val.tar as distributed; either the folder that contains them, or the training tar
<any>.zip                             of the first layout
"""

from __future__ import annotations

import re
from pathlib import Path

from lic_train.data.archives.indexed import Cache, FolderSource, listing_of, require_folder
from lic_train.data.archives.opening import exists, open_archives, open_source
from lic_train.data.sets.splits import Source, Subset
from lic_train.errors import DataError

PLACES = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
CLASS = r"n\d{8}"
TRAIN_TAR = re.compile(r"[^/]*train[^/]*\.tar", re.IGNORECASE)

Sides = tuple[Source, Source | None]  # training and validation photographs; None without validation photographs


def open_imagenet(root: str, cache: Cache) -> Sides:
    """Return training and validation photographs; the latter are None if there are none.

    Raises:
        DataError: the layout is not one of those above.
    """
    if exists(root) and not Path(root).expanduser().is_dir():
        return _archive(root, cache)
    base = require_folder(root)
    for home in (base / place for place in PLACES):
        if (train := _train_folder(home / "train", cache)) is not None:
            return train, _validation(home, cache)
    tars = [path for path in sorted(base.iterdir()) if TRAIN_TAR.fullmatch(path.name)]
    if len(tars) == 1:
        train, val = _archive(str(tars[0]), cache)
        return train, val or _validation(base, cache)
    raise _no_imagenet(base, listing_of(base))


def _train_folder(path: Path, cache: Cache) -> Source | None:
    """Return the folders of the classes, or their tars; None if neither exists."""
    entries = sorted(path.iterdir()) if path.is_dir() else []
    if any(re.fullmatch(CLASS, entry.name) and entry.is_dir() for entry in entries):
        return FolderSource(path, cache)
    tars = [entry for entry in entries if re.fullmatch(rf"{CLASS}\.tar", entry.name)]
    return open_archives(tars, cache) if tars else None


def _validation(home: Path, cache: Cache) -> Source | None:
    """Return the photographs in val/, None if it is missing or empty."""
    if not (home / "val").is_dir() or not any((home / "val").iterdir()):
        return None
    return open_source(str(home / "val"), cache)


def _archive(root: str, cache: Cache) -> Sides:
    """Open a tar of tars and the validation tar in the same folder, or an archive that contains train/ and val/."""
    source = open_source(root, cache)
    first = source.index.name(0).decode(errors="replace")
    if re.match(CLASS, first):
        neighbour = _neighbour(root)
        return source, open_source(neighbour, cache) if neighbour and exists(neighbour) else None
    for home in (f"{place}/".lstrip("/") for place in PLACES):
        train, val = (Subset(source, source.index.below(f"{home}{side}/".encode())) for side in ("train", "val"))
        if len(train) and re.match(rf"{home}train/{CLASS}/", train.name(0)):
            return train, val if len(val) else None
    raise _no_imagenet(root, f"{len(source):,} images, the first is {first}")


def _neighbour(root: str) -> str | None:
    """Return the address of the validation tar that belongs to a training tar."""
    folder, slash, name = root.rpartition("/")
    other = re.sub("train", "val", name, count=1, flags=re.IGNORECASE)
    return f"{folder}{slash}{other}" if other != name else None


def _no_imagenet(root: str | Path, got: str) -> DataError:
    return DataError(
        f"{root} does not have the layout of ImageNet.",
        expected="train/n01440764/*.JPEG (or Data/CLS-LOC/train/...), train/n01440764.tar or ILSVRC2012_img_train.tar",
        got=got,
        to_do="set data.root to the training tar or to the folder that contains it or train/, or use data=folder",
    )
