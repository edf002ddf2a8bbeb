"""Reading many rows of a dataset at once."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from deapcache.datasets.base import Dataset
from deapcache.machine import cpu_count
from deapcache.processes import process_pool

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextlib.contextmanager
def workers(dataset: Dataset) -> Iterator[Executor]:
    """Threads where decoding releases the interpreter lock, processes where making an image is Python's own work.

    What has not begun when the block is left is not done. Raises what :func:`process_pool` raises.
    """
    count = cpu_count()
    if dataset.computes_images:
        with process_pool(count, f"reading {dataset.name}") as processes:
            yield processes
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(pool: Executor, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
    """Jobs with their results, in the order of the jobs, with a bounded number of them done ahead."""
    ahead: deque[tuple[Job, Future[Result]]] = deque()
    most = 4 * cpu_count()
    for job in jobs:
        ahead.append((job, pool.submit(function, job)))
        if len(ahead) >= most:
            first, future = ahead.popleft()
            yield first, future.result()
    for job, future in ahead:
        yield job, future.result()
