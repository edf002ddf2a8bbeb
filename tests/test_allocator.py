"""Freed memory is used again: counted in page faults, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, numpy
from deapcache.allocator import keep_freed_memory
print({kept})
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(21):
    if turn == 1:
        before = faults()
    arrays = [numpy.ones(2_500_000) for _ in range(4)]
    del arrays
print(faults() - before)
"""


def page_faults(kept: str, **environment: str) -> tuple[str, int]:
    """What ``kept`` evaluates to, and the faults of making and freeing four arrays of 20 MB, 20 times."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment
    command = [sys.executable, "-c", COUNT.format(kept=kept)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings)
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's allocator is meant")
def test_freed_memory_is_used_again() -> None:
    said, faults = page_faults("keep_freed_memory()")
    _, usual = page_faults("None")
    assert said == "True"
    assert faults < usual / 10


def test_the_user_knows_better() -> None:
    assert page_faults("keep_freed_memory()", MALLOC_ARENA_MAX="2")[0] == "False"
