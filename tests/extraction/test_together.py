"""Real processes on one cache: four started together, and the workers of a cluster one of which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deapcache.cache import list_caches
from deapcache.datasets import open_dataset
from deapcache.errors import ClusterError, DataError, UsageError
from deapcache.extraction import ExtractionReport, ExtractionSettings, ShardPartition, extract, open_cluster
from deapcache.extraction import dask_cluster as cluster_module
from deapcache.extraction.dask_cluster import gpu_of, worker_environment
from deapcache.locations import LocalLocation

pytestmark = pytest.mark.usefixtures("one_thread")
"""As in the other processes: the order of a sum depends on it."""

BACKBONE = "efficientnet-lite0-s16@untrained"  # its batch norm is calibrated: all must do that alike
IMAGES = 90  # two a shard
SHARDS = 45
CHILD = Path(__file__).with_name("share_child.py")


@pytest.fixture
def root(make_coco) -> Path:
    return make_coco(train=IMAGES, val=1)


def run(
    root: Path, home: LocalLocation, partition: ShardPartition | None = None, **more: object
) -> list[ExtractionReport]:
    settings = ExtractionSettings(batch_size=4, partition=partition or ShardPartition(), device="cpu")
    dataset = open_dataset("coco", root)
    return list(extract([BACKBONE], dataset, home, splits=["train"], settings=settings, **more))  # type: ignore[arg-type]


_ALONE: dict[str, bytes] = {}


@pytest.fixture
def alone(root: Path, tmp_path: Path) -> dict[str, bytes]:
    """What one process makes by itself, made once: the same photographs have the same caches wherever they lie."""
    if not _ALONE:
        run(root, LocalLocation(tmp_path / "alone"))
        _ALONE.update(volumes(LocalLocation(tmp_path / "alone")))
    return _ALONE


def volumes(home: LocalLocation) -> dict[str, bytes]:
    """All keys of a home's caches but who made them."""
    kinds = ("features", "images", "targets")
    return {
        key: home.read(key)
        for kind in kinds
        for key in home.keys(kind)
        if not key.endswith("manifest.json") and "/provenance/" not in key
    }


def shards_by_writer(home: LocalLocation) -> list[list[int]]:
    (entry,) = [entry for entry in list_caches(home, "features") if entry.split == "train"]
    return [facts["shards"] for facts in entry.open().provenance()]


@pytest.mark.slow
def test_four_processes_started_together_share_the_work_and_make_the_bytes_of_one(root, home, alone):
    command = [sys.executable, str(CHILD), str(root), str(home), BACKBONE]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    children = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [child.stdout.readline().strip() for child in children] == ["READY"] * 4
    for child in children:
        child.stdin.write("GO\n")
        child.stdin.flush()
    done = [int(child.communicate()[0].split()[-1]) for child in children]
    assert [child.returncode for child in children] == [0] * 4
    shares = shards_by_writer(home)
    assert len(shares) == 4
    assert max(map(len, shares)) <= 0.4 * SHARDS, shares
    assert sum(map(len, shares)) <= 1.05 * SHARDS
    assert set().union(*shares) == set(range(SHARDS))
    assert sum(done) <= 1.05 * IMAGES
    assert volumes(home) == alone


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_bytes_are_those_of_one_process(root, home, alone):
    """Also: an error of a worker is the user's error, and ends nothing but its own extraction."""
    killed: list[int] = []
    with open_cluster(workers=2, device="cpu") as cluster:
        pids = cluster.client.run(os.getpid)

        def kill_one(event: object) -> None:
            if getattr(event, "bytes", 0) and "decode" not in event.stage and event.done > 20 and not killed:
                killed.append(min(pids.values()))
                os.kill(killed[0], signal.SIGKILL)

        (report,) = run(root, home, executor=cluster, progress=kill_one)
        after = set(cluster.client.run(os.getpid).values())
        broken = sorted((root / "val2017").glob("*.jpg"))[0]
        broken.write_bytes(broken.read_bytes()[:200])
        native = ExtractionSettings(base_size="native", device="cpu")
        with pytest.raises(DataError, match=broken.name):
            list(
                extract([BACKBONE], open_dataset("coco", root), home, splits=["val"], settings=native, executor=cluster)
            )
    assert killed
    assert killed[0] not in after
    assert report.images == IMAGES
    assert volumes(home).items() >= alone.items()
    by_writer = [facts for facts in shards_by_writer(home) if facts]
    assert len(by_writer) >= 2
    assert set().union(*by_writer) == set(range(SHARDS))
    assert home.find("features/*/*/*/claims/*") == []


def test_portions_done_one_after_the_other_are_the_whole(root, home, alone):
    left = [run(root, home, ShardPartition(number=number, count=3))[0].left for number in (2, 1, 3)]
    assert left == [2 * 30, 2 * 15, 0]
    assert sorted(map(len, shards_by_writer(home))) == [15, 15, 15]
    assert volumes(home) == alone


def test_the_workers_of_one_host_take_its_gpus_in_turn(monkeypatch):
    addresses = ["tcp://10.0.0.1:7003", "tcp://10.0.0.2:7001", "tcp://10.0.0.1:7001", "tcp://10.0.0.1:7002"]
    assert [gpu_of(address, addresses, 2) for address in addresses] == [0, 0, 0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [worker_environment(k, 3, "auto")["CUDA_VISIBLE_DEVICES"] for k in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert worker_environment(1, 2, "cuda")["CUDA_VISIBLE_DEVICES"] == "7"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(1, 2, "cpu")


def test_cpu_workers_share_the_cores_unless_told(monkeypatch):
    monkeypatch.setattr(cluster_module, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_environment(0, 3, "cpu")["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert worker_environment(0, 3, "cpu")["OMP_NUM_THREADS"] == "5"


def test_a_cluster_that_cannot_be_had_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        open_cluster(scheduler="tcp://127.0.0.1:9"),
    ):
        pass
    with pytest.raises(UsageError, match="workers must be at least 1, found 0"), open_cluster(workers=0):
        pass
    monkeypatch.setattr(cluster_module, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'deapcache\[cluster\]'"), open_cluster(workers=2):
        pass
