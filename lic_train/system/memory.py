"""Memory of networks on the CPU: what one step or picture frees the next one takes."""

from __future__ import annotations

import ctypes
import platform

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; False where the C library is not glibc.

    Every step, or picture, makes and frees the same large tensors. By default glibc gives them back to the system,
    which then hands out zeroed pages one fault at a time: a tenth of the time of a step of mbt2018_mean. The process
    stays as large as it was at its largest.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1  # the largest number in C, where any other that an int can hold is 2 GB at most
    options = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: never, _M_TOP_PAD: 2**28, _M_ARENA_MAX: 1}
    taken = [mallopt(option, value) == 1 for option, value in options.items()]
    return all(taken)
