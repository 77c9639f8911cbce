"""Index of a collection: the location of each image, sorted by name, in columns memory-mapped from one file.

All workers and ranks of a machine share the pages of that file. The file is a cache: it is rebuilt if it is missing,
damaged or out of date.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lic_train.system import atomic

MAGIC, VERSION = b"LICINDEX", 2
HEAD = struct.Struct("<8sIIII")  # magic, version, length and CRC-32 of the JSON header, CRC-32 of the columns
ALIGNMENT = 64
COLUMNS = {"offset": "<i8", "size": "<i8", "start": "<i8", "hash": "<u8", "part": "<u4", "text": "u1"}
MAX_PROBLEMS = 1000  # limit of the stored list; a hostile archive may have any number
MAX_SUFFIXES = 100  # counted suffixes of ignored files
CHUNK = 2**20


class DamagedIndex(Exception):
    """The file is cut short, modified or not an index; it must be rebuilt."""


class Entry(NamedTuple):
    """Location of one image: ``size`` bytes at ``offset`` of file ``part``; the reader defines the offset."""

    name: bytes
    part: int
    offset: int
    size: int


class Part(NamedTuple):
    """A file or folder that the index covers; ``stamp`` changes when the file or folder changes."""

    path: str
    size: int
    stamp: int | str


class Problem(NamedTuple):
    """Damage that was found in an archive while it was indexed."""

    file: str
    reason: str


@dataclass
class Listing:
    """Images found so far, in the order in which they were found.

    Attributes:
        hidden: number of ignored hidden and system files.
        others: number of files that are not images by their name, for each suffix.
        lost: bytes of archives that cannot be reached because of damage before them.
    """

    names: list[bytes] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("q"))  # part, offset and size of each image
    problems: list[Problem] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: bytes, part: int, offset: int, size: int) -> None:
        """Add one image."""
        self.names.append(name)
        self.numbers.extend((part, offset, size))

    def extend(self, later: Listing) -> None:
        """Append another listing."""
        self.names += later.names
        self.numbers += later.numbers
        for problem in later.problems:
            self.report(*problem)
        self.hidden, self.others = self.hidden + later.hidden, self.others + later.others
        self.lost += later.lost

    def report(self, file: str, reason: str, lost: int = 0) -> None:
        """Add a problem, and the number of bytes that cannot be reached because of it."""
        self.lost += lost
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(file, reason))


class Index:
    """Entries sorted by the bytes of their names; of two with the same name in one archive the later one is used.

    Attributes:
        parts: files or folders that the index covers.
        problems: see `Problem`.
        hidden, others, lost: see `Listing`.
        digest: SHA-256 over names and sizes.
        hashes: (n,) the first 64 bits of BLAKE2b of each name, see `name_hash`.
    """

    def __init__(self, header: dict[str, Any], columns: dict[str, npt.NDArray[Any]], path: Path | None = None) -> None:
        self.parts = tuple(Part(*part) for part in header["parts"])
        self.problems = tuple(Problem(*problem) for problem in header["problems"])
        self.hidden, self.lost = header["hidden"], header["lost"]
        self.others: dict[str, int] = header["others"]
        self.digest: str = header["digest"]
        self.hashes: npt.NDArray[np.uint64] = columns["hash"]
        self._header, self._columns, self._path = header, columns, path

    @classmethod
    def of(cls, listing: Listing, parts: Sequence[Part]) -> Index:
        """Build the index of a listing."""
        order = _sorted(listing)
        names = [listing.names[i] for i in order]
        part, offset, size = np.asarray(listing.numbers, np.int64).reshape(-1, 3)[order].T
        columns = {
            "offset": np.ascontiguousarray(offset),
            "size": np.ascontiguousarray(size),
            "start": np.cumsum([0, *map(len, names)], dtype=np.int64),
            "hash": np.array([name_hash(name) for name in names], np.uint64),
            "part": part.astype(np.uint32),
            "text": np.frombuffer(b"".join(names), np.uint8),
        }
        digest = sha256()
        for name in ("text", "start", "size"):
            digest.update(columns[name].data)
        header = {
            "parts": parts,
            "problems": listing.problems,
            "hidden": listing.hidden,
            "others": dict(listing.others.most_common(MAX_SUFFIXES)),
            "lost": listing.lost,
            "digest": digest.hexdigest(),
            "entries": len(names),
            "letters": len(columns["text"]),
        }
        return cls(header, columns)

    @classmethod
    def open(cls, path: Path) -> Index:
        """Map the file into memory. Raises DamagedIndex, or OSError if the file cannot be opened."""
        with path.open("rb") as file:
            header, start, checksum = _read_header(file.read(HEAD.size), file)
            sizes = {name: count * np.dtype(COLUMNS[name]).itemsize for name, count in _counts(header).items()}
            if os.fstat(file.fileno()).st_size != start + sum(sizes.values()):
                raise DamagedIndex("its length differs from the length in its header")
            file.seek(start)  # the checksum reads the file; reading through the map would count as resident memory
            if _crc(file) != checksum:
                raise DamagedIndex("the checksum of its columns is wrong")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        columns = {}
        for name, count in _counts(header).items():
            columns[name] = np.frombuffer(mapped, COLUMNS[name], count, start)
            start += sizes[name]
        return cls(header, columns, path)

    def save(self, path: Path) -> None:
        """Write the file atomically. Raises OSError."""
        text = json.dumps(self._header).encode()
        text += b" " * (-(HEAD.size + len(text)) % ALIGNMENT)
        checksum = 0
        for name in COLUMNS:
            checksum = zlib.crc32(self._columns[name].data, checksum)
        head = HEAD.pack(MAGIC, VERSION, len(text), zlib.crc32(text), checksum) + text

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                file.write(head)
                for name, kind in COLUMNS.items():
                    file.write(self._columns[name].astype(kind, copy=False).data)

        atomic.replace(path, write)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path, so that another process maps the same file instead of receiving 80 MB."""
        return (Index.open, (self._path,)) if self._path else (Index, (self._header, self._columns))

    def __len__(self) -> int:
        return len(self._columns["offset"])

    def __getitem__(self, number: int) -> Entry:
        part, offset, size = (int(self._columns[key][number]) for key in ("part", "offset", "size"))
        return Entry(self.name(number), part, offset, size)

    def name(self, number: int) -> bytes:
        """Return the name as stored in the folder or archive."""
        first, last = self._columns["start"][number : number + 2]
        return self._columns["text"][first:last].tobytes()

    def names(self) -> Iterator[bytes]:
        """Yield the names in order; faster than `name` for each."""
        letters, starts = self._columns["text"].tobytes(), self._columns["start"].tolist()
        return (letters[first:last] for first, last in pairwise(starts))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(n,) size of each image in bytes, as indexed."""
        return self._columns["size"]

    @property
    def part_numbers(self) -> npt.NDArray[np.uint32]:
        """(n,) number of the part that contains each image."""
        return self._columns["part"]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """(n,) offset of each image; its meaning depends on the reader."""
        return self._columns["offset"]

    def below(self, folder: bytes) -> npt.NDArray[np.int64]:
        """Return the numbers of the entries whose names begin with ``folder``, which must end in a slash."""
        first, last = (
            bisect_left(range(len(self)), bound, key=self.name) for bound in (folder, folder[:-1] + b"0")
        )  # "0" is the character after the slash
        return np.arange(first, last)

    @property
    def nbytes(self) -> int:
        """Total size of the columns in bytes."""
        return sum(column.nbytes for column in self._columns.values())


def name_hash(name: bytes) -> int:
    """Return 64 bits that depend only on the name."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big")


