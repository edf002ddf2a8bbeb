"""``deapcache cache verify`` against tensorstore reading the same volumes.

usage: python -m tests.benchmarks.bench_verify [--quick]

Both go over all volumes of one feature cache, in turn, in the same run, with a warm page cache. tensorstore reads shard
by shard with all its threads, as fast as it can; its checksums are compared too, for they are codecs of the array. What
counts is the ratio: reading a cache whole should cost little more than reading it at all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tensorstore

from deapcache.cache import FeatureCache, create_cache, encode_features, feature_arrays, verify_cache
from deapcache.locations import LocalLocation
from tests.benchmarks.bench_read import random_recipe
from tests.benchmarks.figures import Figure, ratios
from tests.benchmarks.memory import MEBIBYTE, environment

_VERIFY, _TENSORSTORE = "deapcache verify", "tensorstore read"


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Megabytes of unpacked features a second, repeat by repeat, and how the verifying process grew."""

    speeds: dict[str, list[float]]
    peaks: tuple[int, int]
    """Peak memory, in bytes, of a process that verifies an eighth of the shards, and of one that verifies all."""


def run(quick: bool = False, storage: str = "float16") -> Speeds:
    """Measure both: 1,536 volumes of 24×24×768 in 64 shards five times, or a few tiny ones once."""
    shape, repeats = ((64, 3, 4, 8), 1) if quick else ((1536, 24, 24, 768), 5)
    with tempfile.TemporaryDirectory() as folder:
        cache = _write_cache(Path(folder), shape, storage)
        ways: dict[str, Callable[[], None]] = {
            _VERIFY: lambda: _verify(cache),
            _TENSORSTORE: lambda: _read(cache),
        }
        peaks = _peak(cache, cache.shard_count // 8), _peak(cache, cache.shard_count)
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        total = sum(spec.item_bytes for spec in cache.arrays.values()) * len(cache)
        for _ in range(repeats):
            # In turn, so that a busy moment of the machine hits both alike.
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                speeds[name].append(total / 1e6 / (time.perf_counter() - start))
    return Speeds(speeds=speeds, peaks=peaks)


def _verify(cache: FeatureCache) -> None:
    report = verify_cache(cache.location)
    assert report.is_sound
    assert report.files == cache.shard_count * len(cache.arrays)


def _read(cache: FeatureCache) -> None:
    for name in cache.arrays:
        array = _opened(cache, name)
        for k in range(cache.shard_count):
            rows = cache.shard_rows(k)
            array[rows.start : rows.stop].read().result()


def _opened(cache: FeatureCache, name: str) -> Any:
    spec = {"driver": "zarr3", "kvstore": f"file://{cache.location}/{name}/", "recheck_cached_data": "open"}
    return tensorstore.open(spec, open=True, read=True).result()


def _peak(cache: FeatureCache, shards: int) -> int:
    script = (
        "import sys\n"
        "from deapcache.cache import verify_cache\n"
        "from deapcache.locations import locate\n"
        "from tests.benchmarks.memory import resident\n"
        "assert verify_cache(locate(sys.argv[1]), shards=range(int(sys.argv[2]))).is_sound\n"
        "print(resident('VmHWM'))\n"
    )
    command = [sys.executable, "-c", script, str(cache.location), str(shards)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return round(float(done.stdout) * MEBIBYTE)


def _write_cache(folder: Path, shape: tuple[int, int, int, int], storage: str) -> FeatureCache:
    count, height, width, dim = shape
    cache = create_cache(
        LocalLocation(folder),
        "features.zarr",
        recipe=random_recipe(storage),
        arrays=feature_arrays(storage, (height, width), dim),
        image_ids=[str(row) for row in range(count)],
    )
    assert isinstance(cache, FeatureCache)
    rng = np.random.default_rng(0)
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        volumes = rng.standard_normal((len(rows), *shape[1:]), dtype=np.float32)
        cache.write_shard(k, encode_features(volumes, storage, [str(row) for row in rows]))
    return cache


def main() -> list[Figure]:
    """Print the speeds and the peak memory; the ratio repeat by repeat, which should reach 0.8."""
    found = run("--quick" in sys.argv[1:])
    print(f"{'way':<22}{'MB/s min':>10}{'median':>10}{'max':>10}")
    for name, speeds in found.speeds.items():
        print(f"{name:<22}{min(speeds):>10.0f}{median(speeds):>10.0f}{max(speeds):>10.0f}")
    part, whole = found.peaks
    print(f"peak memory of the process: {part / 1e6:.0f} MB for an eighth of the shards, {whole / 1e6:.0f} MB for all")
    rates = ratios(found.speeds[_VERIFY], found.speeds[_TENSORSTORE])
    return [
        Figure(what="verify, MB/s: every checksum / tensorstore reading", ratios=rates, aim=0.8),
        Figure(what="verify, memory: all shards / an eighth of them", ratios=[whole / part], aim=1.1, at_most=True),
    ]


if __name__ == "__main__":
    main()
