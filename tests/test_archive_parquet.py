"""Parquet files in the format of Hugging Face."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from lic_train.data.archives import parquet
from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.errors import DataError
from tests.made_up import contents, png

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
write_table = pytest.importorskip("pyarrow.parquet").write_table

PICTURES = [png(i, 5, 6) for i in range(53)]


def write(path: Path, columns: dict, rows: int = 20, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.table(columns), path, row_group_size=rows, **options)
    return path


def hugging_face(pictures: list[bytes | None]) -> dict:
    images = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)]
    return {
        "label": list(range(len(pictures))),
        "mask": [{"bytes": b"m", "path": "m"}] * len(pictures),
        "image": images,
    }


def opened(path: Path):
    return open_source(str(path), Cache())


@pytest.mark.parametrize("compression", ["snappy", "none", "zstd"])
def test_rows_are_images_in_order(tmp_path, compression):
    source = opened(write(tmp_path / "train.parquet", hugging_face(PICTURES), compression=compression))
    assert [source.read(i) for i in range(len(source))] == PICTURES
    assert [source.name(i) for i in (0, 52)] == ["00000000", "00000052"]
    assert [source.read(i) for i in (52, 0, 31)] == [PICTURES[i] for i in (52, 0, 31)]
    again = pickle.loads(pickle.dumps(source))
    assert again.read(7) == PICTURES[7]


def test_several_files_and_other_columns_of_bytes(tmp_path):
    for i in range(3):
        write(tmp_path / f"data/part-{i}.parquet", {"id": [1, 2], "jpg": PICTURES[2 * i : 2 * i + 2]})
    assert list(contents(opened(tmp_path)).values()) == PICTURES[:6]
    assert list(contents(opened(tmp_path))) == [f"part-{i}/0000000{row}" for i in range(3) for row in range(2)]
    text = write(tmp_path / "text.parquet", {"image": ["a.png", "b.png"], "label": [0, 1]})
    with pytest.raises(DataError, match=r"no column of images.*\n.*\n.*image, label"):
        opened(text)


def test_only_rows_without_bytes_are_unreadable(tmp_path):
    source = opened(write(tmp_path / "x.parquet", hugging_face([None, PICTURES[1]])))
    with pytest.raises(OSError, match="only a path"):
        source.read(0)
    assert source.read(1) == PICTURES[1]


def test_number_of_row_groups_in_memory_is_limited(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", hugging_face([bytes([i]) * 10_000 for i in range(40)]), rows=4)
    source = opened(path)
    monkeypatch.setattr(parquet, "KEPT", 3 * 42_000)
    loads = []
    original = parquet.ParquetReader._batches
    monkeypatch.setattr(parquet.ParquetReader, "_batches", lambda self, *key: loads.append(key) or original(self, *key))
    for i in [0, 1, 5, 9, 0, 3, 13, 4, 0]:  # row groups 0 0 1 2 0 0 3 1 0
        assert source.read(i) == bytes([i]) * 10_000
    assert loads == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 1)]
    assert sum(b.nbytes for group in source.reader._groups.values() for b in group) <= parquet.KEPT


def test_row_groups_too_large_for_memory_raise(tmp_path, monkeypatch):
    data = {"image": [b"one image, repeated 5000"] * 5000}
    path = write(tmp_path / "x.parquet", data, rows=5000)
    source = opened(path)
    monkeypatch.setattr(parquet, "MAX_GROUP", 20_000)  # dictionary encoding makes the column far smaller than its rows
    with pytest.raises(OSError, match="more bytes than its metadata declare"):
        source.read(0)
    with pytest.raises(DataError, match="row_group_size=100"):
        opened(write(tmp_path / "y.parquet", {"image": [bytes([i]) * 1000 for i in range(100)]}, rows=100))


def test_damaged_files(tmp_path):
    path = write(tmp_path / "x.parquet", hugging_face(PICTURES))
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:-4] + b"none", whole[:4] + bytes(100) + whole[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            opened(path)
    path.write_bytes(whole[:200] + bytes(600) + whole[800:])
    source, reasons = opened(path), []
    for i in range(len(source)):
        try:
            assert source.read(i) == PICTURES[i]
        except OSError as error:
            reasons.append(str(error))
    assert len(reasons) == 20
    assert "its row group is damaged" in reasons[0]


def test_file_changed_while_reading_raises(tmp_path):
    path = write(tmp_path / "x.parquet", hugging_face(PICTURES))
    source = opened(path)
    write(path, hugging_face(PICTURES[:30]))
    with pytest.raises(DataError, match="has changed"):
        source.read(0)


def test_digest_depends_on_the_content(tmp_path):
    digests = set()
    for pictures in (PICTURES, PICTURES[:-1], [*PICTURES[:-1], PICTURES[0] + b"more"]):
        digests.add(opened(write(tmp_path / "x.parquet", hugging_face(pictures))).index.digest)
    assert len(digests) == 3