def _sorted(listing: Listing) -> list[int]:
    """Return the order of the entries by name, without entries that a later entry of the same archive replaces."""
    names, parts = listing.names, listing.numbers[::3]
    order = sorted(range(len(names)), key=names.__getitem__)
    return [i for i, j in zip_longest(order, order[1:]) if j is None or (names[i], parts[i]) != (names[j], parts[j])]


def _counts(header: dict[str, Any]) -> dict[str, int]:
    """Return the number of elements of each column."""
    entries = header["entries"]
    return dict.fromkeys(COLUMNS, entries) | {"start": entries + 1, "text": header["letters"]}


def _read_header(head: bytes, file: Any) -> tuple[dict[str, Any], int, int]:
    """Return the header, the offset of the columns, and their CRC-32."""
    if len(head) < HEAD.size:
        raise DamagedIndex("cut short")
    magic, version, length, header_checksum, checksum = HEAD.unpack(head)
    if (magic, version) != (MAGIC, VERSION):
        raise DamagedIndex("not an index, or of another version")
    text = file.read(min(length, os.fstat(file.fileno()).st_size))
    if zlib.crc32(text) != header_checksum:
        raise DamagedIndex("the checksum of its header is wrong")
    return json.loads(text), HEAD.size + length, checksum


def _crc(file: Any) -> int:
    checksum = 0
    for chunk in _chunks(file):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
