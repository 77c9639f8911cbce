"""Braces and wildcards, and the kinds of roots."""

from __future__ import annotations

import subprocess
import zipfile

import pytest

from lic_train.config.compose import compose
from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.data.archives.patterns import expand
from lic_train.errors import DataError
from tests.made_up import contents, png, tar_bytes, write_tree, zip_bytes

FILES = {f"{i:04d}.png": png(i, 6, 6) for i in range(6)}


@pytest.mark.parametrize(
    "pattern",
    [
        "s-{0008..0011}.tar",
        "{a,b,}x",
        "{train,val}-{0..2}.tar",
        "s-{9..11}",
        "plain",
        "{007..007}",
        "x{00..01}y{a,b}z{5..6}",
    ],
)
def test_braces_expand_as_in_bash(pattern):
    echo = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True).stdout.split()
    expected = echo if pattern != "{007..007}" else ["007"]
    assert expand(pattern, lambda _: pytest.fail("no wildcard")) == expected


@pytest.mark.parametrize("pattern", ["{0..9999999}", "{5..2}", "{abc}", "{}", "{00000..99999}{0..1}"])
def test_invalid_braces_raise(pattern):
    with pytest.raises(DataError, match="expected"):
        expand(pattern, lambda _: [])


@pytest.fixture
def shards(tmp_path):
    """Three tars named as in webdataset, with labels next to the images."""
    for number in range(3):
        inside = {name: data for i, (name, data) in enumerate(FILES.items()) if i // 2 == number}
        labels = {f"{name[:4]}.{kind}": b"7" for name in inside for kind in ("cls", "json")}
        write_tree(
            tmp_path / "shards", {f"train-{number:06d}.tar": tar_bytes(dict(sorted({**inside, **labels}.items())))}
        )
    return tmp_path / "shards"


def test_shards_by_folder_braces_or_wildcard(shards):
    expected = {f"train-{int(name[:4]) // 2:06d}/{name}": data for name, data in FILES.items()}
    for root in ("", "/train-{000000..000002}.tar", "/train-*.tar", "/train-00000?.tar"):
        assert contents(open_source(f"{shards}{root}", Cache())) == expected
    assert sum(open_source(str(shards), Cache()).index.others.values()) == 12
    alone = open_source(f"{shards}/train-000001.tar", Cache())
    assert list(contents(alone)) == ["0002.png", "0003.png"]
    braces = shards.rename(shards.with_name("a{b,c}"))  # an existing folder whose name looks like a pattern
    assert contents(open_source(str(braces), Cache())) == expected


def test_missing_shards_are_listed(shards):
    with pytest.raises(DataError, match=r"2 of 5 files do not exist: .*train-000003.tar and 1 more"):
        open_source(f"{shards}/train-{{000000..000004}}.tar", Cache())
    with pytest.raises(DataError, match="No file matches"):
        open_source(f"{shards}/none-*.tar", Cache())


def test_damaged_shards_among_others_are_reported(shards):
    write_tree(shards, {f"big-{i}.tar": tar_bytes({"x.png": bytes(200_000)}) for i in range(2)})
    write_tree(shards, {"train-000009.tar": b"<html>not found</html>", "train-000010.tar": b""})
    source = open_source(str(shards), Cache())
    assert len(source) == len(FILES) + 2
    assert [problem.file for problem in source.index.problems] == ["train-000009.tar", "train-000010.tar"]


def test_command_line_accepts_quoted_braces_and_lists():
    pattern = "/sets/shard-{0000..0099}.tar"
    assert compose(["data=folder", f"data.root='{pattern}'"]).data.root == pattern
    both = compose(["data=folder", "data.root=[/a,s3://b/c]", "data.source.weights=[3,1]"]).data
    assert (list(both.root), list(both.source.weights)) == (["/a", "s3://b/c"], [3, 1])


def test_format_is_detected_by_content_not_by_suffix(tmp_path):
    write_tree(tmp_path, {"a.bin": tar_bytes(FILES), "b.tar": zip_bytes(FILES, zipfile.ZIP_STORED)})
    assert contents(open_source(str(tmp_path / "a.bin"), Cache())) == FILES
    assert contents(open_source(str(tmp_path / "b.tar"), Cache())) == FILES


def test_archives_of_two_kinds_raise(tmp_path):
    write_tree(tmp_path, {"a.tar": tar_bytes(FILES), "b.zip": zip_bytes(FILES)})
    with pytest.raises(DataError, match="expected: archives of one kind\ngot: tar, zip"):
        open_source(str(tmp_path), Cache())


def test_archives_next_to_images_are_ignored(tmp_path):
    write_tree(tmp_path, {"all.tar": tar_bytes(FILES), "deep/er/x.png": b"x"})
    source = open_source(str(tmp_path), Cache())
    assert contents(source) == {"deep/er/x.png": b"x"}
    assert sum(source.index.others.values()) == 1


def test_single_image_as_root_raises(tmp_path):
    write_tree(tmp_path, FILES)
    with pytest.raises(DataError, match=r"0000.png cannot be used.*\n.*\ngot: an image\n.*use their folder"):
        open_source(str(tmp_path / "0000.png"), Cache())
