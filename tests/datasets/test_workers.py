"""Rows read at once, by threads or processes, come back in order."""

from __future__ import annotations

import functools
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from deapcache.datasets import in_order, open_dataset, workers
from deapcache.machine import cpu_count


def test_results_keep_the_order_of_the_jobs_and_few_are_done_ahead() -> None:
    started, lock = [], threading.Lock()

    def work(job: int) -> int:
        with lock:
            started.append(job)
        time.sleep(0.002 * (job % 3))
        return job * job

    with ThreadPoolExecutor(3) as pool:
        results = in_order(pool, work, iter(range(200)))
        assert next(results) == (0, 0)
        assert len(started) <= 4 * cpu_count()
        assert list(results) == [(job, job * job) for job in range(1, 200)]


def test_an_error_comes_out_at_its_place() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, lambda job: 1 // (job - 2), range(5))
        assert [next(results), next(results)] == [(0, -1), (1, -1)]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_images_that_python_computes_are_made_in_processes(make_coco) -> None:
    with workers(open_dataset("coco", make_coco(1, 1))) as pool:
        assert isinstance(pool, ThreadPoolExecutor)
    scenes = open_dataset("scenes", Path())
    with workers(scenes) as pool:
        assert isinstance(pool, ProcessPoolExecutor)
        read = functools.partial(scenes.read_image, "val")
        assert [(row, image.shape) for row, image in in_order(pool, read, [1, 0])] == [
            (1, (240, 320, 3)),
            (0, (240, 320, 3)),
        ]
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN, "Ctrl-C is for the parent alone"
