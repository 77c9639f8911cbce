"""The upper rows of a JPEG, for a decoder that would else decode all of it.

A crop needs the rows down to its lower border only. What lies below cannot be skipped by asking Pillow, but by telling
the decoder that the picture ends there: a JPEG is coded from top to bottom, and its height stands in one place.
"""

from __future__ import annotations

START, END = b"\xff\xd8", b"\xff\xd9"
# Markers of ITU-T T.81, table B.1.
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames by Huffman codes
TABLES = (0xC4, 0xCC)  # in the middle of the markers of other frames
SCAN = 0xDA


def jpeg_until(data: bytes, rows: int) -> tuple[bytes, int] | None:
    """The same JPEG with a lower height, and that height; its upper ``rows`` rows decode to the same pixels.

    The new height is a whole number of block rows and leaves room below for what the decoder's filters see: one row for
    the interpolation of colour, two block rows for the smoothing of unfinished progressive files.

    Returns:
        None where that saves nothing, or is not sure to be right: a file that does not end in an end mark may be cut
        short, which only the whole of it shows.
    """
    frame = _frame(data) if data.startswith(START) and data.endswith(END) else None
    if frame is None:
        return None
    height = int.from_bytes(data[frame + 5 : frame + 7])
    samplings = data[frame + 11 : frame + 11 + 3 * data[frame + 9] : 3]
    block = 8 * max(sampling & 15 for sampling in samplings)
    spare = 2 if data[frame + 1] == PROGRESSIVE else 0
    lower = (rows // block + 1 + spare) * block
    if lower >= height:
        return None
    return data[: frame + 5] + lower.to_bytes(2) + data[frame + 7 :], lower


def _frame(data: bytes) -> int | None:
    """Where the frame header begins; None for what is coded in another way, or not by the rules."""
    at = 2
    while at + 12 < len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind in SEQUENTIAL or kind == PROGRESSIVE:
            return at if data[at + 9] and at + 11 + 3 * data[at + 9] < len(data) else None
        if kind == SCAN or (0xC0 <= kind <= 0xCF and kind not in TABLES):
            return None
        at += 1 if kind == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])  # fill bytes, or a segment
    return None
