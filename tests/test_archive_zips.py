"""Zips that are read in place, compared with Python's zipfile."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from lic_train.data.archives import zips
from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.errors import DataError, LicError
from tests.made_up import contents, png, zip_bytes

PICTURES = {f"{name}.png": png(i, 6, 5 + i) for i, name in enumerate("cab")}


def opened(path: Path, data: bytes):
    path.write_bytes(data)
    return open_source(str(path), Cache())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_contents(tmp_path, method):
    files = {**PICTURES, "flat.bmp": b"BM" + bytes(10_000), "sn\u00f6/x.jpg": b"x", "empty.png": b""}
    data = zip_bytes({"d/": b"", **files, "a.txt": b"", "__MACOSX/._c.png": b"", ".DS_Store": b""}, method)
    source = opened(tmp_path / "x.zip", data)
    assert contents(source) == files
    assert (source.index.hidden, sum(source.index.others.values())) == (2, 1)


def test_streamed_zips_with_data_descriptors_and_zip64(tmp_path):
    class Pipe(io.RawIOBase):
        """Cannot seek, so zipfile writes sizes and checksums after each file."""

        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in PICTURES.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    assert contents(opened(tmp_path / "x.zip", bytes(pipe.data))) == PICTURES


def test_numbers_above_32_bits_are_read_from_the_extra_field(monkeypatch):
    """As in a zip above 4 GiB, whose offsets and sizes have 64 bits."""
    wide = struct.pack("<2H2Q", 1, 16, 5 * 2**32, 6 * 2**32)
    fields = struct.pack("<2H3s", 0x5455, 3, b"abc") + wide
    assert zips._widened(fields, [7, zips.ABSENT_32, zips.ABSENT_32]) == [7, 5 * 2**32, 6 * 2**32]
    assert zips._widened(fields[:9], [zips.ABSENT_32]) == [zips.ABSENT_32]
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # zipfile then writes its 64-bit end records
    data = zip_bytes(PICTURES)
    assert b"PK\x06\x06" in data
    found = list(zips.members(lambda offset, size: data[offset : offset + size], len(data)))
    assert [member.name.decode() for _, member in found] == list(PICTURES)


def test_zip_bomb_is_unpacked_up_to_its_declared_size(tmp_path, monkeypatch):
    bomb = zip_bytes({"a.png": bytes(10**7), "b.png": b"fine"})
    honest = struct.pack("<L", 10**7)
    assert bomb.count(honest) == 2
    source = opened(tmp_path / "x.zip", bomb.replace(honest, struct.pack("<L", 1000)))
    asked = []
    original = zips._inflated
    monkeypatch.setattr(zips, "_inflated", lambda packed, size: asked.append(original(packed, size)) or asked[-1])
    with pytest.raises(OSError, match="length is wrong"):
        source.read(0)
    assert len(asked[0]) == 1001
    assert source.read(1) == b"fine"
    giant = opened(tmp_path / "y.zip", bomb.replace(honest, struct.pack("<L", 2**31)))
    assert contents(giant) == {"b.png": b"fine"}
    assert "more than the limit" in giant.index.problems[0].reason


def test_unsupported_members_are_reported(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"a")
        archive.writestr("b.png", b"b" * 100, zipfile.ZIP_BZIP2)
    data = bytearray(file.getvalue())
    record = data.index(b"PK\1\2")
    data[record + 8] |= 1  # a.png is encrypted
    with pytest.raises(DataError, match="No image"):
        opened(tmp_path / "x.zip", bytes(data))
    file = io.BytesIO(bytes(data))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("c.png", b"c")
    source = opened(tmp_path / "x.zip", file.getvalue())
    assert contents(source) == {"c.png": b"c"}
    reasons = [reason.split(" is ")[0] for _, reason in source.index.problems]
    assert reasons == ["encrypted", "compression method 12"]


def test_changed_byte_in_a_member_raises(tmp_path):
    data = bytearray(zip_bytes({"a.bmp": bytes(range(256)) * 4}, zipfile.ZIP_STORED))
    data[data.index(bytes(range(256))) + 100] ^= 1
    with pytest.raises(OSError, match="checksum"):
        opened(tmp_path / "x.zip", bytes(data)).read(0)


@pytest.mark.parametrize("keep", [5, 200, -1, -30])
def test_truncated_zip_raises(tmp_path, keep):
    with pytest.raises(DataError, match=r"cut short|to do"):
        opened(tmp_path / "x.zip", zip_bytes(PICTURES)[:keep])


def test_changed_bytes_raise_only_lic_errors(tmp_path):
    whole = zip_bytes({**PICTURES, "z.bmp": zlib.compress(bytes(500)) + bytes(300)})
    chance = random.Random(4)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            source = opened(tmp_path / "x.zip", bytes(data))
        except LicError:
            continue
        for i in range(len(source)):
            try:
                assert len(source.read(i)) < 2000
            except OSError:
                continue
