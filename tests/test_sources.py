"""Sources: files that are found and ignored, and splits."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lic_train.data.sets.sources import FolderSource, demo, folder, imagenet
from lic_train.data.sets.splits import Subset, divide
from lic_train.errors import ConfigError, DataError
from tests.made_up import tar_bytes, write_tree, zip_bytes

SHARED = Path(__file__).parents[2] / "shared" / "data"


def put(root: Path, *names: str) -> Path:
    """Write files that contain their own name; sources do not inspect the content."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def names(source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def contents(source) -> list[str]:
    return [source.read(i).decode() for i in range(len(source))]


# ---- folders


def test_folder_lists_and_reads_images_of_the_whole_tree_in_order(tmp_path):
    expected = ["a/b/x.JPEG", "a/x.png", "b.tiff", "c.WebP"]
    put(tmp_path, *reversed(expected))
    source = FolderSource(tmp_path)
    assert names(source) == expected
    assert contents(source) == expected


def test_hidden_system_and_other_files_are_ignored(tmp_path):
    put(tmp_path, "x.png", ".y.png", "._x.png", ".cache/z.png", "__MACOSX/x.png", "@eaDir/x.jpg", "Thumbs.db", "a.txt")
    put(tmp_path, "png", "list.json")
    (tmp_path / "folder.png").mkdir()
    put(tmp_path, "folder.png/inside.png")
    assert names(FolderSource(tmp_path)) == ["folder.png/inside.png", "x.png"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    put(tmp_path / "far", "away.png")
    put(tmp_path / "root", "a/x.png")
    (tmp_path / "root/a/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/b").symlink_to(tmp_path / "far")
    (tmp_path / "root/c").symlink_to(tmp_path / "far")
    (tmp_path / "root/self").symlink_to("self")
    (tmp_path / "root/gone.png").symlink_to("nowhere.png")
    source = FolderSource(tmp_path / "root")
    assert names(source) == ["a/x.png", "b/away.png", "gone.png"]  # the broken link is reported when it is read
    with pytest.raises(OSError, match="No such file"):
        source.read(2)


def test_names_that_are_not_utf8(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"here")
    except OSError:
        pytest.skip("this file system does not support these names")
    source = FolderSource(tmp_path)
    assert source.name(0).encode() == "caf\N{REPLACEMENT CHARACTER}.png".encode()
    assert source.read(0) == b"here"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (None, "data.root is not set"),
        ("missing/deeper", "No folder or archive .*missing/deeper"),
        ("empty", "No image below"),
        ("texts", "2 other files"),
        ("file.tar", r"file\.tar cannot be used.*\nexpected: a folder"),
    ],
)
def test_invalid_roots_raise(tmp_path, root, message):
    (tmp_path / "empty").mkdir()
    put(tmp_path, "texts/a.txt", "texts/b/c.json", "file.tar")
    for make in (FolderSource, folder, imagenet):
        reason = "layout" if make is imagenet and root in ("empty", "texts") else message
        with pytest.raises(DataError, match=reason) as caught:
            make(str(tmp_path / root) if root else None)
        assert "to do" in str(caught.value)


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path, "pictures/x.png")
    assert names(FolderSource("~/pictures")) == ["x.png"]


# ---- splits

MANY = [f"{i:04d}.png" for i in range(400)]


def test_train_and_val_folders_are_used(tmp_path):
    put(tmp_path, "train/a.png", "train/b/c.png", "val/d.png", "other/e.png")
    train, val, note, _ = folder(str(tmp_path))
    assert (names(train), names(val), note) == (["train/a.png", "train/b/c.png"], ["val/d.png"], "")


def test_train_without_val_is_split_with_a_note(tmp_path):
    put(tmp_path, *(f"train/{name}" for name in MANY), "stray.png")
    train, val, note, _ = folder(str(tmp_path), val_ratio=0.1)
    assert sorted(names(train) + names(val)) == [f"train/{name}" for name in MANY]
    assert "no val" in note
    assert f"{len(val)} of its 400" in note


def test_hash_split_has_the_ratio_and_keeps_old_files_in_place(tmp_path):
    train, val, *_ = folder(str(put(tmp_path, *MANY)), val_ratio=0.2)
    assert sorted(names(train) + names(val)) == MANY
    assert abs(len(val) - 80) < 5 * (400 * 0.2 * 0.8) ** 0.5
    put(tmp_path, *(f"new{i}.png" for i in range(100)))
    more = folder(str(tmp_path), val_ratio=0.2)
    assert set(names(train)) < set(names(more.train))
    assert set(names(val)) < set(names(more.val))
    assert contents(more.val) == names(more.val)


def test_sorted_split_uses_the_last_percent(tmp_path):
    train, val, *_ = folder(str(put(tmp_path, *MANY)), val_ratio=0.01, split="sorted")
    assert names(train) == MANY[:396]
    assert names(val) == MANY[396:]


@pytest.mark.parametrize("split", ["hash", "sorted"])
def test_both_sides_of_a_split_get_at_least_one(tmp_path, split):
    source = FolderSource(put(tmp_path, "a.png", "b.png", "c.png"))
    train, val, *_ = divide(source, 1e-6, split)
    assert (len(train), len(val)) == (2, 1)
    alone = divide(Subset(source, [1]), 0.5, split)
    assert names(alone.train) == names(alone.val) == ["b.png"]


