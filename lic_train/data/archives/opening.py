"""Opens a root of any kind: a folder of images, tars, zips or Parquet files, local or remote."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lic_train.data.archives import folders
from lic_train.data.archives.folders import NoPicture
from lic_train.data.archives.indexed import Cache, FolderSource, Indexed, Reader, nothing_there, reading
from lic_train.data.archives.names import SUFFIXES, is_picture, printable
from lic_train.data.archives.parquet import ParquetReader, walk_parquet
from lic_train.data.archives.patterns import expand, is_pattern
from lic_train.data.archives.remote import Remote, RemoteFiles, RemoteFolderReader, list_remote, remote_parts
from lic_train.data.archives.storage import LocalFiles, ReadAt, local_parts
from lic_train.data.archives.tars import Damage, TarReader, members, walk_tar
from lic_train.data.archives.walking import Walk, index_archives, places
from lic_train.data.archives.zips import ZipReader, walk_zip
from lic_train.errors import DataError

COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}

KINDS: dict[str, tuple[Walk, Callable[[LocalFiles], Reader]]] = {
    "tar": (walk_tar, TarReader),
    "zip": (walk_zip, ZipReader),
    "parquet": (walk_parquet, ParquetReader),
}


@reading()
def open_source(root: str, cache: Cache) -> Indexed:
    """Return the images at ``root``: a folder, an archive, a pattern for several archives, or an address of these.

    Raises:
        DataError: nothing usable exists there.
    """
    if "://" in root:
        return _open_remote(root, cache)
    path = Path(root).expanduser()
    if not path.is_dir():
        return open_archives(_files(path), cache)
    try:
        return FolderSource(path, cache)
    except NoPicture:
        archives = [path / name for found in folders.walk(path) for name in found.archives]
        if not archives:
            raise
        return open_archives(sorted(archives), cache)


def open_archives(paths: Sequence[Path], cache: Cache) -> Indexed:
    """Return the images in archives of one kind; with several archives, names start with the name of the archive.

    Raises:
        DataError: a file is missing, is not an archive or of another kind; too much is damaged; there is no image.
    """
    kind, files = _kind(paths), LocalFiles(local_parts([path.resolve() for path in paths]))
    walk, reader = KINDS[kind]
    return Indexed(index_archives(walk, files, cache, kind), reader(files))


def exists(root: str) -> bool:
    """Return whether a file or folder exists at a path or address. Raises DataError if the server does not answer."""
    if "://" not in root:
        return Path(root).expanduser().exists()
    remote = Remote(root)
    return remote.kind(remote.path(root)) is not None


def _open_remote(root: str, cache: Cache) -> Indexed:
    """Return the images of a remote folder, or of the tars in a remote folder or matched by a pattern."""
    remote = Remote(root)
    paths = [remote.path(address) for address in expand(root, remote.glob)]
    if len(paths) == 1 and remote.kind(paths[0]) == "directory":
        files = remote.find(paths[0])
        index = list_remote(paths[0], files)
        if len(index):
            return Indexed(index, RemoteFolderReader(remote, paths[0], cache.pieces()))
        paths = sorted(path for path in files if path.lower().endswith(".tar"))
        if not paths:
            raise DataError(
                f"No image and no tar below {root}.",
                expected=f"files ending in {' '.join(SUFFIXES)} .tar",
                got=f"{len(files)} files",
                to_do="correct data.root",
            )
    parts = remote_parts(remote, paths)
    index = index_archives(walk_tar, RemoteFiles(remote, parts, None), cache, f"tar of {root}")
    return Indexed(index, TarReader(RemoteFiles(remote, parts, cache.pieces())))


def _kind(paths: Sequence[Path]) -> str:
    """Return "tar", "zip" or "parquet" by the first bytes of the files; damaged files are reported later."""
    kinds = {kind for path in paths if (kind := _kind_of(path))}
    if len(kinds) == 1:
        return kinds.pop()
    named = places([str(path) for path in paths])
    if kinds:
        raise DataError(
            f"Different kinds of archives in one root: {named}.",
            expected="archives of one kind",
            got=", ".join(sorted(kinds)),
            to_do=f"select the files of one kind, for example data.root='{paths[0].parent}/*.tar', or use one root for "
            "each kind: data.root=[...,...]",
        )
    raise DataError(
        f"{named} cannot be used as data.root.",
        expected="a folder, a tar, a zip or a Parquet file",
        got=_content(paths[0]),
        to_do="correct data.root; for single images use their folder",
    )


def _kind_of(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(6)
        for magic, program in COMPRESSED.items():
            if start.startswith(magic):
                raise DataError(
                    f"{path} is compressed as a whole, so single files cannot be read.",
                    to_do=f"decompress it with {program}",
                )
        if start.startswith(b"PAR1"):
            return "parquet"
        if start.startswith((b"PK\3\4", b"PK\5\6")):
            return "zip"
        size = os.fstat(file.fileno()).st_size
        return "tar" if _begins_as_tar(lambda offset, length: os.pread(file.fileno(), length, offset), size) else None


def _begins_as_tar(read: ReadAt, size: int) -> bool:
    """Return whether the first header is valid."""
    try:
        next(members(read, 0, size), None)
    except Damage as damage:
        return damage.position > 0
    return True


def _content(path: Path) -> str:
    return "an image" if is_picture(path.name) else "an empty file" if not path.stat().st_size else "an unknown format"


def _files(path: Path) -> list[Path]:
    """Return the files of a root that is not a folder. Raises DataError for missing files."""
    if path.exists() or not is_pattern(str(path)):
        files = [path]
    else:
        files = [Path(name) for name in expand(str(path), glob.glob)]
    missing = [file for file in files if not file.is_file()]
    if len(files) == 1 and missing:
        raise nothing_there(path)
    if missing:
        named = places([printable(str(file)) for file in missing])
        raise DataError(f"{len(missing)} of {len(files)} files do not exist: {named}.", to_do="correct data.root")
    return files
