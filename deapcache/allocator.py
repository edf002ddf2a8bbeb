"""How the process's memory allocator treats large arrays.

glibc gives every large array back to the system when it is freed, and the next one of that size is new memory, of which
the system clears each page at its first touch. The forward pass of a convolution net on a CPU makes and frees a
hundred such arrays an image, and may spend more time on that than on arithmetic.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of malloc.h."""

_KEPT = 2**31 - 1
"""Free bytes at the end of the heap beyond which they are given back: the most that mallopt takes."""

_OWN_MAPPING = (2**30, 2**25)
"""Bytes from which an array gets pages of its own, given back with it; glibc before 2.35 refuses the first."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of giving it back; whether it does now.

    Once a process. It does nothing where the user has set malloc's behaviour (``MALLOC_…_`` or ``GLIBC_TUNABLES``) or
    the C library is not glibc.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if chosen or mallopt is None:
        return False
    taken = any(mallopt(_MMAP_THRESHOLD, size) for size in _OWN_MAPPING)
    return bool(taken and mallopt(_TRIM_THRESHOLD, _KEPT))
