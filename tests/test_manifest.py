"""Manifest of the training data: resuming with other photographs raises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lic_train.data.sets import manifest
from lic_train.data.sets.sources import demo, folder
from lic_train.errors import DataError
from tests.made_up import png, tar_bytes, write_tree


def of(root: Path | list, **options) -> manifest.Manifest:
    root = [str(each) for each in root] if isinstance(root, list) else str(root)
    return manifest.manifest_of(folder(root, **options), "the root")


@pytest.fixture
def root(tmp_path) -> Path:
    return write_tree(tmp_path / "set", {f"{i:02d}.png": png(i, 5, 5 + i) for i in range(20)})


def test_equal_photographs_have_equal_manifests(tmp_path, root):
    first = of(root)
    assert first == of(root)
    assert first["train"]["photographs"] + first["val"]["photographs"] == 20
    files = {path.name: path.read_bytes() for path in root.iterdir()}
    assert of(write_tree(tmp_path / "copy", files)) == first
    packed = write_tree(tmp_path, {"x.tar": tar_bytes(files)}) / "x.tar"
    assert of(packed) == first  # equal names, sizes and split, so all batches are equal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "03.png").unlink(), "training photographs: 19 -> 18"),
        (lambda root: write_tree(root, {"99.png": b""}), "validation photographs: 1 -> 2"),
        (lambda root: (root / "03.png").rename(root / "03b.png"), "names or sizes of training photographs"),
        (lambda root: (root / "03.png").write_bytes(b"mended"), "names or sizes of training photographs"),
    ],
)
def test_every_change_raises_with_advice(tmp_path, root, change, message):
    path = tmp_path / "run" / manifest.NAME
    manifest.write(path, of(root, split="sorted"))
    manifest.require_same(path, of(root, split="sorted"))
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        manifest.require_same(path, of(root, split="sorted"))
    for word in ("the root", "fresh=true", "name=", f"init_from={path.parent}"):
        assert word in str(caught.value)


def test_manifest_depends_on_split_and_joins(root):
    manifests = [
        of(root, val_ratio=0.2, split="sorted"),
        of(root, val_ratio=0.4, split="sorted"),
        of(root, val_ratio=0.2),
        of([root, root], val_ratio=0.2),
    ]
    assert len({each["train"]["sha256"] for each in manifests}) == 4


def test_manifest_of_a_source_without_index():
    first = manifest.manifest_of(demo(), "the installed packages")
    assert first["train"]["photographs"] == 8
    assert first["train"]["sha256"] != first["val"]["sha256"]
    assert first == manifest.manifest_of(demo(), "the installed packages")


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"train": 3, "val": 4, "root": 1}), "\0"])
def test_unreadable_manifest_raises(tmp_path, root, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(DataError, match=r"cannot be read.*\n.*\n.*remove it"):
        manifest.require_same(tmp_path / "m.json", of(root))
