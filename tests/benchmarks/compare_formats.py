"""Storage formats compared on real features: bytes an image, and what each does to every score.

usage: python -m tests.benchmarks.compare_formats HOME [--iterations 200] [--batch 8] [--output 112] [--quick]

The embedded scenes are extracted into HOME with efficientnet-lite0-s16 once in every format, and DeAP is trained on
each cache for every task the scenes serve, three seeds each, in one pass a format. Images, their order and a seed's
initialisation are the same for all formats, so scores are compared pair by pair. Training amplifies any difference, so
there is a control: float32 features whose last bit is changed, and nothing else. A format whose scores move no more
than the control's costs nothing that can be measured. Finished passes are kept in HOME: after an interruption the same
command does the rest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deapcache.cache import Cache, create_cache, features_path, find_caches
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, extract, prepare_split
from deapcache.locations import Location, locate
from deapcache.probing import ProbeConfig, ProbeProgress, RunSpec, probe_backbone
from deapcache.recipe import FeatureRecipe
from deapcache.results import Result, load_results, save_run
from deapcache.results.record import run_id
from deapcache.results.tables import heading
from tests.benchmarks.format_tables import COLUMNS, CONTROL, FORMATS, REFERENCE, Compared, Comparison, tables

SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is extracted and trained."""

    backbone: str = "efficientnet-lite0-s16"
    tasks: tuple[str, ...] = ("boundaries", "foreground", "segmentation", "depth", "detection", "discrimination")
    readout: str = "deap"
    seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = 200
    batch: int = 8
    output: int = 112
    """Height and width of outputs and targets; features are of 224×224 pixels whatever it is."""
    limit: int | None = None
    """Only the first so many images of each split."""

    @property
    def control(self) -> str:
        """Name of the backbone whose features are the reference's but for the last bit."""
        return f"{self.backbone}-last-bit"


QUICK = Sizes(
    tasks=("foreground", "depth"),
    readout="deap:8",
    seeds=(0, 1),
    iterations=2,
    batch=2,
    output=56,
    limit=4,
)


def run(home: Location, sizes: Sizes) -> Comparison:
    """Extract, train and score what ``home`` does not hold yet, and compare."""
    stored, decoded = {}, {}
    for storage in FORMATS:
        caches = extract_format(home, storage, sizes)
        images = sum(len(cache.shard_rows(k)) for cache in caches for k in cache.present_shards())
        stored[storage] = sum(cache.stored_bytes() for cache in caches) / images
        decoded[storage] = sum(spec.item_bytes for spec in caches[0].arrays.values())
    _make_targets(home, sizes)
    change_last_bits(home, sizes)
    results = {column: _probe(home, column, sizes) for column in COLUMNS}
    rows = [row for task in sizes.tasks for row in _compare(task, results, sizes.seeds)]
    return Comparison(stored_bytes=stored, decoded_bytes=decoded, rows=rows)


def extract_format(home: Location, storage: str, sizes: Sizes) -> list[Cache]:
    """The caches of both splits in a storage format, extracted where they are not there yet."""
    settings = ExtractionSettings(storage=storage, limit=sizes.limit, device="cpu")
    for report in extract([sizes.backbone], open_dataset("scenes", Path()), home, settings=settings):
        print(f"{report.split} {storage}: {report.extracted} of {report.total} images extracted now", flush=True)
    return [find_cache(home, split, sizes.backbone, storage) for split in SPLITS]


def _make_targets(home: Location, sizes: Sizes) -> None:
    scenes, size = open_dataset("scenes", Path()), (sizes.output, sizes.output)
    settings = ExtractionSettings(base_size=size, limit=sizes.limit)
    for split in SPLITS:
        prepare_split(scenes, split, home, settings, annotations=scenes.annotations)


def find_cache(home: Location, split: str, backbone: str, storage: str) -> Cache:
    """The one cache of a backbone's features of a split of the scenes in a storage format."""
    (entry,) = find_caches(home, "features", dataset="scenes", split=split, name=backbone, fields={"storage": storage})
    return entry.open()


def change_last_bits(home: Location, sizes: Sizes) -> None:
    """The reference's volumes under another name, each number replaced by the next larger one."""
    for split in SPLITS:
        exact = find_cache(home, split, sizes.backbone, REFERENCE)
        recipe = replace(FeatureRecipe.from_json(exact.recipe), backbone=sizes.control)
        cache = create_cache(
            home,
            features_path("scenes", split, sizes.control, recipe.digest),
            recipe=recipe,
            arrays=tuple(exact.arrays.values()),
            image_ids=exact.image_ids,
        )
        for shard in sorted(exact.present_shards() - cache.present_shards()):
            volumes = exact.read(np.asarray(cache.shard_rows(shard)))
            cache.write_shard(shard, {"features": np.nextafter(volumes, np.float32(np.inf))})


def _probe(home: Location, column: str, sizes: Sizes) -> dict[tuple[str, int], Result]:
    """(task, seed) → result on the column's features; only what is not there yet is trained."""
    known = {result.run: result for result in load_results(home)}
    wanted: set[str] = set()

    def is_done(planned: RunSpec) -> bool:
        name = run_id(planned.to_json())
        wanted.add(name)
        return name in known

    runs = list(
        probe_backbone(
            home,
            ProbeConfig(
                dataset="scenes",
                backbones=[sizes.control if column == CONTROL else sizes.backbone],
                tasks=sizes.tasks,
                readouts=[sizes.readout],
                seeds=sizes.seeds,
                where={"storage": REFERENCE if column == CONTROL else column},
                iterations=sizes.iterations,
                batch_size=sizes.batch,
                output_size=(sizes.output, sizes.output),
                train_limit=sizes.limit,
                val_limit=sizes.limit,
            ),
            skip=is_done,
            progress=partial(_tell, column),
        )
    )
    for one in runs:
        saved = save_run(
            home,
            one.to_json(),
            statistics=one.statistics,
            prior_statistics=one.baseline_statistics,
            image_ids=one.image_ids,
            weights=one.weights,
        )
        known[saved.run] = saved
    if runs:
        print(f"{column}: {len(runs)} readouts trained in {runs[0].seconds['train']:.0f} s", flush=True)
    return {(known[name].task, known[name].seed): known[name] for name in wanted}


def _tell(column: str, event: ProbeProgress) -> None:
    if event.done % 20 == 0:
        print(f"{column}: {event.stage} {event.done} of {event.total}, {time.process_time():.0f} s of work", flush=True)


def _compare(
    task: str, results: Mapping[str, Mapping[tuple[str, int], Result]], seeds: Sequence[int]
) -> list[Compared]:
    first = results[REFERENCE][task, seeds[0]]
    return [
        Compared(
            task=task,
            heading=heading(about),
            is_main=metric == first.main_metric,
            scores={
                column: np.array([of[task, seed].scores[metric] for seed in seeds]) for column, of in results.items()
            },
        )
        for metric, about in first.metrics.items()
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare_formats")
    parser.add_argument("home")
    parser.add_argument("--iterations", type=int, default=Sizes.iterations)
    parser.add_argument("--batch", type=int, default=Sizes.batch)
    parser.add_argument("--output", type=int, default=Sizes.output)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes(iterations=given.iterations, batch=given.batch, output=given.output)
    print(tables(run(locate(given.home), sizes)))


if __name__ == "__main__":
    main()
