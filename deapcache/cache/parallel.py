"""Work on many shards or images: several at once."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from deapcache.machine import cpu_count

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

_REQUESTS = 16
"""Small requests on their way at once, where every shard or cache must be asked for by itself."""

_MOST_THREADS = 16


def default_threads() -> int:
    """Twice the cores: some wait for a disk or a network while others compute."""
    return min(_MOST_THREADS, 2 * cpu_count())


def map_unordered(work: Callable[[Task], Outcome], tasks: Collection[Task], threads: int | None) -> Iterator[Outcome]:
    """The outcome of each task as it ends, in any order; the first error ends it, and begins nothing more.

    Few tasks wait in line at any time, so that the memory of what they hold does not grow with their number.
    """
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        left = iter(tasks)
        ahead = 2 * (threads or default_threads())
        running: set[Future[Outcome]] = {pool.submit(work, task) for task in islice(left, ahead)}
        try:
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, task) for task in islice(left, len(ended))}
                for future in ended:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


def map_requests(work: Callable[[Task], Outcome], tasks: Collection[Task], *, is_local: bool) -> list[Outcome]:
    """The outcome of each task, a small request to a home, in order; several at once where it is far away."""
    if is_local:  # threads would only wait for each other
        return list(map(work, tasks))
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(work, tasks))


@functools.cache
def _pool(purpose: str, threads: int | None, process: int) -> ThreadPoolExecutor:
    a_core = max(2, min(2 * _MOST_THREADS, cpu_count()))  # two at least: one waits for a disk while the other computes
    return ThreadPoolExecutor(threads or a_core, thread_name_prefix=f"deapcache-{purpose}-{process}")


def thread_pool(purpose: str, threads: int | None = None) -> ThreadPoolExecutor:
    """The threads that this process keeps for one purpose, by default one a core that it may use.

    A child process gets its own: threads survive no fork.
    """
    return _pool(purpose, threads, os.getpid())  # to count the cores takes a twentieth of reading a batch
