"""Which pictures are trained on: one rule of names for trees, zips, tars, shards and Parquet."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lic_train.data.archives import names
from lic_train.data.module import Photographs
from lic_train.data.sets.parts import part_of
from lic_train.data.sets.sources import folder
from lic_train.data.sets.splits import Split
from lic_train.errors import DataError
from tests.made_up import contents, tar_bytes, write_tree, zip_bytes

Files = Mapping[str, bytes]


def tree(at: Path, files: Files) -> str:
    return str(write_tree(at / "set", files))


def one_zip(at: Path, files: Files) -> str:
    return str(write_tree(at, {"x.zip": zip_bytes(files)}) / "x.zip")


def one_tar(at: Path, files: Files) -> str:
    return str(write_tree(at, {"x.tar": tar_bytes(files)}) / "x.tar")


def shards(at: Path, files: Files) -> str:
    """One tar for each first folder, named by it."""
    groups: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        top, _, rest = name.partition("/")
        groups.setdefault(top, {})[rest] = data
    return str(write_tree(at / "set", {f"{top}.tar": tar_bytes(group) for top, group in groups.items()}))


def archives_in_folders(at: Path, files: Files) -> str:
    """One zip in each first folder."""
    groups: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        top, _, rest = name.partition("/")
        groups.setdefault(f"{top}/all.zip", {})[rest] = data
    return str(write_tree(at / "set", {name: zip_bytes(group) for name, group in groups.items()}))


CONTAINERS = [tree, one_zip, one_tar, shards, archives_in_folders]


def pictures(*folders: str, count: int = 12) -> dict[str, bytes]:
    return {f"{folder}/{i:02}.png": f"{folder} {i}".encode() for folder in folders for i in range(count)}


def used(split: Split) -> tuple[set[str], set[str]]:
    """Return the first folders of the pictures on both sides."""
    train, val = (set(contents(side).values()) for side in (split.train, split.val))
    return {data.decode().split()[0] for data in train}, {data.decode().split()[0] for data in val}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("folders", "train", "val"),
    [
        (("train", "val", "test"), "train", "val"),
        (("train", "test"), "train", "train"),
        (("DIV2K_train_HR", "DIV2K_valid_HR"), "DIV2K_train_HR", "DIV2K_valid_HR"),
        (("train2017", "val2017", "test2017"), "train2017", "val2017"),
        (("training", "validation", "testing"), "training", "validation"),
        (("professional-train", "Validation", "unused"), "professional-train", "Validation"),
        (("photos", "Flickr_test"), "photos", "photos"),
        (("photos", "valid"), "photos", "valid"),
    ],
)
def test_parts_are_the_same_in_every_container(
    tmp_path: Path, container: Callable[[Path, Files], str], folders: tuple[str, ...], train: str, val: str
) -> None:
    split = folder(container(tmp_path, pictures(*folders)))
    assert used(split) == ({train}, {val})


@pytest.mark.parametrize("container", [tree, one_zip, one_tar])
@pytest.mark.parametrize("home", ["test_sets/2017", "my_val", "a/b"])
def test_names_of_the_folder_that_contains_all_pictures_do_not_decide(
    tmp_path: Path, container: Callable[[Path, Files], str], home: str
) -> None:
    files = {f"{home}/{name}": data for name, data in pictures("train", "val").items()}
    assert used(folder(container(tmp_path, files))) == ({"train"}, {"val"})


@pytest.mark.parametrize("container", [one_zip, one_tar])
def test_test_alone_is_refused(tmp_path: Path, container: Callable[[Path, Files], str]) -> None:
    with pytest.raises(DataError, match="never trained on") as refused:
        folder(container(tmp_path, pictures("test_HR")))
    assert "12 pictures in test_HR" in str(refused.value)


def test_validation_alone_is_divided_with_a_note(tmp_path: Path) -> None:
    split = folder(one_zip(tmp_path, pictures("DIV2K_valid_HR")))
    assert len(split.train) + len(split.val) == 12
    assert "DIV2K_valid_HR" in split.note


@pytest.mark.parametrize("folders", [("train_station", "park"), ("train station", "val d'isere"), ("trains", "tests")])
def test_classes_with_similar_names_are_no_parts(tmp_path: Path, folders: tuple[str, ...]) -> None:
    split = folder(tree(tmp_path, pictures(*folders)))
    assert len(split.train) + len(split.val) == 24


def test_outermost_name_decides(tmp_path: Path) -> None:
    split = folder(tree(tmp_path, pictures("train/test_tube", "val/train_station", "test/train")))
    assert used(split) == ({"train/test_tube"}, {"val/train_station"})


@pytest.mark.parametrize(
    ("name", "part"),
    [("TRAIN", "train"), ("test-00000-of-00002", "test"), ("test_dev_val", "test"), ("train_val", ""), ("valley", "")],
)
def test_part_of_a_name(name: str, part: str) -> None:
    assert part_of(name) == part


# --- the table at the start ------------------------------------------------------------------------------------------


def text(split: Split) -> str:
    return "\n".join(f"{kind}: {what}" for kind, what in split.rows)


@pytest.mark.parametrize("container", CONTAINERS)
def test_table_lists_the_parts_and_what_is_left_out(tmp_path: Path, container: Callable[[Path, Files], str]) -> None:
    files = pictures("Z_train", "Z_valid", count=3) | pictures("Z_test", count=5) | pictures("figures", count=2)
    files |= {f"Z_train/{i}.mp4": b"" for i in range(4)} | {"Z_train/x.xyz": b""}
    found = text(folder(container(tmp_path, files)))
    assert "training: 3 in Z_train" in found
    assert "validation: 3 in Z_valid" in found
    assert "left out: 5 in Z_test: test is never trained on" in found
    assert "left out: 2 images are neither in train nor in val" in found
    assert "4 .mp4" in found
    assert "1 .xyz" in found


@pytest.mark.parametrize("container", [tree, one_zip, one_tar])
def test_heic_is_offered_where_it_cannot_be_read(
    tmp_path: Path, container: Callable[[Path, Files], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "SUFFIXES", names.BASIC)
    files = pictures("a", count=3) | {f"a/{i}.HEIC": b"" for i in range(5)} | {f"a/{i}.txt": b"" for i in range(9)}
    assert "5 .heic (pip install 'lic-train[heif]'), 9 .txt" in text(folder(container(tmp_path, files)))


def test_installing_heif_rebuilds_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, pictures("a", count=3) | {"a/x.heic": b""})
    caching = importlib.import_module("lic_train.data.archives.cached")
    sizes = []
    for suffixes in (names.BASIC, names.BASIC + names.HEIF):
        monkeypatch.setattr(names, "SUFFIXES", suffixes)
        monkeypatch.setattr(caching, "SUFFIXES", suffixes)
        split = folder(root, cache=str(tmp_path / "cache"))
        sizes.append(len(split.train) + len(split.val))
    assert sizes == [3, 4]


def test_several_roots_are_named_in_the_table(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "1", pictures("train", "test")), tree(tmp_path / "2", pictures("a"))
    data = Photographs(folder, root=[one, two], crop=16, batch_size=2)
    assert ("left out", "set(0): 12 in test: test is never trained on") in data.rows
