"""Partial decoding of JPEG files: only the upper rows that a crop needs.

Pillow cannot skip the rows below a crop. A JPEG is coded from top to bottom and stores its height in one header field,
so a smaller height makes the decoder stop early.
"""

from __future__ import annotations

START, END = b"\xff\xd8", b"\xff\xd9"
# Markers of ITU-T T.81, table B.1.
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames by Huffman codes
TABLES = (0xC4, 0xCC)  # table segments with codes in the range of the frame markers
SCAN = 0xDA


def jpeg_until(data: bytes, rows: int) -> tuple[bytes, int] | None:
    """Return the same JPEG with a smaller height, and that height; its upper ``rows`` rows decode to the same pixels.

    The new height is a multiple of the block height, with a margin for the filters of the decoder: one row for chroma
    upsampling, two block rows for the smoothing of incomplete progressive files.

    Returns:
        None if this saves nothing or may be wrong: a file without an end marker may be truncated, which is only
        detected by decoding the whole file.
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
    """Return the offset of the frame header; None for other codings and for invalid files."""
    at = 2
    while at + 12 < len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind in SEQUENTIAL or kind == PROGRESSIVE:
            return at if data[at + 9] and at + 11 + 3 * data[at + 9] < len(data) else None
        if kind == SCAN or (0xC0 <= kind <= 0xCF and kind not in TABLES):
            return None
        at += 1 if kind == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])  # a fill byte, or a segment
    return None
