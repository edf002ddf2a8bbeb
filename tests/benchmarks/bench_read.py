"""Shuffled batches of feature volumes: deapcache against the other ways in which labs keep arrays.

usage: python -m tests.benchmarks.bench_read [--quick]

All readers read the same volumes in the same run, in turn, once with a warm page cache (several repeats) and once with
a cold one. What counts is the ratio to a named alternative of that run, not the time. Readers give torch tensors, in
the order asked for; WebDataset and LitData shuffle by themselves, so their order is their own.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import torch
import zarr

from deapcache.cache import FeatureCache, create_cache, encode_features, feature_arrays
from deapcache.locations import LocalLocation
from deapcache.recipe import FeatureRecipe
from tests.benchmarks.figures import Figure, ratios

Epoch = Callable[[np.ndarray], Iterator[torch.Tensor]]
"""Gives every volume once, in batches, in the order of these rows where the reader can."""

BATCH = 32
UNCOMPRESSED, MEMMAP, ONE_FILE_EACH = "deapcache, uncompressed", "numpy memmap gather", "one .npy a volume"
ROW_BY_ROW = "h5py, a chunk a volume, row by row"
OINDEX, LIST_OF_ROWS = "zarr-python `oindex`", "h5py, a chunk a volume, list of rows"
SLOW = (OINDEX, LIST_OF_ROWS)
ALWAYS_MAPPED = "LitData"
"""Keeps its files mapped, which cannot be made cold then."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reader: megabytes of features a second over the repeats, and cold."""

    name: str
    speeds: list[float]
    cold: float | None

    @property
    def typical(self) -> float:
        """Median, MB/s."""
        return median(self.speeds)


def run(quick: bool = False) -> list[Row]:
    """Measure every reader: 384 volumes of 24×24×768 float16 seven times, or a few tiny ones once."""
    features, repeats = volumes(quick), 1 if quick else 7
    with tempfile.TemporaryDirectory() as folder:
        readers = make_readers(Path(folder), features)
        orders = [np.random.default_rng(seed).permutation(len(features)) for seed in range(repeats + 1)]
        speeds: dict[str, list[float]] = {name: [] for name in readers}
        for name, read in readers.items():
            sum(len(batch) for batch in read(_share(name, orders[0])))
        for order in orders[1:]:
            # In turn, so that a busy moment of the machine hits all readers alike.
            for name, read in readers.items():
                speeds[name].append(_speed(read, _share(name, order), features[0].nbytes))
        cold = {
            name: _cold_speed(Path(folder), read, _share(name, orders[0]), features[0].nbytes)
            for name, read in readers.items()
            if name != ALWAYS_MAPPED
        }
    return [Row(name=name, speeds=speeds[name], cold=cold.get(name)) for name in readers]


def _share(name: str, order: np.ndarray) -> np.ndarray:
    """Of the slowest readers a quarter of an epoch is enough."""
    return order[: len(order) // 4] if name in SLOW else order


def volumes(quick: bool) -> np.ndarray:
    """Normally distributed float16: like the features of most backbones, they do not shrink."""
    shape = (64, 3, 4, 8) if quick else (384, 24, 24, 768)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)


def _speed(read: Epoch, order: np.ndarray, volume_bytes: int) -> float:
    start = time.perf_counter()
    seen = sum(len(batch) for batch in read(order))
    seconds = time.perf_counter() - start
    assert seen == len(order)
    return seen * volume_bytes / 1e6 / seconds


def _cold_speed(folder: Path, read: Epoch, order: np.ndarray, volume_bytes: int) -> float:
    if isinstance(read, Memmap):
        read.close()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _speed(read, order, volume_bytes)


def make_readers(folder: Path, features: np.ndarray) -> dict[str, Epoch]:
    """Every reader over its own copy of ``features``, deapcache with its defaults first."""
    cache = write_cache(folder / "default", features)
    sparse = write_cache(folder / "sparse", np.maximum(features, 0))
    array = zarr.open_group(str(cache.location), mode="r")["features"]
    hdf5 = _hdf5(folder / "plain.h5", features)
    packed = _hdf5(folder / "lzf.h5", features, compression="lzf", shuffle=True, fletcher32=True)
    each = _one_file_each(folder / "each", features)
    return {
        "deapcache": _by_batches(cache.read_features),
        UNCOMPRESSED: _by_batches(write_cache(folder / "plain", features, "none").read_features),
        "deapcache, half of the numbers 0": _by_batches(sparse.read_features),
        MEMMAP: Memmap(folder / "all.npy", features),
        ONE_FILE_EACH: _by_batches(lambda rows: np.stack([np.load(each[row]) for row in rows])),
        OINDEX: _by_batches(lambda rows: np.asarray(array.oindex[rows])),
        ROW_BY_ROW: _by_batches(lambda rows: np.stack([hdf5[row] for row in rows])),
        LIST_OF_ROWS: _by_batches(lambda rows: _in_order(hdf5, rows)),
        "h5py, lzf and fletcher32, row by row": _by_batches(lambda rows: np.stack([packed[row] for row in rows])),
        "WebDataset": _webdataset(folder / "tar", features),
        ALWAYS_MAPPED: _litdata(folder / "litdata", features),
    }


