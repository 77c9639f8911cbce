"""Removal of metadata from PNG and JPEG files, so that damaged or huge metadata do not make the pixels unusable."""

from __future__ import annotations

PNG = b"\x89PNG\r\n\x1a\n"
# Chunks that determine the pixels (PNG specification, third edition, section 11). eXIf contains the orientation.
PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
ORIENTATION_CHUNK = b"eXIf"
JPEG = b"\xff\xd8"
SCAN = 0xDA
# ITU-T T.81, table B.1: application segments and comments. APP0 (JFIF) and APP14 (Adobe) determine the colour space.
METADATA_SEGMENTS = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
EXIF_SEGMENT, EXIF = 0xE1, b"Exif\0\0"


def without_metadata(data: bytes, keep_orientation: bool = True) -> bytes | None:
    """Return a PNG or JPEG with the parts that determine its pixels; None for other formats and if nothing is left out.

    Args:
        data: the encoded file.
        keep_orientation: keep EXIF data, which contain the orientation.
    """
    if data.startswith(PNG):
        kept = _png(data, keep_orientation)
    elif data.startswith(JPEG):
        kept = _jpeg(data, keep_orientation)
    else:
        return None
    return kept if len(kept) < len(data) else None


def _png(data: bytes, keep_orientation: bool) -> bytes:
    wanted = PIXEL_CHUNKS | ({ORIENTATION_CHUNK} if keep_orientation else set())
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])  # length, kind, content, CRC-32
        if data[at + 4 : at + 8] in wanted:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _jpeg(data: bytes, keep_orientation: bool) -> bytes:
    kept, at = [JPEG], len(JPEG)
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != SCAN:
        kind, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        is_exif = kind == EXIF_SEGMENT and data[at + 4 : at + 10] == EXIF
        if kind not in METADATA_SEGMENTS or (is_exif and keep_orientation):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])
