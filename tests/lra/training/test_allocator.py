"""Memory of the C library between steps."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
from lra.training.allocator import keep_freed_memory

def faults():
    bytearray(2**26)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        bytearray(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
print(keep_freed_memory(), before, faults())
"""


def test_freed_memory_is_used_again_without_page_faults():
    kept, before, after = subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert int(after) < 100 < int(before)
