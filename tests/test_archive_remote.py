"""Remote folders and tars: byte ranges, retries, and the local cache with a size limit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

from lic_train.data.archives import remote
from lic_train.data.archives.fetched import BUCKET, ByteCache
from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.data.archives.walking import REMOTE_BLOCK
from lic_train.data.sets.sources import folder, imagenet
from lic_train.errors import ConfigError, DataError
from tests.made_up import contents, imagenet_tar, png, tar_bytes

fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
MemoryFileSystem = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem

FILES = {f"{name}.png": png(i, 20, 20 + i) for i, name in enumerate("abcdef")}


class Flaky(MemoryFileSystem):
    """Fails the first ``failures`` requests and records the sizes of its answers."""

    protocol = "flaky"
    store: dict = {}  # noqa: RUF012  # as in the base class
    pseudo_dirs = [""]  # noqa: RUF012
    failures = 0
    given: list[tuple[str, int]] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def _fail(self) -> None:
        if Flaky.failures:
            Flaky.failures -= 1
            raise ConnectionResetError("connection lost")

    def cat_file(self, path, start=None, end=None, **options):
        self._fail()
        data = super().cat_file(path, start=start, end=end, **options)
        Flaky.given.append((path, len(data)))
        return data

    def info(self, path, **options):
        self._fail()
        return super().info(path, **options)


@pytest.fixture(autouse=True)
def system(monkeypatch):
    """An empty flaky file system, without delays between attempts."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    for name in (Flaky, MemoryFileSystem):
        name.store.clear()
        name.pseudo_dirs[:] = [""]
    Flaky.failures = 0
    Flaky.given.clear()
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: slept.append(seconds))
    slept: list[float] = []
    yield Flaky()
    slept.clear()


def put(root: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        with fsspec.open(f"{root}/{name}", "wb") as file:
            file.write(data)


@pytest.mark.parametrize("scheme", ["memory", "file", "flaky"])
def test_folders_and_tars_on_any_file_system(tmp_path, scheme):
    root = f"{scheme}://{tmp_path}/set"
    with fsspec.open(f"{scheme}://{tmp_path}/set/a.txt", "wb", auto_mkdir=True) as file:
        file.write(b"text")
    put(root, FILES | {".hidden.png": b"x"})
    source = open_source(root, Cache())
    assert contents(source) == FILES
    assert (source.index.hidden, sum(source.index.others.values())) == (1, 1)
    shards = f"{scheme}://{tmp_path}/shards"
    fsspec.filesystem(scheme).makedirs(f"{tmp_path}/shards", exist_ok=True)
    for number in range(3):
        names = list(FILES)[2 * number : 2 * number + 2]
        put(shards, {f"s-{number:03d}.tar": tar_bytes({name: FILES[name] for name in names})})
    whole = {f"s-{i // 2:03d}/{name}": data for i, (name, data) in enumerate(FILES.items())}
    for address in (shards, f"{shards}/s-{{000..002}}.tar", f"{shards}/s-*.tar"):
        assert contents(open_source(address, Cache())) == whole


def test_tar_is_indexed_in_blocks_and_read_by_ranges(tmp_path):
    files = {f"{i:03d}.png": png(i, 60, 60) for i in range(30)}
    put("flaky://b", {"x.tar": tar_bytes(files)})
    cache = Cache(tmp_path, 10**8)
    source = open_source("flaky://b/x.tar", cache)
    size = Flaky().size("b/x.tar")
    assert Flaky.given == [("/b/x.tar", size)]
    assert size < REMOTE_BLOCK
    Flaky.given.clear()
    assert source.read(7) == files["007.png"]
    assert Flaky.given == [("/b/x.tar", len(files["007.png"]))]
    assert source.read(7) == files["007.png"]
    again = pickle.loads(pickle.dumps(open_source("flaky://b/x.tar", cache)))
    assert again.read(7) == files["007.png"]
    assert len(Flaky.given) == 1  # neither indexed nor downloaded again


def test_large_tars_are_indexed_in_blocks(monkeypatch):
    monkeypatch.setattr("lic_train.data.archives.walking.REMOTE_BLOCK", 2000)
    files = {f"{i}.png": png(i, 50, 50) for i in range(6)} | {"small.png": b"s"}
    put("flaky://b", {"x.tar": tar_bytes(files)})
    assert contents(open_source("flaky://b/x.tar", Cache())) == files
    assert max(size for _, size in Flaky.given[:-7]) <= 2000


def test_temporary_network_failures_are_retried(monkeypatch):
    put("flaky://b", {"x.tar": tar_bytes(FILES)})
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    Flaky.failures = 3
    source = open_source("flaky://b/x.tar", Cache())
    assert slept == [0.5, 1.0, 2.0]
    slept.clear()
    Flaky.failures = 8
    assert source.read(0) == FILES["a.png"]
    assert slept == list(remote.DELAYS)
    Flaky.failures = 9
    with pytest.raises(DataError, match=r"connection lost.*\n.*9 attempts over 92 seconds\n.*the same command resumes"):
        source.read(1)


def test_missing_file_raises_without_retries(monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("retried"))
    put("flaky://b", FILES)
    source = open_source("flaky://b", Cache())
    Flaky().rm("b/a.png")
    with pytest.raises(FileNotFoundError):
        source.read(0)
    assert source.read(1) == FILES["b.png"]
    for address in ("flaky://b/none.tar", "flaky://none", "flaky://b/{0..3}.tar"):
        with pytest.raises(DataError, match="to do"):
            open_source(address, Cache())
    with pytest.raises(DataError, match="nosuch"):
        open_source("nosuch://b", Cache())
    put("flaky://texts", {"a.txt": b"a"})
    with pytest.raises(DataError, match="No image and no tar"):
        open_source("flaky://texts", Cache())


def test_changed_remote_files_are_detected(tmp_path):
    cache = Cache(tmp_path, 10**8)
    put("flaky://b", {"x.tar": tar_bytes(FILES)})
    source = open_source("flaky://b/x.tar", cache)
    put("flaky://b", {"x.tar": tar_bytes({"a.png": b"other"})})
    with pytest.raises(DataError, match="has changed"):
        source.read(0)
    assert contents(open_source("flaky://b/x.tar", cache)) == {"a.png": b"other"}
    put("flaky://f", {"a.png": b"one"})
    assert contents(open_source("flaky://f", cache)) == {"a.png": b"one"}
    put("flaky://f", {"a.png": b"two"})  # same size; the cache must not return the old file
    source = open_source("flaky://f", cache)
    assert contents(source) == {"a.png": b"two"}
    put("flaky://f", {"a.png": b"three"})
    assert source.read(0) == b"two"  # cached
    with pytest.raises(OSError, match="5 bytes were received where 3 were listed"):
        open_source("flaky://f", Cache()).reader.read(source.index[0])


def test_remote_training_sets():
    files = {f"n0000000{c}/{c}_{i}.png": png(10 * c + i, 8, 8) for c in range(2) for i in range(3)}
    put("flaky://b", {"ILSVRC2012_img_train.tar": imagenet_tar(files), "ILSVRC2012_img_val.tar": tar_bytes(FILES)})
    train, val, note, _ = imagenet("flaky://b/ILSVRC2012_img_train.tar")
    assert (contents(train), contents(val), note) == (files, FILES, "")
    put("flaky://c", {f"set/{side}/{name}": data for side in ("train", "val") for name, data in FILES.items()})
    train, val, *_ = folder("flaky://c")
    assert contents(train) == {f"set/train/{name}": data for name, data in FILES.items()}
    assert len(val) == len(FILES)
    with pytest.raises(ConfigError, match="cache_gib"):
        folder("flaky://c", cache_gib=-1)


def _read_all(source, results) -> None:
    results.put(contents(source))


def test_workers_open_their_own_connections(tmp_path):
    put("flaky://b", {"x.tar": tar_bytes(FILES)})
    source = open_source("flaky://b/x.tar", Cache(tmp_path, 10**8))
    source.read(0)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_read_all, args=(source, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=300) for _ in workers] == [FILES] * 3
    for worker in workers:
        worker.join(60)
    assert source.reader.files.system._process == os.getpid()


