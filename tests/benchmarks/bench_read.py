"""Shuffled batches of feature volumes: deapcache against zarr-python, a numpy memmap and one .npy a volume.

usage: python tests/benchmarks/bench_read.py [--quick]

All readers read the same volumes in the same order in the same run, in turn, with a warm page cache. What counts is the
ratio to a named alternative of that run, not the time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import zarr

from deapcache.cache import FeatureCache, create_cache, encode_features, feature_arrays
from deapcache.locations import LocalLocation
from deapcache.recipe import FeatureRecipe

Reader = Callable[[np.ndarray], np.ndarray]
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reader: megabytes of features a second over the repeats, and the last batch it read."""

    name: str
    speeds: list[float]
    last_batch: np.ndarray

    @property
    def typical(self) -> float:
        """Median, MB/s."""
        return median(self.speeds)


def run(quick: bool = False) -> list[Row]:
    """Measure every reader: 384 volumes of 24×24×768 float16 five times, or a few tiny ones once."""
    shape, repeats = ((64, 3, 4, 8), 1) if quick else ((384, 24, 24, 768), 5)
    rng = np.random.default_rng(0)
    features = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        readers = _readers(Path(folder), features)
        orders = [rng.permutation(len(features)) for _ in range(repeats)]
        speeds: dict[str, list[float]] = {name: [] for name in readers}
        last: dict[str, np.ndarray] = {}
        for order in orders:
            # In turn, so that a busy moment of the machine hits all readers alike.
            for name, read in readers.items():
                speed, last[name] = _measure(read, order, features.nbytes)
                speeds[name].append(speed)
    return [Row(name=name, speeds=speeds[name], last_batch=last[name]) for name in readers]


def _measure(read: Reader, order: np.ndarray, total: int) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    for first in range(0, len(order), BATCH):
        batch = read(order[first : first + BATCH])
    return total / 1e6 / (time.perf_counter() - start), batch


def _readers(folder: Path, features: np.ndarray) -> dict[str, Reader]:
    cache = _write_cache(folder, features)
    array = zarr.open_group(str(cache.location), mode="r")["features"]
    np.save(folder / "all.npy", features)
    memmap = np.load(folder / "all.npy", mmap_mode="r")
    (folder / "each").mkdir()
    for row, volume in enumerate(features):
        np.save(folder / "each" / f"{row}.npy", volume)
    return {
        "deapcache": cache.read_features,
        "zarr-python oindex": lambda rows: np.asarray(array.oindex[rows]),
        "numpy memmap gather": lambda rows: np.asarray(memmap[rows]),
        "one .npy a volume": lambda rows: np.stack([np.load(folder / "each" / f"{row}.npy") for row in rows]),
    }


def _write_cache(folder: Path, features: np.ndarray) -> FeatureCache:
    count, height, width, dim = features.shape
    ids = [str(row) for row in range(count)]
    cache = create_cache(
        LocalLocation(folder),
        "features.zarr",
        recipe=random_recipe(),
        arrays=feature_arrays("float16", (height, width), dim),
        image_ids=ids,
    )
    assert isinstance(cache, FeatureCache)
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        cache.write_shard(k, encode_features(features[rows.start : rows.stop], "float16", ids[rows.start : rows.stop]))
    return cache


def random_recipe() -> FeatureRecipe:
    """The recipe of volumes that no backbone made."""
    return FeatureRecipe(
        backbone="random",
        architecture="none",
        arguments={},
        weights="none",
        calibration="",
        layer="last",
        final_norm=True,
        base_size="224x224",
        base_fit="squash",
        base_interpolation="none",
        colour="rgb",
        image_size=(224, 224),
        interpolation="none",
        antialias=True,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        precision="fp32",
        tf32=False,
        storage="float16",
        images="none",
    )


def main() -> None:
    """Print speeds and the ratios of deapcache to each other reader, repeat by repeat."""
    ours, *others = rows = run("--quick" in sys.argv[1:])
    print(
        f"{'reader':<22}{'MB/s min':>10}{'median':>10}{'max':>10}   deapcache is so many times as fast (min/median/max)"
    )
    for row in rows:
        line = f"{row.name:<22}{min(row.speeds):>10.0f}{row.typical:>10.0f}{max(row.speeds):>10.0f}"
        ratios = [mine / theirs for mine, theirs in zip(ours.speeds, row.speeds, strict=True)]
        print(line + (f"   {min(ratios):.2f} / {median(ratios):.2f} / {max(ratios):.2f}" if row in others else ""))


if __name__ == "__main__":
    main()
