"""How PyTorch's threads on a CPU wait for each other, when other programs need the same cores.

An operation is a parallel section that all cores share, often of microseconds. The thread that is done first spins
until the last one is, for some milliseconds (GCC's libgomp). On an idle machine no way to wait is faster. Beside busy
programs the last thread is one without a core, and those that spin hold a core that it needs: a step of a readout took
185 times as long beside six busy processes on two cores. Threads that sleep while they wait
(``OMP_WAIT_POLICY=PASSIVE``) get their fair share there, and on an idle machine take up to twice as long.

libgomp reads that variable when it is loaded. But it spins 3,000 times shorter as soon as a process has more of its
threads than cores (``gomp_throttled_spin_count_var`` in libgomp's env.c). So a second team of threads, which does
nothing and is there only while cores are short, switches between both. Work is split as before: no result changes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_INTERVAL = 0.5
"""Seconds between two looks."""

_SHORT, _ENOUGH = 0.35, 0.2
"""Share of the time for which a thread that could run has no core: from the first on, cores are short; until the second
they still are."""

_GRAIN = 2**15
"""Numbers that are one thread's work in PyTorch (``at::internal::GRAIN_SIZE``)."""


@contextmanager
def sleep_if_cores_are_short() -> Iterator[None]:
    """Within it, PyTorch's threads on the CPU sleep while they wait for each other, whenever other programs are busy.

    On Linux, where PyTorch's OpenMP is libgomp and the kernel tells how long threads wait for a core; else nothing is
    done.
    """
    import torch

    if torch.get_num_threads() == 1 or not _waiting_times():
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ended,), name="deapcache-cores", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(ended: threading.Event) -> None:
    """Keep a second team while cores are short, until ``ended``."""
    team: tuple[threading.Thread, threading.Event] | None = None
    before, start = _waiting_times(), time.perf_counter()
    while not ended.wait(_INTERVAL):
        now, end = _waiting_times(), time.perf_counter()
        waited = max((seconds - before.get(thread, 0.0) for thread, seconds in now.items()), default=0.0)
        share = waited / (end - start)
        before, start = now, end
        if team is None and share >= _SHORT:
            release = threading.Event()
            team = threading.Thread(target=_keep_team, args=(release,), name="deapcache-idle", daemon=True), release
            team[0].start()
        elif team is not None and share <= _ENOUGH:
            _dismiss(*team)
            team = None
    if team is not None:
        _dismiss(*team)


def _keep_team(release: threading.Event) -> None:
    import torch

    torch.ones(2 * _GRAIN).neg_()  # makes this thread's team, whose members sleep until this thread ends
    release.wait()


def _dismiss(keeper: threading.Thread, release: threading.Event) -> None:
    release.set()
    keeper.join()


def _waiting_times() -> dict[str, float]:
    """Thread of this process → seconds that it could have run and had no core (``proc_pid_schedstat``, field 2)."""
    times: dict[str, float] = {}
    if sys.platform == "linux":
        for file in Path("/proc/self/task").glob("*/schedstat"):
            with suppress(OSError):  # a thread that ended meanwhile, or a kernel that keeps no such statistics
                times[file.parent.name] = int(file.read_text().split()[1]) / 1e9
    return times
