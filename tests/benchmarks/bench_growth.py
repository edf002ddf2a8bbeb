"""What a home costs as it grows: the same verbs with ten times as many caches, by processor time.

usage: python -m tests.benchmarks.bench_growth [--quick]

Each cache has two images, and all have hard links to the shards of the first. Listing must grow no faster than the
number of caches; what is about one cache, such as finding it, should hardly grow at all.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deapcache.cache import (
    cache_contents,
    create_cache,
    encode_features,
    feature_arrays,
    features_path,
    find_one,
    flush,
    list_caches,
    one_listing,
    rebuild,
)
from deapcache.locations import LocalLocation
from tests.benchmarks.bench_read import random_recipe
from tests.benchmarks.figures import Figure

_SHAPE = (2, 2, 8)
_IDS = ["0", "1"]
_LOOKUPS = 50
_REPEATS = 3


def make_home(home: LocalLocation, caches: range) -> None:
    """Add caches of twenty backbones, ten datasets and two splits to a home, with manifests and index."""
    first = home.path / "first"
    for number in caches:
        recipe = replace(random_recipe(), backbone=f"vit-{number % 20}", images=f"{number:064x}")
        path = features_path(f"set{number % 10}", ("train", "val")[number % 2], recipe.backbone, recipe.digest)
        arrays = feature_arrays("float16", _SHAPE[:2], _SHAPE[2])
        cache = create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=_IDS)
        if not first.exists():
            cache.write_shard(0, encode_features(np.zeros((1, *_SHAPE), np.float32), "float16", _IDS[:1]))
            cache.write_shard(1, encode_features(np.zeros((1, *_SHAPE), np.float32), "float16", _IDS[1:]))
            first.symlink_to(cache.location.url)
        for shard in (0, 1):
            key = cache.stored_arrays[-1].shard_key(shard)
            if not cache.location.exists(key):
                os.link(first / key, Path(cache.location.url) / key)
    rebuild(home)


def run(quick: bool = False) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of a processor, by repeat, in a home of some caches, and in one of ten times as many."""
    few = 3 if quick else 50
    found: dict[str, tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = LocalLocation(Path(folder))
        for place, caches in enumerate((range(few), range(few, 10 * few))):
            make_home(home, caches)
            for name, work in ways(home).items():
                found.setdefault(name, ([], []))[place].extend(_seconds(work) for _ in range(_REPEATS))
    return found


def ways(home: LocalLocation) -> dict[str, Callable[[], object]]:
    """What is measured."""
    entry = list_caches(home)[0]
    asked = {"dataset": entry.dataset, "split": entry.split, "name": entry.name}
    fields = {"images": entry.recipe["images"]}

    def look_up_often() -> None:
        with one_listing():
            for _ in range(_LOOKUPS):
                find_one(home, "features", fields=fields, **asked)

    cache = entry.open()
    return {
        "list all": lambda: list_caches(home),
        "sizes of all": lambda: [cache_contents(each.location, each.digest) for each in list_caches(home)],
        f"{_LOOKUPS} lookups of a plan": look_up_often,
        "find one": lambda: find_one(home, "features", fields=fields, **asked),
        "write one's entry of the index": lambda: flush(cache),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def growth(few: Sequence[float], many: Sequence[float]) -> list[float]:
    """How much faster than the number of caches the time has grown; 1 is in step with it."""
    return [more / max(less, 1e-6) / 10 for less, more in zip(few, many, strict=True)]


def main() -> list[Figure]:
    """Print milliseconds in both homes; the growth beside that of the number of caches, which should be at most 1.3."""
    found = run("--quick" in sys.argv[1:])
    print(f"{'processor time':<34}{'few, ms':>12}{'ten times, ms':>16}")
    for name, (few, many) in found.items():
        print(f"{name:<34}{min(few) * 1e3:>12.1f}{min(many) * 1e3:>16.1f}")
    return [
        Figure(what=f"growth: {name} / caches", ratios=growth(few, many), aim=1.3, at_most=True)
        for name, (few, many) in found.items()
    ]


if __name__ == "__main__":
    main()
