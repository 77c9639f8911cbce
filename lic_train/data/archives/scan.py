"""One archive on its way into an index: what every kind of walk shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from lic_train.data.archives.index import Listing, Part
from lic_train.data.archives.names import has_hidden_part, is_picture, printable, text
from lic_train.data.archives.storage import MAX_BYTES, ReadAt, too_large


@dataclass
class Scan:
    """The archive, and what has been found in it so far.

    Attributes:
        read: gives pieces of the archive.
        number: of the archive among its parts.
        part: its path and size.
        prefix: is put before the names of its pictures.
        advance: is told how many more bytes have been walked over.
    """

    read: ReadAt
    number: int
    part: Part
    prefix: bytes
    advance: Callable[[int], None]
    listing: Listing = field(default_factory=Listing)
    _told: int = 0

    @property
    def label(self) -> str:
        """The archive's name in problems."""
        return printable(os.path.basename(self.part.path))

    def tell(self, position: int) -> None:
        """The walk has come to this byte."""
        self.advance(position - self._told)
        self._told = position

    def take(self, name: bytes, offset: int, size: int, *, folder: bytes = b"", unusable: str = "") -> None:
        """Sort one file of the archive in: among the pictures, the problems, or those that are only counted.

        Args:
            name: its path in the archive, or in the inner archive.
            offset: where it lies, as its reader understands it.
            size: its bytes when it is unpacked.
            folder: the inner archive that holds it, as a path that ends in a slash.
            unusable: why it cannot be read, if it cannot.
        """
        path = text(name)
        if size > MAX_BYTES:
            unusable = unusable or too_large(size)
        if has_hidden_part(path):
            self.listing.hidden += 1
        elif not is_picture(path):
            self.listing.others += 1
        elif unusable:
            self.listing.report(f"{self.label}: {printable(folder + name)}", unusable)
        else:
            self.listing.add(self.prefix + folder + name, self.number, offset, size)

    def lose(self, reason: str, start: int, end: int, folder: bytes = b"") -> None:
        """Note damage because of which the bytes from ``start`` to ``end`` cannot be reached."""
        where = f"{self.label}: {printable(folder)}" if folder else self.label
        lost = end - start
        self.listing.report(where, f"{reason}; {lost:,} bytes from there on are not used" if lost else reason, lost)
