"""The machine that a program runs on: its devices, cores and memory, versions of packages, and how long work takes."""

from __future__ import annotations

import ctypes
import getpass
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def device_name(device: torch.device) -> str:
    """The name of a GPU; of a CPU its kind: ``NVIDIA H100 80GB HBM3``, ``x86_64``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_kind()


def processor_kind() -> str:
    """What the platform calls its processor, as a rule the architecture alone."""
    return platform.processor() or platform.machine()


def processor_model() -> str:
    """The processor's maker and model where the system tells them (Linux), else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else processor_kind()


def cpu_count(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: those of its affinity, as far as a container's quota reaches.

    ``root`` is where ``proc`` and ``sys`` lie. A machine may have many more; a batch system lends a few of them.
    """
    if hasattr(os, "process_cpu_count"):  # Python 3.13; PYTHON_CPU_COUNT overrides it
        allowed = os.process_cpu_count() or 1
    else:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in control_groups("cpu", root) if (quota := _cpu_quota(group)) is not None]
    return max(1, min([allowed, *quotas]))


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the groups that hold this process: its own and all above, as each may have a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux, or one without control groups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            own = top / path.lstrip("/")
            # in a container the path may be the host's, and what is mounted is the container's own group alone
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _cpu_quota(group: Path) -> int | None:
    """Cores' worth of time that one group may take, rounded up; None: no limit."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = (int(word) for file in files for word in (group / file).read_text().split())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            return -(-quota // period)
    return None


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

    glibc gives every large array back to the system when it is freed, and the next one of that size is new memory, of
    which the system clears each page at its first touch. A convolution net's forward pass on a CPU makes and frees a
    hundred such arrays a batch, and may spend more time on that than on arithmetic.

    It is for all threads of the process, and not elsewhere than with glibc; for work that makes the same arrays over
    and over: where sizes vary, memory that is kept becomes more and more.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield False
        return
    try:
        kept = any(libc.mallopt(_MMAP_THRESHOLD, size) for size in _MMAP_SIZES)
        yield bool(kept and libc.mallopt(_TRIM_THRESHOLD, _LARGEST_THRESHOLD))
    finally:
        for threshold, size in _DEFAULTS.items():
            libc.mallopt(threshold, size)
        libc.malloc_trim(0)


def versions(*packages: str) -> dict[str, str]:
    """Package → its version, of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # e.g. a reader's machine without timm
            continue
    return found


def user_name() -> str:
    """Who runs this process; the number of a user id that has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long ``run`` takes, until the device has done it; what the device had to do before is not counted."""
    wait_for(device)
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Return once a GPU has done all that it was given; a CPU has."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
