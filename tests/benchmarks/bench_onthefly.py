"""Training with the backbone in the loop against extracting once and probing the cache: seconds, and where it pays.

usage: python -m tests.benchmarks.bench_onthefly [--quick]

The usual way forwards every image in every epoch, on a CPU, in batches of 8. It is given what it usually has not: the
images decoded, resized and held in memory, no augmentation, no gradients for the backbone. The other way extracts the
same images once, from the cache of base images, and trains the same readout with the same loop and the same order on
what is streamed from the feature cache; both learn the same (the losses tell). One DeAP readout, boundaries at 224×224.

A few steps of either way give rates; seconds for more epochs are these rates times the images, and labelled as
extrapolated. One small run of ten epochs is measured from its first image to its last step, both ways, and set beside
what the rates say. More readouts, seeds or learning rates share the extraction, and would only widen the gap.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch

from deapcache.backbones import Backbone, build
from deapcache.cache import ArraySpec, Cache, FeatureCache, create_cache, feature_arrays
from deapcache.extraction import CachedImages, ExtractionSettings, calibrate, image_array
from deapcache.extraction.pipeline import FeatureJob, extract_shards
from deapcache.locations import LocalLocation
from deapcache.machine import keep_freed_memory
from deapcache.probing import ProbeConfig
from deapcache.probing.batches import READ_AHEAD, Batch, BatchStream
from deapcache.probing.caches import SplitCaches
from deapcache.probing.train import stack_trainers, train
from deapcache.recipe import ImageRecipe, TargetRecipe
from tests.benchmarks.bench_probe import Marked, new_trainer
from tests.benchmarks.bench_read import random_recipe
from tests.benchmarks.bench_stack import Sizes
from tests.benchmarks.figures import Figure

SIZE = (224, 224)
BATCH = 8
EPOCHS = (1, 2, 5, 10, 50)
COCO = 118_287
"""Images of the training split that the table is about."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is measured of one backbone."""

    backbone: str
    images: int
    """Of the run from beginning to end."""
    steps: int
    """Timed ones, for the rates."""
    epochs: int = 10
    """Of the run from beginning to end."""


