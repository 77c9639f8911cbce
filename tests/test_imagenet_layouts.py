"""All layouts of ImageNet on disk contain the same photographs."""

from __future__ import annotations

import tarfile

import pytest

from lic_train.data.sets.sources import imagenet
from lic_train.errors import DataError
from tests.made_up import contents, imagenet_tar, png, tar_bytes, write_tree, zip_bytes

TRAIN = {f"n0000000{c}/n0000000{c}_{i}.JPEG": png(10 * c + i, 8, 8) for c in range(3) for i in range(4)}
VAL = {f"ILSVRC2012_val_0000000{i}.JPEG": png(100 + i, 8, 8) for i in range(4)}
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
CLASS_TARS = {
    f"train/{wnid}.tar": tar_bytes({name[10:]: data for name, data in TRAIN.items() if name.startswith(wnid)})
    for wnid in sorted({name[:9] for name in TRAIN})
}


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


LAYOUTS = {
    "unpacked": ({**below("train", TRAIN), **below("val", VAL)}, ""),
    "tar and val tar": ({TRAIN_TAR: imagenet_tar(TRAIN), VAL_TAR: tar_bytes(VAL)}, TRAIN_TAR),
    "their folder": (
        {TRAIN_TAR: imagenet_tar(TRAIN), VAL_TAR: tar_bytes(VAL), "devkit.tar.gz": b"", "readme": b""},
        "",
    ),
    "tar and val folder": ({TRAIN_TAR: imagenet_tar(TRAIN, tarfile.PAX_FORMAT), **below("val", VAL)}, ""),
    "tars of classes": (CLASS_TARS | below("val", VAL), ""),
    "tars of classes and val tar": (CLASS_TARS | {"val/val.tar": tar_bytes(VAL)}, ""),
    "other names": ({"train.tar": imagenet_tar(TRAIN), "val.tar": tar_bytes(VAL)}, "train.tar"),
}


@pytest.mark.parametrize(("files", "root"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_has_the_same_photographs_and_names(tmp_path, files, root):
    train, val, note, _ = imagenet(str(write_tree(tmp_path, files) / root))
    assert contents(train) == TRAIN
    assert contents(val) == VAL
    assert note == ""


@pytest.mark.parametrize("home", ["", "Data/CLS-LOC/", "ILSVRC/Data/CLS-LOC/"])
def test_zip_of_the_folder(tmp_path, home):
    extra = {f"{home}test/x.JPEG": b"t", "ILSVRC/ImageSets/train.txt": b""}
    inside = {**below(f"{home}train", TRAIN), **below(f"{home}val", VAL), **extra}
    train, val, *_ = imagenet(str(write_tree(tmp_path, {"all.zip": zip_bytes(inside)}) / "all.zip"))
    assert contents(train) == below(f"{home}train", TRAIN)
    assert contents(val) == below(f"{home}val", VAL)


def test_tar_without_validation_is_split_with_a_note(tmp_path):
    root = write_tree(tmp_path, {TRAIN_TAR: imagenet_tar(TRAIN)}) / TRAIN_TAR
    train, val, note, _ = imagenet(str(root), val_ratio=0.3)
    assert contents(train) | contents(val) == TRAIN
    assert 0 < len(val) < 12
    assert "no validation photographs" in note


@pytest.mark.parametrize(
    ("files", "root"),
    [
        ({VAL_TAR: tar_bytes(VAL)}, VAL_TAR),
        ({"photos.tar": tar_bytes({"a/b.png": b""})}, "photos.tar"),
        ({"train_a.tar": imagenet_tar(TRAIN), "train_b.tar": imagenet_tar(TRAIN)}, ""),
        ({"cats/x.png": b""}, ""),
    ],
)
def test_other_layouts_raise(tmp_path, files, root):
    with pytest.raises(DataError, match=r"not have the layout of ImageNet.*\nexpected.*\ngot.*\nto do"):
        imagenet(str(write_tree(tmp_path, files) / root))
