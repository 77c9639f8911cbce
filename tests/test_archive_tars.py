"""Tars that are read in place, compared with Python's tarfile and GNU tar."""

from __future__ import annotations

import io
import pickle
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.data.archives.tars import BLOCK
from lic_train.errors import DataError, LicError
from tests.made_up import contents, imagenet_tar, png, tar_bytes

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
PICTURES = {f"{name}.png": png(i, 6, 5 + i) for i, name in enumerate("cab")}


def opened(path: Path, data: bytes | None = None):
    if data is not None:
        path.write_bytes(data)
    return open_source(str(path), Cache())


def problems(source) -> list[str]:
    return [f"{file}: {reason}" for file, reason in source.index.problems]


def header_at(data: bytes, name: bytes) -> int:
    """Return the offset of the header of a member."""
    place = data.index(name + b"\0")
    assert place % BLOCK == 0
    return place


def with_fields(data: bytes, name: bytes, fields: dict[int, bytes]) -> bytes:
    """Return the tar with other fields in one header, and a valid checksum."""
    place = header_at(data, name)
    block = bytearray(data[place : place + BLOCK])
    for start, field in fields.items():
        block[start : start + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:place] + bytes(block) + data[place + BLOCK :]


@pytest.mark.parametrize("kind", FORMATS)
def test_tar_contents_sorted_by_name(tmp_path, kind):
    source = opened(tmp_path / "x.tar", tar_bytes(PICTURES, kind))
    assert contents(source) == PICTURES
    assert [source.name(i) for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert problems(source) == []


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_that_are_not_utf8(tmp_path, kind):
    names = ["d" * 90 + "/" + "e" * 150 + ".png", "s" * 100 + ".png", "caf\udce9.png", "\u96ea.png"]
    files = {name: png(i) for i, name in enumerate(names)}
    source = opened(tmp_path / "x.tar", tar_bytes(files, kind))
    expected = {name.replace("\udce9", "\N{REPLACEMENT CHARACTER}"): data for name, data in files.items()}
    assert contents(source) == expected


def test_ustar_prefix_is_part_of_the_name(tmp_path):
    files = {"d" * 120 + "/" + "e" * 60 + ".png": png(0)}
    assert contents(opened(tmp_path / "x.tar", tar_bytes(files, tarfile.USTAR_FORMAT))) == files


def test_pax_records_are_not_counted_as_files(tmp_path):
    """Copies of ImageNet's tar may contain PAX records; counted as files they would double the set."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as tar:
        for name, data in PICTURES.items():
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), {"mtime": "1.5", "path": f"renamed/{name}"}
            tar.addfile(member, io.BytesIO(data))
    source = opened(tmp_path / "x.tar", file.getvalue())
    assert contents(source) == {f"renamed/{name}": data for name, data in PICTURES.items()}


def test_system_files_links_and_other_files_are_not_images(tmp_path):
    file = io.BytesIO()
    junk = ["._a.png", "__MACOSX/._a.png", ".DS_Store", "d/.hidden/b.png", "Thumbs.db", "list.txt", "png"]
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in [*junk, "./in/../a.png"]:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"data"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.png")
            member.type, member.linkname = kind, "a.png"
            tar.addfile(member)
    source = opened(tmp_path / "x.tar", file.getvalue())
    assert contents(source) == {"in/../a.png": b"data"}
    assert (source.index.hidden, sum(source.index.others.values())) == (4, 3)


def test_later_file_of_the_same_name_is_used(tmp_path):
    data = tar_bytes({"a.png": b"old", "b.png": b"b"})[: 4 * BLOCK] + tar_bytes({"a.png": b"new"})
    assert contents(opened(tmp_path / "x.tar", data)) == {"a.png": b"new", "b.png": b"b"}


def test_gnu_tar_and_its_sparse_files(tmp_path):
    (tmp_path / "in").mkdir()
    for name, data in PICTURES.items():
        (tmp_path / "in" / name).write_bytes(data)
    with (tmp_path / "in" / "holes.png").open("wb") as file:
        for i in range(40):
            file.seek(i * 2**20)
            file.write(b"piece")
    packed = subprocess.run(["tar", "-C", tmp_path / "in", "--sparse", "-cf", tmp_path / "x.tar", "."], check=False)
    if packed.returncode:
        pytest.skip("this tar is not GNU tar")
    source = opened(tmp_path / "x.tar")
    assert contents(source) == PICTURES
    assert problems(source) == ["x.tar: holes.png: stored as a sparse file, which cannot be read in place"]


# ---- tars inside a tar, as in ImageNet


@pytest.mark.parametrize("kind", FORMATS)
def test_inner_tars_are_read_in_place_with_the_names_of_unpacked_folders(tmp_path, kind):
    files = {f"n0000000{c}/n{c}_{i}.JPEG": png(10 * c + i, 8, 8) for c in range(3) for i in range(4)}
    path = tmp_path / "ILSVRC2012_img_train.tar"
    source = opened(path, imagenet_tar(files, kind))
    assert contents(source) == files
    outer = path.read_bytes()  # offsets are relative to the outer file
    assert all(
        outer[e.offset : e.offset + e.size] == files[e.name.decode()] for e in map(source.index.__getitem__, range(12))
    )


def test_damaged_inner_tar_does_not_affect_others(tmp_path):
    good = {f"n0/{i}.png": png(i, 70, 70) for i in range(30)}
    inner = tar_bytes({"a.png": b"first", "b.png": b"second", "c.png": b"third"})
    broken = inner[: 2 * BLOCK] + b"\xff" * BLOCK + inner[3 * BLOCK :]
    classes = {"n0.tar": tar_bytes({name[3:]: data for name, data in good.items()}), "n1.tar": broken}
    source = opened(tmp_path / "x.tar", tar_bytes(classes | {"n2.tar": tar_bytes({"z.png": b"last"})}))
    assert contents(source) == good | {"n1/a.png": b"first", "n2/z.png": b"last"}
    (problem,) = problems(source)
    assert problem.startswith("x.tar: n1/: damaged header at byte")
    assert f"the following {len(inner) - 2 * BLOCK:,} bytes are not used" in problem


def test_third_level_tar_is_not_opened(tmp_path):
    nest = tar_bytes({"a.tar": tar_bytes({"b.tar": tar_bytes(PICTURES), "c.png": b"c"})})
    source = opened(tmp_path / "x.tar", nest)
    assert contents(source) == {"a/c.png": b"c"}
    assert sum(source.index.others.values()) == 1


# ---- damage


def test_truncated_tar_keeps_complete_files_and_reports_the_rest(tmp_path):
    files = {f"{i:02d}.png": png(i, 40, 40) for i in range(30)}
    whole = tar_bytes(files)
    place = header_at(whole, b"28.png")
    source = opened(tmp_path / "x.tar", whole[: place + BLOCK + 1000])
    assert contents(source) == dict(list(files.items())[:28])
    found, size = problems(source), len(files["28.png"])
    assert found[0] == f"x.tar: 28.png: cut short with its tar: {size - 1000:,} of {size:,} bytes are missing"
    assert "x.tar: cut short" in found[1]


@pytest.mark.parametrize("length", [0, 100])
def test_tar_truncated_between_two_files_is_detected(tmp_path, length):
    whole = tar_bytes({f"{i}.png": png(i, 40, 40) for i in range(9)})
    source = opened(tmp_path / "x.tar", whole[: header_at(whole, b"8.png") + length])
    assert len(source) == 8
    assert "without an end mark" in problems(source)[0]


INVALID_SIZES = {
    "huge": b"\x80" + b"\0" * 3 + b"\x10" + b"\0" * 7,  # 2^60 in GNU's binary
    "negative": b"\xff" * 12,
    "words": b"not a number",
    "beyond the end": b"%011o\0" % 10**9,
}


@pytest.mark.parametrize("field", INVALID_SIZES.values(), ids=INVALID_SIZES)
@pytest.mark.parametrize("late", [True, False])
def test_invalid_header_ends_the_tar(tmp_path, field, late):
    files = {f"{i:02d}.png": png(i, 90, 90) for i in range(40)}
    data = with_fields(tar_bytes(files), b"39.png" if late else b"20.png", {124: field})
    if late:
        source = opened(tmp_path / "x.tar", data)
        assert len(source) == 39
        assert problems(source)
    else:  # half of the tar cannot be reached
        with pytest.raises(DataError, match="Too much of the archives is damaged") as caught:
            opened(tmp_path / "x.tar", data)
        assert "x.tar" in str(caught.value)


def test_zeros_in_the_middle_are_not_accepted_as_the_end(tmp_path):
    data = tar_bytes({f"{i}.png": png(i, 600, 600) for i in range(3)})
    place = header_at(data, b"1.png")
    with pytest.raises(DataError, match="end mark"):
        opened(tmp_path / "x.tar", data[:place] + bytes(2 * BLOCK) + data[place + 2 * BLOCK :])


@pytest.mark.parametrize(
    ("kind", "payload", "size"),
    [
        (b"L", b"name", 2**40),
        (b"x", b"14 path=a.png\n", 2**40),
        (b"x", b"99999999999 path=a\n", 19),
        (b"x", b"7 path", 6),
    ],
)
def test_invalid_extension_records_raise(tmp_path, kind, payload, size):
    data = tar_bytes({"record": payload, "b.png": b"b" * 20000})
    data = with_fields(data, b"record", {124: b"\x80" + size.to_bytes(11, "big"), 156: kind})
    with pytest.raises(DataError):
        opened(tmp_path / "x.tar", data)


def test_times_in_gnu_headers_are_not_part_of_the_name(tmp_path):
    """GNU tar --incremental writes times where ustar headers have the first part of a long name."""
    data = with_fields(tar_bytes(PICTURES), b"a.png", {345: b"14712345670\0" * 2})
    assert contents(opened(tmp_path / "x.tar", data)) == PICTURES


def test_many_dots_and_slashes_before_a_name(tmp_path):
    name = "./" * 200_000 + "a.png"
    assert contents(opened(tmp_path / "x.tar", tar_bytes({name: b"a"}))) == {"a.png": b"a"}


def test_changed_bytes_raise_only_lic_errors(tmp_path):
    whole = bytearray(imagenet_tar({f"n{c}/{i}.png": png(i, 5, 5) for c in range(3) for i in range(3)}))
    chance = random.Random(3)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            source = opened(tmp_path / "x.tar", bytes(data))
            contents_read = [source.read(i) for i in range(len(source))]
            assert all(len(read) == source.index[i].size for i, read in enumerate(contents_read))
        except LicError:
            continue


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"some text, longer than one tar block" * 40, "an unknown format"),
        (b"\x1f\x8b" + bytes(600), "gunzip"),
        (tar_bytes({}), "No image in"),
        (tar_bytes({"a.txt": b"text"}), "1 other files"),
    ],
)
def test_files_that_are_not_tars_of_images_raise(tmp_path, data, reason):
    with pytest.raises(DataError, match=reason):
        opened(tmp_path / "x.tar", data)


def test_tar_changed_or_removed_while_reading(tmp_path):
    path = tmp_path / "x.tar"
    source = opened(path, tar_bytes(PICTURES))
    path.rename(tmp_path / "old.tar")
    assert contents(source) == PICTURES  # the file is still open
    elsewhere = pickle.loads(pickle.dumps(source))  # opens the file again, as another process does
    with pytest.raises(OSError, match="No such file"):
        elsewhere.read(0)
    path.write_bytes(tar_bytes(PICTURES))
    with pytest.raises(DataError, match="has changed since this run began"):
        elsewhere.read(0)
    (tmp_path / "old.tar").write_bytes(b"overwritten in place")
    with pytest.raises(DataError, match="start again"):
        source.read(0)