@pytest.mark.parametrize(("options", "message"), [({"split": "random"}, "hash, sorted"), ({"val_ratio": 1.5}, "1.5")])
def test_invalid_split_options_raise(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        folder(str(put(tmp_path, "a.png")), **options)


# ---- splits by name


def test_archives_named_train_and_val_are_used(tmp_path):
    shards = {f"data/{side}-0000{i}-of-00002.tar": tar_bytes({f"{side}{i}.png": b""}) for side in SIDES for i in (0, 1)}
    train, val, note, _ = folder(str(write_tree(tmp_path, shards)))
    assert names(train) == ["train-00000-of-00002/train0.png", "train-00001-of-00002/train1.png"]
    assert names(val) == ["validation-00000-of-00002/validation0.png", "validation-00001-of-00002/validation1.png"]
    assert note == ""


SIDES = ("train", "validation", "test")


@pytest.mark.parametrize("home", ["", "DIV2K/", "a/b/"])
@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_train_and_val_folders_inside_an_archive_are_used(tmp_path, home, val):
    files = {f"{home}train/{i}.png": b"" for i in range(3)} | {f"{home}{val}/x.png": b""}
    expected = [f"{home}train/{i}.png" for i in range(3)], [f"{home}{val}/x.png"], ""
    packed = write_tree(tmp_path, {"x.zip": zip_bytes(files), "x.tar": tar_bytes(files)})
    for root in (packed / "x.zip", packed / "x.tar", *([write_tree(tmp_path / "tree", files)] if home else [])):
        train, found, note, _ = folder(str(root))
        assert (names(train), names(found), note) == expected


def test_folders_with_similar_names_are_not_splits(tmp_path):
    put(tmp_path, "train station/a.png", "val d'isere/b.png", "x.png", "training/c.png")
    train, val, *_ = folder(str(tmp_path), val_ratio=0.5)
    assert sorted(names(train) + names(val)) == ["train station/a.png", "training/c.png", "val d'isere/b.png", "x.png"]


def test_train_and_val_folders_may_contain_archives(tmp_path):
    write_tree(tmp_path, {"train/0.tar": tar_bytes({"a.png": b"a"}), "validation/0.tar": tar_bytes({"b.png": b"b"})})
    train, val, *_ = folder(str(tmp_path))
    assert (names(train), names(val)) == (["train/0/a.png"], ["validation/0/b.png"])


# ---- several roots


def test_several_roots_are_joined_under_their_names(tmp_path):
    put(tmp_path / "one/photos", *MANY[:60])
    put(tmp_path / "two/photos", *MANY[:20])
    write_tree(tmp_path, {"more.tar": tar_bytes({name: name.encode() for name in MANY[:40]})})
    roots = [f"{tmp_path}/one/photos", f"{tmp_path}/two/photos/", f"{tmp_path}/more.tar"]
    train, val, *_ = folder(roots, val_ratio=0.2, weights=[1, 2, 1])
    for side in (train, val):
        assert {name.partition("/")[0] for name in names(side)} == {"photos(0)", "photos(1)", "more.tar"}
        assert contents(side) == [name.partition("/")[2] for name in names(side)]
        assert len(set(names(side))) == len(side)
    assert len(train) + len(val) == 120
    first = [name.partition("/")[0] for name in names(val)[:6]]
    assert len(set(first)) == 3  # the first photographs are from all roots


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -2], [1, 2, 3]])
def test_invalid_weights_raise(tmp_path, weights):
    root = str(put(tmp_path, "a.png"))
    with pytest.raises(ConfigError, match=r"data\.source\.weights.\nexpected: 2 numbers above 0"):
        folder([root, root], weights=weights)


# ---- ImageNet


@pytest.mark.parametrize("home", ["", "Data/CLS-LOC/", "ILSVRC/Data/CLS-LOC/"])
@pytest.mark.parametrize("val", ["val/ILSVRC2012_val_00000001.JPEG", "val/n01440764/v.JPEG"])
def test_imagenet_layouts(tmp_path, home, val):
    put(tmp_path, f"{home}train/n01440764/a.JPEG", f"{home}train/n02111889/b.JPEG", home + val)
    train, found, note, _ = imagenet(str(tmp_path))
    assert names(train) == ["n01440764/a.JPEG", "n02111889/b.JPEG"]
    assert [f"val/{name}" for name in names(found)] == [val]
    assert note == ""


@pytest.mark.parametrize("empty_val", [False, True])
def test_imagenet_without_val_is_split_with_a_note(tmp_path, empty_val):
    put(tmp_path, *(f"train/n01440764/{name}" for name in MANY))
    if empty_val:
        (tmp_path / "val").mkdir()
    train, val, note, _ = imagenet(str(tmp_path), val_ratio=0.05)
    assert len(train) + len(val) == 400
    assert 0 < len(val) < 60
    assert "no validation photographs" in note


def test_other_layout_than_imagenet_raises(tmp_path):
    put(tmp_path, "train/n01440764.tar", "train/cats/x.png")
    with pytest.raises(DataError, match="train/n01440764"):
        imagenet(str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_imagenet_sample():
    train, val, note, _ = imagenet(str(SHARED / "imagenet_sample"))
    assert (len(train), len(val), note) == (757, 50, "")  # the counts of its README


# ---- demo


def test_demo_has_ten_colour_photographs_two_for_validation():
    train, val, *_ = demo()
    assert len(train) == 8
    assert names(val) == ["chelsea.png", "coffee.png"]
    assert not set(names(train)) & set(names(val))
    for source in (train, val):
        for i in range(len(source)):
            with Image.open(io.BytesIO(source.read(i))) as image:
                assert image.mode == "RGB"
                assert min(image.size) >= 256


def test_demo_finds_its_packages_without_importing_them():
    code = (
        "import sys; from lic_train.data.sets.sources import demo; demo(); "
        "print({'skimage', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_demo_with_a_root_raises_with_advice():
    with pytest.raises(DataError, match=r"data=folder data\.root=/photos"):
        demo("/photos")
