"""Memory allocation on the CPU: freed memory is kept, and the limit for untrusted files."""

from __future__ import annotations

import ctypes
import os
import platform

ALLOWANCE = "LIC_TRAIN_ALLOWANCE_GIB"
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


def allowance() -> int:
    """Return the bytes that an untrusted file may cost beyond what its size justifies.

    1 GiB, or the number of GiB in the environment variable `ALLOWANCE`.
    """
    try:
        return int(float(os.environ.get(ALLOWANCE, 1)) * 2**30)
    except (ValueError, OverflowError):
        return 2**30
