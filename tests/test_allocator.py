"""Freed memory is used again, and then given back: counted in page faults, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, numpy
from deapcache.machine import keep_freed_memory

def work():
    arrays = [numpy.ones(5_000_000) for _ in range(4)]
    del arrays

def faults():
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual = faults()
start = resident()
with keep_freed_memory() as kept:
    print(kept, faults() / usual, resident() - start)
print(resident() - start, faults() / usual)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's allocator is meant"
)
def test_freed_memory_is_used_again_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True, text=True)
    (kept, within, held), (left, after) = (line.split() for line in done.stdout.splitlines())
    assert kept == "True"
    assert float(within) < 0.1
    assert int(held) > 100e6  # four arrays of 40 MB
    assert int(left) < 50e6
    assert float(after) > 0.5
