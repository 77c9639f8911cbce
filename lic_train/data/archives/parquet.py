"""Parquet files with a column of encoded images in the format of Hugging Face: ``image: {bytes, path}``.

Parquet can only be read one row group at a time. A row group contains about a hundred images. Recently used row groups
stay in memory up to a limit, and `lic_train.data.stream.draws` visits the images of a few row groups together.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from lic_train.data.archives.index import Entry, Index
from lic_train.data.archives.scan import Scan
from lic_train.data.archives.storage import LocalFiles, require_unchanged
from lic_train.errors import DataError
from lic_train.system.memory import ALLOWANCE, justified

MAX_GROUP = 2**29  # bytes of the images of one row group
KEPT = 2**28  # bytes of row groups that a process keeps in memory
BATCH = 16  # largest number of rows that are decoded at once
MIN_IMAGE = 64  # bytes of a file for each of its rows; a few kB can declare a billion rows
FREE_ROWS = 10_000  # rows that a file of any size may have
# pyarrow raises further types for invalid names (UnicodeDecodeError is a ValueError) and for wrong numbers.
ERRORS = (OSError, ValueError, OverflowError, IndexError)
NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")  # the first one that exists is used
ROW_BITS = 32  # an entry's offset is (row group, row in it)


class ParquetReader:
    """Reads images by row group and row; each process opens its own files.

    Args:
        files: local files; only their paths are used.
    """

    def __init__(self, files: LocalFiles) -> None:
        self.parts = files.parts
        self._forget()

    def read(self, entry: Entry) -> bytes:
        """Return the bytes in the row. Raises OSError, or DataError if the file has changed."""
        if self._process != os.getpid():
            self._forget()
        group, row = divmod(entry.offset, 2**ROW_BITS)
        for batch in self._group(entry.part, group):
            if row < len(batch):
                values = batch.field("bytes") if hasattr(batch, "field") else batch
                if (data := values[row].as_py()) is None:
                    raise OSError("its row contains only a path and no bytes")
                return data
            row -= len(batch)
        raise OSError("its row group has fewer rows than its metadata declare")

    def _forget(self) -> None:
        self._process = os.getpid()
        self._groups: OrderedDict[tuple[int, int], list[Any]] = OrderedDict()  # the most recently used one is last

    def _group(self, part: int, group: int) -> list[Any]:
        key = part, group
        if key not in self._groups:
            self._groups[key] = self._batches(part, group)
            while len(self._groups) > 1 and sum(b.nbytes for g in self._groups.values() for b in g) > KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _batches(self, part: int, group: int) -> list[Any]:
        """Read the images of one row group as arrays of up to BATCH rows."""
        require_unchanged(self.parts[part])
        arrow, batches, size = _pyarrow(), [], 0
        try:
            with arrow.parquet.ParquetFile(self.parts[part].path) as file:
                column = _column(file, self.parts[part].path)
                _, content, limit = _extent(file.metadata.row_group(group), column)
                rows = max(min(limit // max(content, 1), BATCH), 1)  # each can be the largest value of a dictionary
                for batch in file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
                    batches.append(batch.column(0))
                    size += batch.nbytes
                    if size > limit:
                        raise OSError("it contains more bytes than its metadata declare")
        except (arrow.ArrowException, *ERRORS) as error:
            raise OSError(f"its row group is damaged: {error}") from error
        return batches

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "_process": None}


def walk_parquet(scan: Scan) -> None:
    """Add the rows of a file to the listing, using only its footer; the name of a row is its number.

    The size of a row is its share of the row group. It is only used to detect another data set.

    Raises:
        DataError: there is no column of images, or a row group is too large for memory.
    """
    arrow, path, first = _pyarrow(), scan.part.path, 0
    most = FREE_ROWS + scan.part.size // MIN_IMAGE
    try:
        with arrow.parquet.ParquetFile(path) as file:
            column = _column(file, path)
            for group in range(file.metadata.num_row_groups):
                rows, content, limit = _extent(file.metadata.row_group(group), column)
                if content > limit:
                    raise _too_large(path, content, limit)
                if first + rows > most:
                    raise OSError(f"{first + rows:,} rows in {scan.part.size:,} bytes")
                for row in range(rows):
                    name = scan.prefix + b"%08d" % (first + row)
                    scan.listing.add(name, scan.number, (group << ROW_BITS) + row, content // rows)
                first += rows
    except (arrow.ArrowException, *ERRORS) as error:
        scan.lose(f"damaged or cut short: {error}", 0, scan.part.size)
    scan.tell(scan.part.size)


def row_groups(index: Index) -> npt.NDArray[np.int64]:
    """Return (n,) a number for the row group of each image."""
    return (index.part_numbers.astype(np.int64) << ROW_BITS) + (index.offsets >> ROW_BITS)


def _extent(group: Any, column: str) -> tuple[int, int, int]:
    """Return the number of rows of a row group, the bytes of its images, and the largest number that is accepted."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    images = [chunk for chunk in chunks if chunk.path_in_schema == column]
    content = sum(max(chunk.total_uncompressed_size, 0) for chunk in images)
    stored = sum(max(chunk.total_compressed_size, 0) for chunk in images)
    return max(group.num_rows, 0), content, min(justified(stored), MAX_GROUP)


def _column(file: Any, path: str) -> str:
    """Return the path of the column that contains the bytes of the images."""
    schema = file.metadata.schema
    columns = [schema.column(i) for i in range(len(schema))]
    binary = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type != "STRING"]
    wanted = [path for name in NAMES for path in (f"{name}.bytes", name) if path in binary]
    structs = [path for path in binary if path.endswith(".bytes") and path.count(".") == 1]
    for candidates in (wanted, structs):
        if candidates:
            return candidates[0]
    raise DataError(
        f"{path} has no column of images.",
        expected="a column named image that contains bytes or {bytes, path}",
        got=", ".join(column.path for column in columns),
        to_do="rename the column",
    )


def _too_large(path: str, content: int, limit: int) -> DataError:
    return DataError(
        f"A row group of {path} is too large to be read as a whole.",
        expected=f"at most {limit:,} bytes of images",
        got=f"{content:,} bytes",
        to_do="write the file with smaller groups: pyarrow.parquet.write_table(..., row_group_size=100)"
        if limit == MAX_GROUP
        else f"set the environment variable {ALLOWANCE} to a larger number of MiB if you trust the file",
    )


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("Parquet files need pyarrow.", to_do="pip install 'lic-train[parquet]'") from error
    return pyarrow
