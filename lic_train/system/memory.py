"""Memory allocation on the CPU: freed memory is kept, and the limit for untrusted files."""

from __future__ import annotations

import ctypes
import os
import platform

ALLOWANCE = "LIC_TRAIN_ALLOWANCE_MIB"  # see `justified`
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Configure malloc so that this process keeps freed memory; return False if the C library is not glibc.

    Every training step, or image, allocates and frees the same large tensors. By default glibc returns them to the
    system, which later provides zeroed pages with one page fault each: a tenth of the step time of mbt2018_mean. The
    process stays at its peak size.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1  # SIZE_MAX after conversion to size_t; a positive C int is at most 2 GB
    options = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: never, _M_TOP_PAD: 2**28, _M_ARENA_MAX: 1}
    accepted = [mallopt(option, value) == 1 for option, value in options.items()]
    return all(accepted)


def justified(stored: int) -> int:
    """Return the bytes that content of an untrusted file may take in memory.

    Images are compressed already, so packing them again saves little. 64 MiB are allowed for small files; the
    environment variable `ALLOWANCE` sets another number of MiB.

    Args:
        stored: bytes of the content in the file.
    """
    try:
        extra = max(float(os.environ.get(ALLOWANCE, "")), 0.0)
    except ValueError:
        extra = 64.0
    return 8 * stored + round(min(extra, 2.0**20) * 2**20)
