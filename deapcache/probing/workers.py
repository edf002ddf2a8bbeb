"""Teams that step at the same time on a CPU, each on its share of the cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

Job = Callable[[], None]


def lanes_of(device: torch.device | str) -> int:
    """How many teams can step at the same time: as many as PyTorch uses threads on a CPU, one on an accelerator."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


@contextmanager
def side_by_side(most: int, device: torch.device | str) -> Iterator[Callable[[Sequence[Job]], None]]:
    """A function that runs up to ``most`` jobs at once and returns when all are done.

    The operations of a small readout are short: two cores that share each of them wait for each other at its end, two
    cores with a readout each don't. The first error of a job is raised, after the others have ended.
    """
    threads, lanes = torch.get_num_threads(), min(most, lanes_of(device))
    if lanes <= 1:
        yield _in_turn
        return
    try:
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads // lanes,)) as pool:
            yield lambda jobs: _at_once(pool, jobs)
    finally:
        torch.set_num_threads(threads)  # each worker's share became what new threads start with


def _in_turn(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job()


def _at_once(pool: ThreadPoolExecutor, jobs: Sequence[Job]) -> None:
    running = [pool.submit(job) for job in jobs]
    errors = [error for job in running if (error := job.exception()) is not None]
    if errors:
        raise errors[0]