TRIALS = [
    Trial(backbone="imagenet@untrained", images=16, steps=4),
    Trial(backbone="efficientnet-lite0@untrained", images=64, steps=16),
]
QUICK = [Trial(backbone="efficientnet-lite0@untrained", images=8, steps=1, epochs=2)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds an image, by step or shard, and the run from beginning to end."""

    trial: Trial
    fly: list[float] = field(default_factory=list)
    """A training step with the backbone in it."""
    extract: list[float] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)
    """A training step from the cache."""
    end_to_end: dict[str, float] = field(default_factory=dict)
    """``fly`` and ``cache`` → seconds of all epochs."""
    losses: dict[str, float] = field(default_factory=dict)
    """Mean over the last epoch of that run."""

    def seconds(self, images: int, epochs: int) -> tuple[float, float]:
        """What so many epochs take by the rates: with the backbone in the loop, and with the cache."""
        fly, extract, probe = (images * median(rates) for rates in (self.fly, self.extract, self.probe))
        return epochs * fly, extract + epochs * probe


class OnTheFly:
    """Batches whose features are computed when they are needed, by the backbone in the loop."""

    def __init__(self, backbone: Backbone, images: np.ndarray, maps: np.ndarray) -> None:
        self._backbone = backbone
        self._images = images
        self._maps = maps

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """One batch for each array of rows; the allocator does as it does in extraction."""
        with keep_freed_memory():
            for rows in order:
                # a clone, as what inference mode gives cannot be learned from
                features = self._backbone(torch.from_numpy(self._images[rows])).clone()
                yield Batch(rows, features, {"instances": torch.from_numpy(self._maps[rows])}, None)


def run(quick: bool = False) -> list[Row]:
    """Measure both ways for a ViT-B/16 and for EfficientNet-Lite0; or a few images of the latter."""
    return [_run_trial(trial) for trial in (QUICK if quick else TRIALS)]


def _run_trial(trial: Trial) -> Row:
    row = Row(trial=trial)
    with tempfile.TemporaryDirectory() as folder:
        home = LocalLocation(Path(folder))
        images, targets = _base_images(home, trial.images), _targets(home, trial.images)
        backbone = build(trial.backbone)
        if backbone.needs_calibration:
            calibrate(backbone, CachedImages(images), trial.images, "random")
        rows = np.arange(trial.images)
        fly = OnTheFly(backbone, images.read(rows), targets.read(rows))
        backbone(torch.from_numpy(images.read(rows[:BATCH])))  # the first time is not timed
        _from_beginning_to_end(row, fly, home, backbone, images, targets)
        _rates(row, fly, home, backbone, images, targets)
    return row


def _from_beginning_to_end(
    row: Row, fly: OnTheFly, home: LocalLocation, backbone: Backbone, images: Cache, targets: Cache
) -> None:
    steps = row.trial.epochs * row.trial.images // BATCH
    start = time.perf_counter()
    _, row.losses["fly"] = _train(fly, backbone, row.trial.images, steps)
    row.end_to_end["fly"] = time.perf_counter() - start
    start = time.perf_counter()
    stream = BatchStream(_extracted(home / "whole", backbone, images, targets), "stream", torch.device("cpu"))
    _, row.losses["cache"] = _train(stream, backbone, row.trial.images, steps)
    row.end_to_end["cache"] = time.perf_counter() - start


def _rates(row: Row, fly: OnTheFly, home: LocalLocation, backbone: Backbone, images: Cache, targets: Cache) -> None:
    for repeat in range(2):  # in turn, so that a busy moment of the machine hits all alike
        start = time.perf_counter()
        arrays = _extracted(home / str(repeat), backbone, images, targets)
        row.extract.append((time.perf_counter() - start) / row.trial.images)
        stream = BatchStream(arrays, "stream", torch.device("cpu"))
        for rates, way, steps, tail in (
            (row.fly, fly, row.trial.steps, 0),
            (row.probe, stream, 4 * row.trial.steps, READ_AHEAD),  # nothing is read any more in the last steps
        ):
            marks, _ = _train(way, backbone, row.trial.images, steps + 2 + tail)
            rates += (np.diff(marks)[1 : steps + 1] / BATCH).tolist()


def _train(stream: OnTheFly | BatchStream, backbone: Backbone, images: int, steps: int) -> tuple[list[float], float]:
    """When each batch was there, and the mean loss of the last epoch."""
    sizes = Sizes(features=(*backbone.grid, backbone.dim), output=SIZE)
    trainer, marked = new_trainer(sizes, steps), Marked(stream)  # type: ignore[arg-type]
    options = ProbeConfig(batch_size=BATCH)
    train(stack_trainers([trainer], options.weight_decay), marked, np.arange(images), options, lambda _: None)  # type: ignore[arg-type]
    last = [loss for _, loss in trainer.loss_curve()][-max(1, images // BATCH) :]
    return marked.marks, float(np.mean(last))


def _extracted(home: LocalLocation, backbone: Backbone, images: Cache, targets: Cache) -> SplitCaches:
    """The features of all images, extracted now."""
    arrays = feature_arrays("float16", backbone.grid, backbone.dim)
    cache = create_cache(home, "features.zarr", recipe=random_recipe(), arrays=arrays, image_ids=images.image_ids)
    assert isinstance(cache, FeatureCache)
    settings = ExtractionSettings(batch_size=BATCH)
    job = FeatureJob(caches=[cache], backbone=backbone, source=CachedImages(images), settings=settings)
    extract_shards(job, range(cache.shard_count))
    return SplitCaches(cache, {"instances": targets}, np.arange(len(images)))


def _base_images(home: LocalLocation, count: int) -> Cache:
    recipe = ImageRecipe(size=SIZE, fit="squash", interpolation="none", colour="random", images="")
    return _random_cache(home, "images.zarr", recipe, image_array(SIZE), count, 256)


def _targets(home: LocalLocation, count: int) -> Cache:
    recipe = TargetRecipe(
        annotation="instances", size=SIZE, fit="squash", options={}, classes=(), images="", annotations=""
    )
    spec = ArraySpec(name="targets", dtype="int32", item_shape=SIZE, dimensions=("row", "column"))
    return _random_cache(home, "targets.zarr", recipe, spec, count, 5)


def _random_cache(
    home: LocalLocation, path: str, recipe: ImageRecipe | TargetRecipe, spec: ArraySpec, count: int, values: int
) -> Cache:
    """A cache of blobs of 8 × 8 pixels, each with one of so many values."""
    rng = np.random.default_rng(0)
    cache = create_cache(home, path, recipe=recipe, arrays=[spec], image_ids=[str(row) for row in range(count)])
    height, width, *channels = spec.item_shape
    for k in range(cache.shard_count):
        blobs = rng.integers(0, values, (len(cache.shard_rows(k)), height // 8, width // 8, *channels))
        cache.write_shard(k, {spec.name: blobs.repeat(8, 1).repeat(8, 2).astype(spec.dtype)})
    return cache


def main() -> list[Figure]:
    """Print rates, the table over epochs, and the run that was measured from beginning to end."""
    figures = []
    quick = "--quick" in sys.argv[1:]
    for row in run(quick):
        print(f"{row.trial.backbone}, CPU, batches of {BATCH}; ms an image (min/median/max)")
        for name, rates in (("on the fly", row.fly), ("extract", row.extract), ("probe", row.probe)):
            ms = [1e3 * seconds for seconds in rates]
            print(f"  {name:<12}{min(ms):>9.1f} / {median(ms):.1f} / {max(ms):.1f}")
        print(f"  extrapolated from these rates to {COCO:,} images; hours")
        print(f"  {'epochs':<8}{'on the fly':>12}{'extract + probe':>17}{'times faster':>14}")
        for epochs in EPOCHS:
            fly, cache = row.seconds(COCO, epochs)
            print(f"  {epochs:<8}{fly / 3600:>12.1f}{cache / 3600:>17.1f}{fly / cache:>14.1f}")
        _print_end_to_end(row)
        figures.append(_figure(row))
    return figures


def _figure(row: Row) -> Figure:
    name = row.trial.backbone.partition("@")[0]
    what = f"s for {row.trial.epochs} epochs: {name} in the loop / extract + probe"
    aim = 5.0 if name == "imagenet" else None  # a fast backbone costs hardly more than the readout
    return Figure(what=what, ratios=[row.end_to_end["fly"] / row.end_to_end["cache"]], aim=aim)


def _print_end_to_end(row: Row) -> None:
    epochs, images = row.trial.epochs, row.trial.images
    expected = row.seconds(images, epochs)
    measured = row.end_to_end["fly"], row.end_to_end["cache"]
    print(f"  measured from beginning to end: {epochs} epochs of {images} images")
    for name, found, by_rates in zip(("on the fly", "extract + probe"), measured, expected, strict=True):
        print(f"  {name:<16}{found:>8.1f} s, by the rates {by_rates:.1f} s")
    print(f"  {measured[0] / measured[1]:.1f} times faster, by the rates {expected[0] / expected[1]:.1f}")
    print(f"  loss at the end: on the fly {row.losses['fly']:.4f}, from the cache {row.losses['cache']:.4f}\n")


if __name__ == "__main__":
    main()
