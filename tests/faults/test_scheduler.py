"""A Dask scheduler that is killed and started again: one clear error, and the same command does the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deapcache_faults import Tally, cache_bytes, environment, shard_keys
from deapcache_servers import Server, running
from deapcache_testing import deapcache

from deapcache.locations import LocalLocation

_PATIENCE = 300
"""Seconds for what takes a few, on a machine that is busy."""


def _scheduler(port: int) -> list[str]:
    module = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    return [*module, "--port", str(port), "--no-dashboard"]


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
    deadline = time.monotonic() + _PATIENCE
    while len(shard_keys(cache_bytes(home))) < count:
        assert extraction.poll() is None, extraction.communicate()
        assert time.monotonic() < deadline, "no shard was made"
        time.sleep(0.02)


def _report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    return dict(report)


def test_a_scheduler_that_is_killed_and_started_again(undisturbed, tally: Tally, tmp_path: Path):
    home = LocalLocation(tmp_path / "home")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    seen = "one line: the scheduler was lost, run the same command again; it does the rest"
    with running(_scheduler, tmp_path / "log", scheme="tcp") as scheduler:
        command = deapcache(
            "extract", "--backbone", "efficientnet-lite0-s16", "--dataset", "coco", "--split", "train", "--json",
            "--data-root", undisturbed.root, "--home", home, "--batch-size", 4, "--scheduler", scheduler.url,
        )  # fmt: skip
        with _worker(scheduler, tmp_path, "first"), tally.fault("a Dask scheduler killed, and started again", seen):
            with subprocess.Popen(command, **pipes) as extraction:
                _wait_for_shards(home, 5, extraction)
                scheduler.kill()
                scheduler.start()
                _, said = extraction.communicate(timeout=_PATIENCE)
            assert extraction.returncode == 1, said
            assert said.count("error: ") == 1
            assert "the scheduler was lost" in said
            assert "run the same command again to go on" in said
            assert "Traceback" not in said, said
            before = cache_bytes(home)
            assert before.items() <= undisturbed.kept.items()
            with _worker(scheduler, tmp_path, "second"):
                report = _report(subprocess.run(command, **pipes, timeout=_PATIENCE, check=False))
    assert 0 < report["extracted"] <= report["total"] - 5
    assert cache_bytes(home) == undisturbed.kept
