"""Telling the C library to use freed memory again.

glibc gives every large array back to the system when it is freed, and the next one of that size is new memory, of which
the system clears each page at its first touch. A convolution net's forward pass on a CPU makes and frees a hundred such
arrays a batch, and may spend more time on that than on arithmetic.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's malloc.h."""

_LARGEST_THRESHOLD = 2**31 - 1
"""Free bytes at the end of the heap beyond which they are given back: the most that mallopt takes."""

_MMAP_SIZES = (2**30, 2**25)
"""Bytes from which an array gets pages of its own, given back with it; glibc before 2.35 refuses the first."""

_DEFAULTS = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}
"""What glibc itself goes up to in a process that frees arrays of 32 MB."""


@contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Within it, this process uses freed memory again; afterwards memory is given back. Gives whether that works here.

    For all threads of the process, and not elsewhere than with glibc. It is for work that makes the same arrays over
    and over: where sizes vary, memory that is kept becomes more and more.
    """
    libc = _glibc()
    if libc is None:
        yield False
        return
    try:
        kept = any(libc.mallopt(_MMAP_THRESHOLD, size) for size in _MMAP_SIZES)
        yield bool(kept and libc.mallopt(_TRIM_THRESHOLD, _LARGEST_THRESHOLD))
    finally:
        for threshold, size in _DEFAULTS.items():
            libc.mallopt(threshold, size)
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library of this process, where it has glibc's functions; else None."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
