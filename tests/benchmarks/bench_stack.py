"""Training several readouts in one pass against as many passes of one: milliseconds a step, the same code for both.

usage: python tests/benchmarks/bench_stack.py [--quick] [--device cuda]

Features as a ViT-B/16 gives them (14×14×768, float16) are streamed from a cache, batches of 8, boundaries at 224×224.
A figure is the median over spans of ten steps, the first spans left out. All run in turn in one process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from deapcache.annotations import get_annotation
from deapcache.cache import ArraySpec, Cache, create_cache, encode_features, feature_arrays
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, ReadoutTrainer, TaskSpec
from deapcache.probing.batches import BatchStream, image_order
from deapcache.probing.caches import SplitCaches
from deapcache.probing.train import stack_trainers, thread_count, train
from deapcache.recipe import TargetRecipe
from deapcache.tasks import get_task
from tests.benchmarks.bench_read import random_recipe
from tests.benchmarks.figures import Figure

READOUTS = (1, 2, 4, 8, 16)

AIMS = {16: 0.5}
"""Of as many passes of one, at most, by number of readouts."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is trained on what."""

    images: int = 256
    features: tuple[int, int, int] = (14, 14, 768)
    output: tuple[int, int] = (224, 224)
    batch: int = 8
    spans: int = 3
    """Of ten steps each, in every repeat."""
    repeats: int = 3
    device: str = "cpu"


QUICK = Sizes(images=16, features=(3, 3, 8), output=(24, 24), batch=2, spans=1, repeats=1)


@dataclass(frozen=True)
class Times:
    """Milliseconds a step."""

    reading: float
    """Batches alone, nothing trained."""
    together: dict[int, list[float]]
    """Number of readouts in one pass → by repeat."""

    def ratio(self, readouts: int) -> list[float]:
        """So many readouts in one pass over as many passes of one, by repeat."""
        pairs = zip(self.together[readouts], self.together[1], strict=True)
        return [together / (readouts * single) for together, single in pairs]


def run(sizes: Sizes, readouts: Sequence[int] = READOUTS) -> Times:
    """Measure reading, and each number of readouts together."""
    with tempfile.TemporaryDirectory() as folder:
        caches = make_caches(LocalLocation(Path(folder)), sizes)
        stream = BatchStream(caches, "stream", torch.device(sizes.device))
        reading = _reading_time(stream, caches.rows, sizes)
        together: dict[int, list[float]] = {count: [] for count in readouts}
        for _ in range(sizes.repeats):  # in turn, so that a busy moment of the machine hits all alike
            for count in readouts:
                together[count].append(_step_time(stream, caches.rows, range(count), sizes))
    return Times(reading, together)


def _reading_time(stream: BatchStream, rows: np.ndarray, sizes: Sizes) -> float:
    steps = 10 * sizes.spans
    start = time.perf_counter()
    for _ in stream.batches(image_order(0, rows, iterations=steps, batch_size=sizes.batch)):
        pass
    return 1e3 * (time.perf_counter() - start) / steps


def _step_time(stream: BatchStream, rows: np.ndarray, seeds: Sequence[int], sizes: Sizes) -> float:
    spec = boundaries_spec(sizes, 10 * (sizes.spans + 1))
    config = ProbeConfig(batch_size=sizes.batch, device=sizes.device)
    trainers = [ReadoutTrainer(spec, "deap", seed=seed, lr=1e-3, device=sizes.device) for seed in seeds]
    marks: list[float] = []
    groups = stack_trainers(trainers, config.weight_decay, threads=thread_count(sizes.device))
    train(groups, stream, rows, config, lambda _: marks.append(time.perf_counter()))
    spans = np.diff(marks)  # of ten steps each; the first mark ends the first ten
    return 1e3 * float(np.median(spans)) / 10


def boundaries_spec(sizes: Sizes, iterations: int) -> TaskSpec:
    """What a readout learns from :func:`make_caches`."""
    return TaskSpec(
        task=get_task("boundaries"),
        backbone="random",
        classes=(),
        output_size=sizes.output,
        grid=sizes.features[:2],
        feature_dim=sizes.features[2],
        iterations=iterations,
    )


def make_caches(home: LocalLocation, sizes: Sizes, annotation: str = "instances", values: int = 5) -> SplitCaches:
    """Caches of random features, and of maps of blobs of 8 × 8 pixels with so many values."""
    rng = np.random.default_rng(0)
    ids = [str(row) for row in range(sizes.images)]
    height, width, dim = sizes.features
    features = create_cache(
        home,
        "features.zarr",
        recipe=random_recipe(),
        arrays=feature_arrays("float16", (height, width), dim),
        image_ids=ids,
    )
    volumes = rng.standard_normal((sizes.images, *sizes.features), dtype=np.float32)
    _fill(features, encode_features(volumes, "float16", ids))
    recipe = TargetRecipe(
        annotation=annotation, size=sizes.output, fit="squash", options={}, classes=(), images="", annotations=""
    )
    dtype = get_annotation(annotation).dtype
    spec = ArraySpec(name="targets", dtype=dtype, item_shape=sizes.output, dimensions=("row", "column"))
    targets = create_cache(home, "targets.zarr", recipe=recipe, arrays=[spec], image_ids=ids)
    blobs = rng.integers(0, values, (sizes.images, sizes.output[0] // 8, sizes.output[1] // 8)).astype(dtype)
    _fill(targets, {"targets": blobs.repeat(8, 1).repeat(8, 2)})
    return SplitCaches(features, {annotation: targets}, np.arange(sizes.images))  # type: ignore[arg-type]


def _fill(cache: Cache, arrays: dict[str, np.ndarray]) -> None:
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        cache.write_shard(k, {name: values[rows.start : rows.stop] for name, values in arrays.items()})


def main() -> list[Figure]:
    """Print the times and their ratio."""
    arguments = sys.argv[1:]
    device = arguments[arguments.index("--device") + 1] if "--device" in arguments else "cpu"
    sizes = QUICK if "--quick" in arguments else Sizes(device=device)
    times = run(sizes)
    print(f"DeAP readouts in one pass, batch {sizes.batch}, features {sizes.features}, output {sizes.output}, {device}")
    print(f"{'readouts':<10}{'ms a step min / median / max':>30}{'a readout':>12}   of as many passes of one")
    for count, values in times.together.items():
        shown = f"{min(values):.0f} / {median(values):.0f} / {max(values):.0f}"
        ratios = times.ratio(count)
        print(
            f"{count:<10}{shown:>30}{median(values) / count:>12.1f}   "
            f"{min(ratios):.2f} / {median(ratios):.2f} / {max(ratios):.2f}"
        )
    print(f"reading alone takes {times.reading:.1f} ms a step")
    return [
        Figure(
            what=f"ms a step: {count} readouts in one pass / {count} passes",
            ratios=times.ratio(count),
            aim=AIMS.get(count),
            at_most=True,
        )
        for count in READOUTS[1:]
    ]


if __name__ == "__main__":
    main()
