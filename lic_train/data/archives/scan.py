"""State of one archive while it is indexed, shared by all formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from lic_train.data.archives.index import Listing, Part
from lic_train.data.archives.names import has_hidden_part, is_picture, printable, short_suffix, text
from lic_train.data.archives.storage import MAX_BYTES, ReadAt, too_large


@dataclass
class Scan:
    """One archive and the images found in it so far.

    Attributes:
        read: reads a byte range of the archive.
        number: number of the archive among its parts.
        part: its path and size.
        prefix: put in front of the names of its images.
        advance: called with the number of additional bytes that have been processed.
    """

    read: ReadAt
    number: int
    part: Part
    prefix: bytes
    advance: Callable[[int], None]
    listing: Listing = field(default_factory=Listing)
    _position: int = 0

    @property
    def label(self) -> str:
        """Name of the archive in problem reports."""
        return printable(os.path.basename(self.part.path))

    def tell(self, position: int) -> None:
        """Report that indexing has reached byte ``position``."""
        self.advance(position - self._position)
        self._position = position

    def take(self, name: bytes, offset: int, size: int, *, folder: bytes = b"", unusable: str = "") -> None:
        """Add one file of the archive to the images, the problems, or the counts.

        Args:
            name: its path in the archive, or in the inner archive.
            offset: its location, as defined by the reader.
            size: its size in bytes when unpacked.
            folder: path of the inner archive that contains it, ending in a slash.
            unusable: why it cannot be read, empty if it can.
        """
        path = text(name)
        if size > MAX_BYTES:
            unusable = unusable or too_large(size)
        if has_hidden_part(path):
            self.listing.hidden += 1
        elif not is_picture(path):
            self.listing.others[short_suffix(path)] += 1
        elif unusable:
            self.listing.report(f"{self.label}: {printable(folder + name)}", unusable)
        else:
            self.listing.add(self.prefix + folder + name, self.number, offset, size)

    def lose(self, reason: str, start: int, end: int, folder: bytes = b"") -> None:
        """Report damage that makes bytes ``start`` to ``end`` unreachable."""
        where = f"{self.label}: {printable(folder)}" if folder else self.label
        lost = end - start
        self.listing.report(where, f"{reason}; the following {lost:,} bytes are not used" if lost else reason, lost)
