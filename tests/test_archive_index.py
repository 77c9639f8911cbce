"""Index files: content, cost, and rejection of damaged or outdated indexes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from lic_train.data.archives import cached as caching
from lic_train.data.archives import folders, tars
from lic_train.data.archives.cached import cached
from lic_train.data.archives.index import DamagedIndex, Entry, Index, Listing, Part, Problem
from lic_train.data.archives.indexed import Cache, FolderSource
from lic_train.data.archives.opening import open_source
from tests.made_up import contents, png, tar_bytes, write_tree

PARTS = [Part("/sets/\udce9.tar", 12345, 678)]


def small_index() -> Index:
    listing = Listing(hidden=3, others=Counter({".txt": 4}))
    for name, offset in ((b"b.png", 512), (b"a\xe9.png", 2**40), (b"c/d.png", 0)):
        listing.add(name, 0, offset, 100 + offset % 7)
    listing.report("x.tar", "cut short", 9)
    return Index.of(listing, PARTS)


def described(index: Index):
    entries = [index[i] for i in range(len(index))]
    counts = index.hidden, index.others, index.lost
    return entries, index.parts, index.problems, counts, index.digest, index.hashes.tolist()


def settle(root: Path) -> None:
    """Set old time stamps on all folders, so that their listings are trusted."""
    for path in [root, *root.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            os.utime(path, (1e9, 1e9))


def test_index_round_trip_through_file_and_pickle(tmp_path):
    index = small_index()
    assert [entry.name for entry in map(index.__getitem__, range(3))] == [b"a\xe9.png", b"b.png", b"c/d.png"]
    assert index[0] == Entry(b"a\xe9.png", 0, 2**40, 100 + 2**40 % 7)
    assert index.problems == (Problem("x.tar", "cut short"),)
    assert index.hashes[1] == int.from_bytes(blake2b(b"b.png", digest_size=8).digest(), "big")
    index.save(tmp_path / "x.index")
    opened = Index.open(tmp_path / "x.index")
    for other in (opened, pickle.loads(pickle.dumps(opened)), pickle.loads(pickle.dumps(index))):
        assert described(other) == described(index)
    assert len(pickle.dumps(opened)) < 300  # only the path is pickled


def test_digest_depends_only_on_names_and_sizes():
    def digest(name: bytes, offset: int, size: int) -> str:
        listing = Listing()
        listing.add(name, 0, offset, size)
        listing.add(b"z", 0, 0, 0)
        return Index.of(listing, []).digest

    assert digest(b"a", 1, 2) == digest(b"a", 3, 2)
    assert len({digest(b"a", 1, 2), digest(b"b", 1, 2), digest(b"a", 1, 3), digest(b"az", 1, 2)}) == 4


def test_entries_below_a_folder():
    listing = Listing()
    names = [b"train.png", b"train/a", b"train/b/c", b"train0", b"val/x", b"a"]
    for name in names:
        listing.add(name, 0, 0, 0)
    index = Index.of(listing, [])
    assert [index.name(i) for i in index.below(b"train/")] == [b"train/a", b"train/b/c"]
    assert len(index.below(b"test/")) == 0


def test_any_damage_to_the_file_is_detected(tmp_path):
    path = tmp_path / "x.index"
    small_index().save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedIndex):
            Index.open(path)
    for length in [*range(60), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedIndex):
            Index.open(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DamagedIndex, match="length"):
        Index.open(path)


# ---- a collection as large as ImageNet

MILLIONS = 1_281_167
MEASURE = """
import os, sys
from lic_train.data.archives.index import Index
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
Index.open(__import__("pathlib").Path(sys.argv[2]))
before = resident()
index = Index.open(__import__("pathlib").Path(sys.argv[1]))
import random
names = [index[random.randrange(len(index))].name for _ in range(10_000)]
print(resident() - before)
"""


def test_imagenet_index_needs_less_than_100_mb_on_disk_and_in_memory(tmp_path):
    listing = Listing()
    for i in range(MILLIONS):
        listing.add(b"n%08d/n%08d_%05d.JPEG" % (i // 1282, i // 1282, i % 1282), 0, i * 110_592, 110_000)
    index = Index.of(listing, PARTS)
    assert index.nbytes < 100e6
    index.save(tmp_path / "large.index")
    small_index().save(tmp_path / "small.index")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large.index"), str(tmp_path / "small.index")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 100e6
    opened = Index.open(tmp_path / "large.index")
    assert opened[MILLIONS - 1] == Entry(b"n00000999/n00000999_00448.JPEG", 0, (MILLIONS - 1) * 110_592, 110_000)
    columns = opened._columns.values()
    assert all(not column.flags.owndata and not column.flags.writeable for column in columns)  # memory-mapped


# ---- built once


def counted(monkeypatch, module, name: str) -> list:
    """Record the calls of a function of a module."""
    calls, original = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: calls.append(arguments) or original(*arguments))
    return calls


def test_tar_is_indexed_once_and_again_after_a_change(tmp_path, monkeypatch):
    path, cache = tmp_path / "x.tar", Cache(tmp_path / "cache")
    walks = counted(monkeypatch, tars, "members")
    files = {f"{i}.png": png(i) for i in range(5)}
    path.write_bytes(tar_bytes(files))
    assert contents(open_source(str(path), cache)) == contents(open_source(str(path), cache)) == files
    assert len(walks) == 1
    files["5.png"] = png(5)
    path.write_bytes(tar_bytes(files))
    assert contents(open_source(str(path), cache)) == files
    assert len(walks) == 2
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # as if the same bytes were written again
    assert contents(open_source(str(path), cache)) == files
    assert len(walks) == 3


def test_folder_is_listed_once_and_again_after_a_change(tmp_path, monkeypatch):
    root, cache = tmp_path / "set", Cache(tmp_path / "cache")
    lists = counted(monkeypatch, folders, "list_folder")
    write_tree(root, {"a/x.png": b"x", "b/c/y.png": b"y"})
    settle(root)
    assert (
        contents(FolderSource(root, cache))
        == contents(FolderSource(root, cache))
        == {"a/x.png": b"x", "b/c/y.png": b"y"}
    )
    assert len(lists) == 1
    changes = {
        "file added": lambda: write_tree(root, {"b/c/z.png": b"z"}),
        "file removed": (root / "a/x.png").unlink,
        "folder added": lambda: write_tree(root, {"n/n.png": b"n"}),
        "file overwritten in place": lambda: (root / "n/n.png").write_bytes(b"longer"),
    }
    for change in changes.values():
        lists.clear()
        change()
        found = contents(FolderSource(root, cache))
        assert found == {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.png")}
        assert len(lists) == 1
        settle(root)
        FolderSource(root, cache)  # updates the index before the next change


def test_listing_of_a_recently_changed_folder_is_not_reused(tmp_path):
    """A second change within the same clock tick may leave the time stamp unchanged."""
    root, cache = write_tree(tmp_path / "set", {"x.png": b"x"}), Cache(tmp_path / "cache")
    FolderSource(root, cache)
    stamp = root.stat().st_mtime_ns
    write_tree(root, {"y.png": b"y"})
    os.utime(root, ns=(stamp, stamp))
    assert len(FolderSource(root, cache)) == 2


def test_damaged_index_is_rebuilt(tmp_path):
    path, cache = tmp_path / "x.tar", Cache(tmp_path / "cache")
    path.write_bytes(tar_bytes({"a.png": b"a"}))
    open_source(str(path), cache)
    (kept,) = cache.folder.glob("*.index")
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1], b"\x80\x04" + whole, whole[:-1] + b"?"):
        kept.write_bytes(damaged)
        assert contents(open_source(str(path), cache)) == {"a.png": b"a"}
        assert kept.read_bytes() == whole


def test_index_stays_in_memory_if_the_cache_is_not_writable(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.png": b"a"}))
    source = open_source(str(tmp_path / "x.tar"), Cache(tmp_path / "file" / "cache"))
    assert contents(source) == {"a.png": b"a"}
    assert "cannot be saved" in capsys.readouterr().out


def _build_slowly(folder: Path, barrier, built, results) -> None:
    def build() -> Index:
        with built.get_lock():
            built.value += 1
        return small_index()

    barrier.wait()
    results.put(described(cached(folder, "x", lambda index: True, build)))


def test_concurrent_processes_build_one_index(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, built, results = context.Barrier(4), context.Value("i", 0), context.Queue()
    arguments = (tmp_path / "new" / "cache", barrier, built, results)
    processes = [context.Process(target=_build_slowly, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    assert all(results.get(timeout=300) == described(small_index()) for _ in processes)
    for process in processes:
        process.join(60)
    assert built.value == 1
    assert [path.suffix for path in sorted(arguments[0].iterdir())] == [".index", ".lock"]


def test_concurrent_processes_without_file_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks on this file system")

    monkeypatch.setattr(caching.fcntl, "flock", refuse)
    context = multiprocessing.get_context("fork")
    barrier, built, results = context.Barrier(3), context.Value("i", 0), context.Queue()
    processes = [context.Process(target=_build_slowly, args=(tmp_path, barrier, built, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert all(results.get(timeout=300) == described(small_index()) for _ in processes)
    for process in processes:
        process.join(60)


def test_killed_writer_leaves_no_partial_index(tmp_path):
    def build() -> Index:
        os.kill(os.getpid(), 9)
        raise AssertionError

    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: cached(tmp_path, "x", lambda index: True, build))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert described(cached(tmp_path, "x", lambda index: True, small_index)) == described(small_index())


def test_columns_hold_large_part_numbers_offsets_and_sizes():
    listing = Listing()
    listing.add(b"a.png", 70_000, 2**45, 2**33)
    entry = Index.of(listing, [])[0]
    assert entry == Entry(b"a.png", 70_000, 2**45, 2**33)
    assert isinstance(entry.offset, int)
    assert not isinstance(entry.offset, np.integer)
