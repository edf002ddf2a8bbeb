"""Extraction against the forward pass alone, on the same cached base images, in one process.

usage: python -m tests.benchmarks.bench_extract [--quick] [--device cuda] [--backbone NAME,...]

The forward alone runs on batches that are in memory already, and keeps nothing. Extraction reads them from the image
cache, and checks, compresses and publishes what comes out. ``slow store`` publishes each shard in the time that its
forward passes take: only where both go on at the same time is the ratio still near 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch

from deapcache.backbones import Backbone, build
from deapcache.cache import Cache, FeatureCache, create_cache, feature_arrays
from deapcache.cache.format import MIN_SHARDS
from deapcache.extraction import CachedImages, ExtractionSettings, calibrate, default_batch_size, image_array
from deapcache.extraction.pipeline import FeatureJob, extract_shards
from deapcache.locations import LocalLocation
from deapcache.machine import keep_freed_memory
from deapcache.recipe import ImageRecipe
from tests.benchmarks.bench_read import random_recipe
from tests.benchmarks.figures import Figure, ratios

TRIALS = {"efficientnet-lite0@untrained": (64, 8), "imagenet@untrained": (32, 2)}
"""Shards, and the images of each, which are one batch, on a CPU: the last shard's publication overlaps with nothing."""


@dataclass(kw_only=True)
class Speeds:
    """Images a second of one backbone, by repeat."""

    backbone: str
    images: int
    forward: list[float] = field(default_factory=list)
    extract: list[float] = field(default_factory=list)
    slow_store: list[float] = field(default_factory=list)

    def ratio(self, speeds: Sequence[float]) -> float:
        """Of the medians, to the forward alone."""
        return median(speeds) / median(self.forward)


class SlowLocation(LocalLocation):
    """A folder in which publishing a shard takes at least so many seconds."""

    seconds = 0.0

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        """As a folder does, only later."""
        start = time.perf_counter()
        made = super().publish(key, data, replace=replace)
        if "/c." in key:
            time.sleep(max(0.0, self.seconds - (time.perf_counter() - start)))
        return made

    def __truediv__(self, part: str) -> SlowLocation:
        inner = SlowLocation((super().__truediv__(part)).path)
        inner.seconds = self.seconds
        return inner


def run(name: str, shards: int, batch: int, device: str, repeats: int, *, precision: str = "fp32") -> Speeds:
    """Measure one backbone on so many shards of one batch, the three ways in turn, on images of its own size."""
    with tempfile.TemporaryDirectory() as folder:
        images = shards * batch
        backbone = build(name, precision=precision).to(torch.device(device))
        base = _base_images(LocalLocation(Path(folder)), MIN_SHARDS * batch, backbone.image_size)
        if backbone.needs_calibration:
            calibrate(backbone, CachedImages(base), images, "random")
        speeds = Speeds(backbone=name, images=images)
        batches = [base.read(range(i, i + batch)) for i in range(0, images, batch)]
        for repeat in range(repeats):
            speeds.forward.append(images / _forward_seconds(backbone, batches))
            for slow, into in ((0.0, speeds.extract), (1.0, speeds.slow_store)):
                home = SlowLocation(Path(folder) / f"{repeat}-{slow}")
                home.seconds = slow * batch / speeds.forward[-1]
                into.append(images / _extract_seconds(backbone, base, home, shards, batch))
    return speeds


def _forward_seconds(backbone: Backbone, batches: Sequence[np.ndarray]) -> float:
    with keep_freed_memory():  # as extraction does
        start = time.perf_counter()
        for batch in batches:
            features = backbone(torch.from_numpy(batch).to(backbone.device))
        features.sum().item()  # waits for a GPU
        return time.perf_counter() - start


def _extract_seconds(backbone: Backbone, base: Cache, home: SlowLocation, shards: int, batch: int) -> float:
    arrays = feature_arrays("float16", backbone.grid, backbone.dim)
    made = create_cache(home, "features.zarr", recipe=random_recipe(), arrays=arrays, image_ids=base.image_ids)
    assert isinstance(made, FeatureCache)
    assert made.shard_images == batch
    start = time.perf_counter()
    settings = ExtractionSettings(batch_size=batch)
    job = FeatureJob(caches=[made], backbone=backbone, source=CachedImages(base), settings=settings)
    extract_shards(job, range(shards))
    return time.perf_counter() - start


def _base_images(home: LocalLocation, images: int, size: tuple[int, int]) -> Cache:
    block = 8 if size[0] % 8 == 0 else 14  # pixels of one colour, as much as a patch of a ViT has
    rng = np.random.default_rng(0)
    ids = [f"{row:06d}" for row in range(images)]
    recipe = ImageRecipe(size=size, fit="squash", interpolation="none", colour="random", images="")
    cache = create_cache(home, "images.zarr", recipe=recipe, arrays=[image_array(size)], image_ids=ids)
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        blobs = rng.integers(0, 256, (len(rows), size[0] // block, size[1] // block, 3), dtype=np.uint8)
        cache.write_shard(k, {"images": blobs.repeat(block, 1).repeat(block, 2)})
    return cache


def main() -> list[Figure]:
    """Print images a second, and the ratios."""
    arguments = sys.argv[1:]
    quick = "--quick" in arguments
    device = arguments[arguments.index("--device") + 1] if "--device" in arguments else "cpu"
    asked = list(TRIALS)
    if "--backbone" in arguments:
        asked = arguments[arguments.index("--backbone") + 1].split(",")
    print(
        f"{'images/s on ' + device:<34}{'forward alone':>14}{'extract':>10}{'ratio':>8}{'slow store':>12}{'ratio':>8}"
    )
    figures: list[Figure] = []
    for name in asked[:1] if quick else asked:
        shards, batch = TRIALS.get(name, (32, default_batch_size(torch.device(device))))
        speeds = run(name, 2 if quick else shards, batch, device, 1 if quick else 3)
        print(
            f"{name:<34}{median(speeds.forward):>14.1f}{median(speeds.extract):>10.1f}"
            f"{speeds.ratio(speeds.extract):>8.2f}{median(speeds.slow_store):>12.1f}{speeds.ratio(speeds.slow_store):>8.2f}"
        )
        aim = 0.95 if device == "cpu" else 0.9
        for way, values in (("extract", speeds.extract), ("extract to a slow store", speeds.slow_store)):
            what = f"images/s: {way}, {name.partition('@')[0]} / forward alone"
            figures.append(Figure(what=what, ratios=ratios(values, speeds.forward), aim=aim))
    return figures


if __name__ == "__main__":
    main()
