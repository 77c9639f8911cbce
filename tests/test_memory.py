"""Reuse of freed memory in a training process."""

import platform
import subprocess
import sys

import pytest

# Allocates, fills and frees 64 MB 20 times; prints the page faults of the last ten.
SCRIPT = """
import resource, sys
import torch
from lic_train.system.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for turn in range(20):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_reused_without_page_faults():
    assert page_faults("kept") < 100
    assert page_faults("returned") > 200  # 320 with huge pages
