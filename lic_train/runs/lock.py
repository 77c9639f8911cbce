"""The lock of a run directory, and checks of files that are written in place and of folders."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from lic_train.errors import ConfigError
from lic_train.runs.layout import LOCK
from lic_train.system.reading import printable
from lic_train.system.screen import reason, say

# flock(2) on a network file system that was mounted without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# filelock releases a lock as soon as its object is garbage-collected; a run keeps its directory until the process ends.
_held: set[FileLock] = set()


class RunLock:
    """Exclusive, non-blocking lock on a run directory.

    The kernel releases it when the process ends, including by SIGKILL. Forked data workers do not inherit it
    (filelock closes its descriptor after a fork), so a worker that outlives a killed run does not keep the directory
    locked. On a file system without locks a warning is printed and the run continues without one.

    Args:
        directory: the run directory.

    Raises:
        ConfigError: another process holds the lock.
        OSError: the directory is not writable.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK
        require_own_file(path)
        # The soft fallback, a file that exists while the lock is held, would survive SIGKILL.
        self._lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise _in_use(directory, path) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            say(f"No lock on {directory} ({reason(error)}): make sure that only one process trains in it", "yellow")
        with open(path, "w", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o644)) as file:
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
        _held.add(self._lock)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        _held.discard(self._lock)
        self._lock.release()


def require_own_file(path: Path) -> None:
    """Check that a file which is written in place is a regular file or missing: a link may lead to any file.

    Raises:
        ConfigError: it is something else.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(
            f"{path} is not a regular file.",
            expected="a file that an earlier run wrote, or none",
            got=f"a link to {os.readlink(path)}" if path.is_symlink() else "a folder, a pipe or a device",
            to_do="remove it, or use another directory with name=... or output=...",
        )


def require_own_folders(folders: Iterable[Path]) -> None:
    """Check that no folder of a run directory is a link: files would be written and deleted in any other folder.

    Raises:
        ConfigError: one is a link.
    """
    for folder in folders:
        if folder.is_symlink():
            raise ConfigError(
                f"{folder} is a link.",
                expected="a folder in the run directory, or none",
                got=f"a link to {os.readlink(folder)}",
                to_do="replace the link by a folder; the whole run directory may be on another disk (output=...)",
            )


def _in_use(directory: Path, lock: Path) -> ConfigError:
    with lock.open(errors="replace") as file:
        owner = printable(file.read(200).strip())
    return ConfigError(
        f"{directory} is in use.",
        expected="one process per run directory",
        got=f"{owner or 'another process'} is training in it",
        to_do="wait for it or stop it, or give this run its own directory with name=...",
    )
