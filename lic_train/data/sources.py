"""Where photographs come from: numbered bytes with names, and how a set is cut into training and validation.

Everything above this file sees a `Source` only. A tar, a zip or a Parquet table joins by fulfilling its three methods.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Protocol

from lic_train.errors import ConfigError, DataError

# Compared in lower case.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"})

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


class Source(Protocol):
    """Photographs as numbered byte strings. Worker processes get their own copy by fork."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded file. Raises OSError if it cannot be read."""

    def name(self, index: int) -> str:
        """A printable name, unique in this source and the same on every machine."""


class FolderSource:
    """Every image file in the tree below ``root``, sorted by name; hidden and system files are left out.

    Raises:
        DataError: ``root`` is missing, is no folder, cannot be listed or holds no image.
    """

    def __init__(self, root: str | os.PathLike[str] | None) -> None:
        self.root = require_folder(root)
        self._names = list_images(self.root)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> bytes:
        """The encoded file."""
        return (self.root / self._names[index]).read_bytes()

    def name(self, index: int) -> str:
        """The path below the root, with forward slashes."""
        return printable(self._names[index])


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


class Subset:
    """Some items of another source, in the given order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source, self._indices = source, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> bytes:
        """The encoded file."""
        return self._source.read(self._indices[index])

    def name(self, index: int) -> str:
        """The name that the whole source gives it."""
        return self._source.name(self._indices[index])


class Split(NamedTuple):
    """Training and validation photographs, and what the user should be told once about them."""

    train: Source
    val: Source
    note: str = ""


def folder(root: str | None, val_ratio: float = 0.05, split: str = "hash") -> Split:
    """Any tree of photographs: its ``train/`` and ``val/`` if both exist, else cut off by ratio (see `divide`)."""
    base = require_folder(root)
    train, val = base / "train", base / "val"
    if not train.is_dir():
        return divide(FolderSource(base), val_ratio, split)
    if val.is_dir():
        return Split(FolderSource(train), FolderSource(val))
    return divide(FolderSource(train), val_ratio, split, note=f"{base} has train/ but no val/. ")


def imagenet(root: str | None, val_ratio: float = 0.01) -> Split:
    """ILSVRC: ``train/<wnid>/*.JPEG`` and ``val/``, flat or in class folders, also below ``Data/CLS-LOC``.

    Without validation photographs a hash split of the training photographs stands in.

    Raises:
        DataError: the layout is another one.
    """
    base = require_folder(root)
    places = [base / below for below in ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")]
    home = next((place for place in places if _has_class_folders(place / "train")), None)
    if home is None:
        raise DataError(
            f"{base} has not ImageNet's layout.\n  expected  train/n01440764/*.JPEG (or Data/CLS-LOC/train/...)\n"
            f"  got       {_listing(base)}\n"
            "  to do     point data.root at the folder that holds train/, unpack the classes' tars, or use data=folder"
        )
    train = FolderSource(home / "train")
    if (home / "val").is_dir() and list_images(home / "val", required=False):
        return Split(train, FolderSource(home / "val"))
    return divide(train, val_ratio, "hash", note=f"{home} has no validation photographs in val/. ")


def demo(root: str | None = None) -> Split:
    """The colour photographs inside the installed scikit-image and matplotlib; two are held out for validation.

    Raises:
        DataError: a package or a photograph is not there, or ``root`` was given.
    """
    if root is not None:
        raise DataError(f"data=demo takes no data.root, got {root!r}; say data=folder data.root={root}")
    return Split(FileSource([_packaged(*entry) for entry in DEMO_TRAIN]), FileSource([_packaged(*e) for e in DEMO_VAL]))


def divide(source: Source, val_ratio: float, split: str = "hash", note: str = "") -> Split:
    """Cut ``source`` into training and validation photographs; both get at least one.

    ``split="hash"`` looks at each name alone, so adding files moves none of the others to the other side.
    ``split="sorted"`` takes the last ones by name: the split of CWAM and of InvCompress at ``val_ratio=0.01``.

    Raises:
        ConfigError: an unknown ``split``, or a ratio outside (0, 1).
    """
    if split not in SPLITS:
        raise ConfigError(f"data.source.split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 < val_ratio < 1:
        raise ConfigError(f"data.source.val_ratio: expected a number between 0 and 1, got {val_ratio}")
    chosen = SPLITS[split](source, val_ratio)
    rest = sorted(set(range(len(source))) - set(chosen)) or chosen
    told = f"{note}{len(chosen)} of its {len(source)} photographs serve as validation." if note else ""
    return Split(Subset(source, rest), Subset(source, chosen), told)


def split_by_hash(source: Source, ratio: float) -> list[int]:
    """Items whose name's hash lies in the lowest ``ratio`` of all hashes; the lowest one if there is none."""
    hashes = [blake2b(source.name(i).encode(), digest_size=8).digest() for i in range(len(source))]
    bound = int(ratio * 2**64).to_bytes(8, "big")
    return [i for i, value in enumerate(hashes) if value < bound] or [hashes.index(min(hashes))]


def split_sorted(source: Source, ratio: float) -> list[int]:
    """The last ``ratio`` of the items (sources are sorted by name), at least one."""
    first = min(int(len(source) * (1 - ratio)), len(source) - 1)
    return list(range(first, len(source)))


SPLITS: dict[str, Callable[[Source, float], list[int]]] = {"hash": split_by_hash, "sorted": split_sorted}


def require_folder(root: str | os.PathLike[str] | None) -> Path:
    """``root`` as a path, with ``~`` replaced. Raises DataError if it is not given, not there, or no folder."""
    if root is None:
        raise DataError("data.root is not given.\n  to do     add data.root=/where/the/photographs/are")
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"expected a folder, got the file {path}.\n  to do     unpack it, or give the folder around it")
    parent = next((p for p in path.absolute().parents if p.exists()), Path("/"))
    raise DataError(f"no folder {path}.\n  got       {parent} with {_listing(parent)}\n  to do     correct data.root")


def list_images(root: Path, required: bool = True) -> list[str]:
    """Paths of all image files below ``root``, relative to it and sorted; each real folder is entered once.

    Raises:
        DataError: a folder cannot be listed, or there is no image although one is ``required``.
    """
    found: list[str] = []
    others, entered, pending = 0, set(), [""]
    while pending:
        below = pending.pop()
        status = os.stat(root / below)
        if (status.st_dev, status.st_ino) in entered:  # a symbolic link back into the tree
            continue
        entered.add((status.st_dev, status.st_ino))
        folders, images, rest = _look_into(root, below)
        found += images
        others += rest
        pending += reversed(folders)  # in order, so that a folder reached twice always gets the same name
    if required and not found:
        raise DataError(
            f"no image below {root}.\n  expected  files ending in {' '.join(SUFFIXES)}\n"
            f"  got       {others} other files\n  to do     correct data.root, or unpack the archive that lies there"
        )
    return sorted(found)


def _look_into(root: Path, below: str) -> tuple[list[str], list[str], int]:
    """Sub-folders, images and the number of other files of one folder."""
    folders, images, others = [], [], 0
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot list {root / below}: {error.strerror}.\n  to do     mend its permissions") from error
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
            continue
        if _is_folder(entry):
            folders.append(path)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and (entry.is_symlink() or entry.is_file()):
            images.append(path)  # a broken link stays in, to be named as unreadable rather than vanish
        else:
            others += 1
    return folders, images, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def printable(name: str) -> str:
    """``name`` with undecodable bytes replaced, and with forward slashes."""
    return os.fsencode(name).decode("utf-8", "replace").replace(os.sep, "/")


def _has_class_folders(path: Path) -> bool:
    return path.is_dir() and any(re.fullmatch(r"n\d{8}", entry.name) and entry.is_dir() for entry in os.scandir(path))


def _listing(path: Path, most: int = 6) -> str:
    names = sorted(printable(entry.name) for entry in os.scandir(path) if not entry.name.startswith("."))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def _packaged(package: str, below: str) -> Path:
    """A file inside an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = next((Path(place, below) for place in places if Path(place, below).is_file()), None)
    if found is None:
        raise DataError(f"data=demo needs {package}/{below}, which is not installed.\n  to do     pip install -e .")
    return found