def _by_batches(read: Callable[[np.ndarray], np.ndarray]) -> Epoch:
    def epoch(order: np.ndarray) -> Iterator[torch.Tensor]:
        for first in range(0, len(order), BATCH):
            yield torch.from_numpy(read(order[first : first + BATCH]))

    return epoch


class Memmap:
    """Batches of one .npy file that stays mapped, as a training loop would keep it."""

    def __init__(self, path: Path, features: np.ndarray) -> None:
        np.save(path, features)
        self._path = path
        self._volumes: np.ndarray | None = None

    def close(self) -> None:
        """Let go of the file: pages that are mapped cannot be made cold."""
        self._volumes = None

    def __call__(self, order: np.ndarray) -> Iterator[torch.Tensor]:
        if self._volumes is None:
            self._volumes = np.load(self._path, mmap_mode="r")
        return _by_batches(self._volumes.__getitem__)(order)


def _one_file_each(folder: Path, features: np.ndarray) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{row}.npy" for row in range(len(features))]
    for path, volume in zip(paths, features, strict=True):
        np.save(path, volume)
    return paths


def _hdf5(path: Path, features: np.ndarray, **filters: object) -> h5py.Dataset:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(1, *features.shape[1:]), **filters)
    return h5py.File(path, "r")["features"]


def _in_order(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """One selection, which h5py wants sorted."""
    ranks = np.argsort(np.argsort(rows))
    return dataset[np.sort(rows)][ranks]


def _webdataset(folder: Path, features: np.ndarray) -> Epoch:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%03d.tar", maxsize=1e8, verbose=0) as sink:
        for row, volume in enumerate(features):
            sink.write({"__key__": f"{row:06d}", "npy": volume})

    def epoch(order: np.ndarray) -> Iterator[torch.Tensor]:
        shards = sorted(map(str, folder.glob("*.tar")))
        source = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=int(order[0])).shuffle(BATCH)
        samples = source.decode().to_tuple("npy")
        for (batch,) in samples.batched(BATCH, collation_fn=lambda some: (np.stack([one for (one,) in some]),)):
            yield torch.from_numpy(batch)

    return epoch


def _litdata(folder: Path, features: np.ndarray) -> Epoch:
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=100_000_000)
    for row, volume in enumerate(features):
        writer[row] = torch.from_numpy(volume)
    writer.done()
    writer.merge()

    def epoch(order: np.ndarray) -> Iterator[torch.Tensor]:
        source = iter(StreamingDataset(str(folder), shuffle=True, seed=int(order[0])))
        for first in range(0, len(order), BATCH):
            yield torch.stack([next(source) for _ in order[first : first + BATCH]])

    return epoch


def write_cache(folder: Path, features: np.ndarray, compression: str = "") -> FeatureCache:
    """A cache of these volumes in ``folder``, compressed as ``ArraySpec`` says; by default as float16 usually is."""
    count, height, width, dim = features.shape
    ids = [str(row) for row in range(count)]
    (array,) = feature_arrays("float16", (height, width), dim)
    cache = create_cache(
        LocalLocation(folder),
        "features.zarr",
        recipe=random_recipe(),
        arrays=[replace(array, compression=compression)],
        image_ids=ids,
    )
    assert isinstance(cache, FeatureCache)
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        cache.write_shard(k, encode_features(features[rows.start : rows.stop], "float16", ids[rows.start : rows.stop]))
    return cache


def random_recipe(storage: str = "float16") -> FeatureRecipe:
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
        storage=storage,
        images="none",
    )


def main() -> list[Figure]:
    """Print speeds and the ratios of deapcache to each other reader, repeat by repeat."""
    ours, *others = run("--quick" in sys.argv[1:])
    print(
        f"{'reader':<38}{'MB/s min':>10}{'median':>8}{'max':>8}{'cold':>8}   deapcache is so many times as fast; cold"
    )
    for row in (ours, *others):
        cold = f"{row.cold:>8.0f}" if row.cold else f"{'–':>8}"
        line = f"{row.name:<38}{min(row.speeds):>10.0f}{row.typical:>8.0f}{max(row.speeds):>8.0f}{cold}"
        found = ratios(ours.speeds, row.speeds)
        shown = f"   {min(found):.2f} / {median(found):.2f} / {max(found):.2f}"
        both = f"; {ours.cold / row.cold:.2f}" if row.cold and ours.cold else ""
        print(line + (shown + both if row is not ours else ""))
    return figures([ours, *others])


def figures(rows: Sequence[Row]) -> list[Figure]:
    """What the aims are about."""
    speeds = {row.name: row.speeds for row in rows}
    pairs = (
        ("deapcache", MEMMAP, 0.5),
        (UNCOMPRESSED, MEMMAP, 0.9),
        ("deapcache", OINDEX, 20),
        ("deapcache", LIST_OF_ROWS, 20),
        ("deapcache", ONE_FILE_EACH, 2),
        ("deapcache", ROW_BY_ROW, None),
        ("deapcache", "WebDataset", None),
        ("deapcache", ALWAYS_MAPPED, None),
    )
    return [
        Figure(what=f"read, MB/s: {ours} / {theirs}", ratios=ratios(speeds[ours], speeds[theirs]), aim=aim)
        for ours, theirs, aim in pairs
    ]


if __name__ == "__main__":
    main()