# ---- the local cache


def used(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_cache_keeps_recently_used_entries_within_its_limit(tmp_path):
    cache = ByteCache(tmp_path, 10_000)
    for i in range(9):
        cache.put(str(i), bytes([i]) * 1000)
        for old in tmp_path.rglob("*"):  # distinct times for any resolution of the clock
            os.utime(old, ns=(0, old.stat().st_mtime_ns - 10**9))
    assert cache.get("0") == bytes(1000)  # now the most recently used entry
    cache.put("9", b"9" * 2000)
    assert [cache.get(str(i)) is not None for i in range(10)] == [True, False, False, *[True] * 7]
    assert used(tmp_path) <= 10_000
    cache.put("too large", bytes(10_000))
    assert cache.get("too large") is None
    assert cache.get("missing") is None


def test_large_caches_are_distributed_over_folders(tmp_path):
    cache = ByteCache(tmp_path, 5 * BUCKET)
    for i in range(50):
        cache.put(str(i), b"%d" % i)
    assert [cache.get(str(i)) for i in range(50)] == [b"%d" % i for i in range(50)]
    assert len(list(tmp_path.iterdir())) == 5


def test_damaged_cache_entries_are_ignored(tmp_path):
    cache = ByteCache(tmp_path, 10_000)
    cache.put("a", b"content")
    (piece,) = (path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size)
    for damaged in (b"", b"abc", piece.read_bytes()[:-1], piece.read_bytes()[:-1] + b"?"):
        piece.write_bytes(damaged)
        assert cache.get("a") is None
    cache.put("a", b"content")
    assert cache.get("a") == b"content"


def test_cache_that_is_not_writable_raises_nothing(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    cache = ByteCache(tmp_path / "file" / "cache", 1000)
    cache.put("a", b"a")
    assert cache.get("a") is None


def _fill(cache: ByteCache, start: int) -> None:
    for i in range(60):
        cache.put(str(start + i), bytes(500))
        cache.get(str(i))


def test_processes_share_the_limit_of_the_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    cache = ByteCache(tmp_path, 20_000)
    workers = [context.Process(target=_fill, args=(cache, 100 * n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert 10_000 < used(tmp_path) <= 20_000
    assert not list(tmp_path.rglob("*.tmp"))
