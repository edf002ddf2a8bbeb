"""A Dask scheduler that is killed and started again: one clear error, and the same command does the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deapcache_faults import Tally, cache_bytes, environment, shard_keys
from deapcache_servers import Server, running
from deapcache_testing import deapcache

from deapcache.locations import LocalLocation


def _scheduler(port: int) -> list[str]:
    return [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]


@contextmanager
def _worker(scheduler: Server, folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with one thread; killed at the end of the block."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler.url]
    options = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", str(folder)]
    with (folder / f"{name}.log").open("wb") as log:
        worker = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment())
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def _wait_for_shards(home: LocalLocation, count: int, extraction: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while len(shard_keys(cache_bytes(home))) < count:
        assert extraction.poll() is None, extraction.communicate()
        assert time.monotonic() < deadline, "no shard was made"
        time.sleep(0.02)


def test_a_scheduler_that_is_killed_and_started_again(undisturbed, tally: Tally, tmp_path: Path):
    home = LocalLocation(tmp_path / "home")
    with running(_scheduler, tmp_path / "log", scheme="tcp") as scheduler:
        command = deapcache(
            "extract", "--backbone", "efficientnet-lite0-s16", "--dataset", "coco", "--split", "train", "--json",
            "--data-root", undisturbed.root, "--home", home, "--batch-size", 4, "--scheduler", scheduler.url,
        )  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
        with _worker(scheduler, tmp_path, "first"), subprocess.Popen(command, **pipes) as extraction:
            _wait_for_shards(home, 5, extraction)
            scheduler.kill()
            t0=time.monotonic()
            scheduler.start()
            with _worker(scheduler, tmp_path, "second"):
                out, err = extraction.communicate(timeout=180)
                print("SECONDS", time.monotonic()-t0, extraction.returncode)
                print(out); print(err)
                print(len(shard_keys(cache_bytes(home))))
                done = subprocess.run(command, **pipes, timeout=180)
                print(done.stdout, done.stderr)
                print((tmp_path/"first.log").read_text()[-3000:])
    assert 0
