"""The named protocols side by side: what each makes of the same features, as Markdown.

usage: python -m tests.benchmarks.bench_protocol [--quick] [--coco FOLDER] [--home HOME]

Rendered scenes (240 train, 60 val) at 112 pixels and, where ``FOLDER`` holds COCO's layout, its photographs, on
``efficientnet-lite0-s16``; batch 8, three seeds; every figure is the mean over seeds ± sample standard deviation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deapcache.cache import (
    CacheEntry,
    FeatureCache,
    create_cache,
    encode_features,
    feature_arrays,
    features_path,
    list_caches,
)
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, ProbeResult, probe_backbone
from deapcache.recipe import FeatureRecipe

BACKBONE = "efficientnet-lite0-s16"
COMPARED = ("paper", "deapcache-2")
READOUTS = ("deap", "bicubic", "linear", "no-sigma", "linear-bn", "knn")
OUTLIER = 60.0
"""Standard deviations of the two channels without information."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is trained."""

    images: int | None = None
    side: int = 112
    """Of outputs, pixels."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 400
    more_steps: tuple[int, ...] = (1200, 2000)
    readouts: tuple[str, ...] = READOUTS


QUICK = Sizes(images=12, side=56, seeds=(0, 1), steps=3, more_steps=(4,), readouts=("deap", "linear", "knn"))


def main() -> None:
    """Run everything and print the tables as they are made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--coco", type=Path)
    parser.add_argument("--home", type=Path)
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        home = LocalLocation(given.home or Path(folder))
        _extract(home, "scenes", None, sizes)
        for title, rows in scene_rows(home, sizes):
            _print(title, rows)
        _print("two channels of 60 standard deviations without information", outlier_rows(home, sizes))
        if given.coco is not None:
            _extract(home, "coco", given.coco, sizes)
            _print("photographs", coco_rows(home, sizes))


Row = tuple[str, Mapping[str, str]]
"""What was measured, and a cell for each protocol."""


def scene_rows(home: LocalLocation, sizes: Sizes) -> Iterator[tuple[str, list[Row]]]:
    """Every kind of task on the rendered scenes."""

    def rows(task: str, steps: int, readouts: Sequence[str] = ("deap",), **options: Any) -> list[Row]:
        return _rows(home, "scenes", task, steps, readouts, sizes, **options)

    few, many = sizes.steps, sizes.more_steps
    yield f"segmentation, {few} steps", rows("segmentation", few, sizes.readouts)
    for steps in many:
        yield f"segmentation, {steps} steps", rows("segmentation", steps)
    yield f"depth, {few} steps", rows("depth", few, ("deap", "linear"))
    yield f"boundaries, {few} steps", rows("boundaries", few)
    for steps in (few, *many):
        yield f"discrimination, {steps} steps", rows("discrimination", steps, task_options={"large": "two"})
    for radius in ("published", "corrected"):
        yield f"detection, {radius} radius, {few} steps", rows("detection", few, task_options={"radius": radius})


def coco_rows(home: LocalLocation, sizes: Sizes) -> list[Row]:
    """The tasks that a hundred photographs suffice for."""
    found = [_rows(home, "coco", task, sizes.steps, ("deap", "linear"), sizes) for task in ("foreground", "boundaries")]
    return [row for rows in found for row in rows]


def outlier_rows(home: LocalLocation, sizes: Sizes) -> list[Row]:
    """Segmentation with and without the two channels."""
    add_outliers(home)
    return [
        (f"{name}, {what}", cells)
        for what, backbone in (("as they are", BACKBONE), ("with the channels", f"{BACKBONE}-outliers"))
        for name, cells in _rows(
            home, "scenes", "segmentation", sizes.steps, ("deap", "linear"), sizes, backbone=backbone
        )
    ]


def add_outliers(home: LocalLocation) -> None:
    """The features once more, as another backbone's, with two channels of noise around a large constant."""
    for entry in list(list_caches(home, "features")):
        if entry.dataset == "scenes" and entry.name == BACKBONE:
            _add_channels(home, entry)


def _add_channels(home: LocalLocation, entry: CacheEntry) -> None:
    cache = entry.open()
    assert isinstance(cache, FeatureCache)
    features = cache.read_features(np.arange(len(cache))).astype(np.float32)
    noise = np.random.default_rng(0).normal(OUTLIER, 1, (*features.shape[:3], 2)) * features.std()
    wide = np.concatenate([features, noise.astype(np.float32)], -1)
    recipe = FeatureRecipe.from_json({**entry.recipe, "backbone": f"{BACKBONE}-outliers", "storage": "float32"})
    made = create_cache(
        home,
        features_path(entry.dataset, entry.split, recipe.backbone, recipe.digest),
        recipe=recipe,
        arrays=feature_arrays("float32", cache.grid, wide.shape[-1]),
        image_ids=cache.image_ids,
    )
    for shard in set(range(made.shard_count)) - set(made.present_shards()):
        rows = made.shard_rows(shard)
        made.write_shard(shard, encode_features(wide[rows.start : rows.stop], "float32", [str(row) for row in rows]))


def _rows(
    home: LocalLocation,
    dataset: str,
    task: str,
    steps: int,
    readouts: Sequence[str],
    sizes: Sizes,
    *,
    backbone: str = BACKBONE,
    task_options: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for each readout and metric, and one for the constant baselines."""
    cells: dict[str, dict[str, str]] = {}
    for protocol in COMPARED:
        config = ProbeConfig(
            tasks=(task,),
            dataset=dataset,
            backbones=(backbone,),
            readouts=readouts,
            seeds=sizes.seeds,
            iterations=steps,
            batch_size=8,
            protocol=protocol,
            train_limit=sizes.images,
            val_limit=sizes.images,
            task_options={task: task_options} if task_options else {},
        )
        found = list(probe_backbone(home, config))
        for readout in dict.fromkeys(run.readout for run in found):
            runs = [run for run in found if run.readout == readout]
            for metric, about in runs[0].metrics.items():
                name = f"{task} {about['label']}, {readout}"
                cells.setdefault(name, {})[protocol] = _cell([run.scores[metric] for run in runs], runs[0])
        for metric, about in found[0].metrics.items():
            name = f"{task} {about['label']}, constant baseline"
            cells.setdefault(name, {})[protocol] = f"{found[0].baseline_scores.get(metric, np.nan):.3f}"
    return list(cells.items())


def _cell(scores: Sequence[float], run: ProbeResult) -> str:
    """``.573 ± .012 (lr 0.01)``, or ``(lr 0.01, 0.2 of the steps)``."""
    spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    share = f", {run.selection['fraction']:g} of the steps" if run.selection.get("fraction", 1) < 1 else ""
    rate = f" (lr {run.selection['lr']:g}{share})" if run.selection else ""
    return f"{statistics.fmean(scores):.3f}{spread}{rate}"


def _extract(home: LocalLocation, name: str, root: Path | None, sizes: Sizes) -> None:
    dataset = open_dataset(name, root or Path())
    for _ in extract([BACKBONE], dataset, home, settings=ExtractionSettings(base_size=(sizes.side, sizes.side))):
        pass


def _print(title: str, rows: Sequence[Row]) -> None:
    print(f"\n### {title}\n\n| | {' | '.join(COMPARED)} |\n|---|{'---|' * len(COMPARED)}")
    for name, cells in rows:
        print(f"| {name} | {' | '.join(cells.get(protocol, '–') for protocol in COMPARED)} |", flush=True)


if __name__ == "__main__":
    main()
