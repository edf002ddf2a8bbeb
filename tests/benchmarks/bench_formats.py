"""Bytes and rounding errors of every storage format, and what reading each costs up to torch tensors.

usage: python -m tests.benchmarks.bench_formats [--home HOME] [--quick]

Sizes, under every codec, and errors are of real features where HOME holds them (``compare_formats`` leaves float32
features of the scenes there), else of random numbers, which no codec shrinks much. Reading is timed on 256 volumes of
24×24×768 random numbers, in shuffled batches of 32, page cache warm, all formats in turn; what counts is the ratio to
float16 of the same repeat.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from deapcache.cache import (
    STORAGE_FORMATS,
    FeatureCache,
    create_cache,
    decode_features,
    encode_features,
    feature_arrays,
    find_caches,
)
from deapcache.locations import LocalLocation, Location, locate
from tests.benchmarks.bench_read import random_recipe
from tests.benchmarks.format_tables import markdown

CODECS = ("none", "lz4+noshuffle", "lz4+shuffle", "lz4+bitshuffle", "zstd+noshuffle", "zstd+shuffle", "zstd+bitshuffle")
REFERENCE = "float16"
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One format: volumes a second in each repeat, and the last batch read."""

    storage: str
    as_stored: list[float]
    """Up to a tensor of the dtype that the cache decodes to, as a probe on a GPU copies it there."""
    as_float32: list[float]
    """Up to a float32 tensor, which every readout computes with."""
    last_batch: torch.Tensor


def measure_sizes(features: np.ndarray, folder: Path) -> dict[str, dict[str, float]]:
    """Format → codec → bytes an image in a cache of ``features`` (n, H, W, D) float32; ``default`` is the format's."""
    return {
        storage: {
            codec: _write(folder, features, storage, "" if codec == "default" else codec).stored_bytes() / len(features)
            for codec in ("default", *CODECS)
        }
        for storage in STORAGE_FORMATS
    }


def measure_errors(features: np.ndarray) -> dict[str, tuple[float, float]]:
    """Format → (root mean square, largest) error of ``features`` (n, H, W, D) float32, by their root mean square."""
    ids = [str(row) for row in range(len(features))]
    scale = np.sqrt(np.square(features, dtype=np.float64).mean())
    errors = {}
    for storage in STORAGE_FORMATS:
        decoded = decode_features(encode_features(features, storage, ids), storage)
        error = np.abs(decoded.astype(np.float64) - features)
        errors[storage] = (float(np.sqrt(np.square(error).mean()) / scale), float(error.max() / scale))
    return errors


def measure_reading(*, quick: bool = False) -> list[Reading]:
    """Read every format, each with its default codec, in turn: five times, or few tiny volumes once."""
    shape, repeats = ((64, 3, 4, 8), 1) if quick else ((256, 24, 24, 768), 5)
    rng = np.random.default_rng(0)
    features = rng.standard_normal(shape, dtype=np.float32)
    nothing = torch.empty(0)
    found = {name: Reading(storage=name, as_stored=[], as_float32=[], last_batch=nothing) for name in STORAGE_FORMATS}
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: _write(Path(folder), features, name) for name in STORAGE_FORMATS}
        for cache in caches.values():
            _read(cache, np.arange(len(features)), to_float32=False)  # into the page cache
        for _ in range(repeats):
            order = rng.permutation(len(features))
            for name, cache in caches.items():
                found[name].as_stored.append(_read(cache, order, to_float32=False)[0])
                speed, batch = _read(cache, order, to_float32=True)
                found[name].as_float32.append(speed)
                found[name] = replace(found[name], last_batch=batch)
    return list(found.values())


def _read(cache: FeatureCache, order: np.ndarray, *, to_float32: bool) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    for first in range(0, len(order), BATCH):
        batch = torch.from_numpy(cache.read_features(order[first : first + BATCH]))
        batch = batch.float() if to_float32 else batch
    return len(order) / (time.perf_counter() - start), batch


def _write(folder: Path, features: np.ndarray, storage: str, compression: str = "") -> FeatureCache:
    """A cache of ``features`` in a format, under the format's own codec unless another one is named."""
    count, height, width, dim = features.shape
    specs = feature_arrays(storage, (height, width), dim)
    if compression:
        specs = tuple(replace(spec, compression=compression) if spec.name == "features" else spec for spec in specs)
    ids = [str(row) for row in range(count)]
    cache = create_cache(
        LocalLocation(folder),
        f"{storage}-{compression or 'default'}.zarr",
        recipe=random_recipe(storage),
        arrays=specs,
        image_ids=ids,
    )
    assert isinstance(cache, FeatureCache)
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        part = slice(rows.start, rows.stop)
        cache.write_shard(k, encode_features(features[part], storage, ids[part]))
    return cache


def real_features(home: Location) -> np.ndarray:
    """(n, H, W, D) float32: the validation scenes' features in ``home``; raises ``ValueError`` where it has none."""
    (entry,) = find_caches(
        home, "features", dataset="scenes", split="val", name="efficientnet-lite0-s16", fields={"storage": "float32"}
    )
    cache = entry.open()
    return cache.read(np.arange(len(cache)))


def sizes_table(sizes: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: bytes an image for each format and codec."""
    lines = [[name, *(f"{size:,.0f}" for size in of.values())] for name, of in sizes.items()]
    return markdown(["format", "its default", *CODECS], lines)


def errors_table(errors: Mapping[str, tuple[float, float]]) -> str:
    """Markdown: how far what is read is from what was computed."""
    lines = [[name, f"{typical:.1e}", f"{largest:.1e}"] for name, (typical, largest) in errors.items()]
    return markdown(["format", "error, root mean square", "error, largest"], lines)


def reading_table(found: Sequence[Reading]) -> str:
    """Markdown: volumes a second, and the ratio to float16 repeat by repeat, min / median / max."""
    (reference,) = (each for each in found if each.storage == REFERENCE)
    lines = []
    for each in found:
        cells = []
        for mine, theirs in ((each.as_stored, reference.as_stored), (each.as_float32, reference.as_float32)):
            ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
            cells += [_spread(mine, "{:,.0f}"), _spread(ratios, "{:.2f}")]
        lines.append([each.storage, *cells])
    of = f"of {REFERENCE}"
    return markdown(["format", "volumes/s to a tensor", of, "volumes/s to float32", of], lines)


def _spread(values: Sequence[float], shown: str) -> str:
    return " / ".join(shown.format(value) for value in (min(values), median(values), max(values)))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_formats")
    parser.add_argument("--home")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    random = np.random.default_rng(0).standard_normal((8, 14, 14, 112), dtype=np.float32)
    features = real_features(locate(given.home)) if given.home else random
    with tempfile.TemporaryDirectory() as folder:
        print(sizes_table(measure_sizes(features, Path(folder))))
    print(f"\n{errors_table(measure_errors(features))}\n")
    print(reading_table(measure_reading(quick=given.quick)))


if __name__ == "__main__":
    main()
