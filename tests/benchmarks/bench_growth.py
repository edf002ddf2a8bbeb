"""What homes and datasets cost as they grow: the same work on ten times as much, by processor time.

usage: python -m tests.benchmarks.bench_growth [--quick | --long FOLDER]

Each cache has two images, and all have hard links to the shards of the first; images are hard links of one JPEG. What
lists must grow no faster than what is listed; what is about one cache, such as finding it, should hardly grow at all.
``--long`` makes datasets of 20 thousand, 118 thousand and 1.28 million images in a folder (and leaves them there), and
runs each step in a process of its own: seconds of a processor, peak memory, and bytes an image above what the imports
take.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from deapcache import plugins
from deapcache.backbones import Backbone
from deapcache.cache import (
    ArraySpec,
    Cache,
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
    targets_path,
    verify_cache,
)
from deapcache.datasets import DigestIndex, open_dataset
from deapcache.extraction import ExtractionSettings, extract, plan_extraction
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, probe_backbone
from deapcache.recipe import TargetRecipe, image_set_digest
from tests.benchmarks.bench_read import random_recipe
from tests.benchmarks.figures import Figure

SIZES = (20_000, 118_287, 1_281_167)
"""Of ``--long``: images of a small set, of COCO and of ImageNet."""

_LINKS = 30_000
"""Links to one file; file systems allow some 65,000."""
_SHAPE = (2, 2, 8)
_PLUGIN = """\
from torch import nn
from deapcache.backbones import register_backbone


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, images):
        return self.layer(images).permute(0, 2, 3, 1)


register_backbone("smallest", Net, image_size=8, grid=2, dim=8)
"""
_MOST_EXTRACTED = 118_287
"""Images: of a larger dataset the first so many are extracted, as the first shards of caches of its whole length."""
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


def make_dataset(root: Path, images: int) -> None:
    """A dataset of the ``folder`` layout with so many training images, links of a few small files."""
    folder = root / "train" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(os.listdir(folder)), images):  # noqa: PTH208
        first = folder / f"{number // _LINKS * _LINKS:08d}.jpg"
        if first.exists():
            os.link(first, folder / f"{number:08d}.jpg")
        else:
            Image.new("RGB", (8, 8), (number % 251, 30, 200)).save(first)


def make_cache(home: LocalLocation, images: int, split: str = "train", dataset: str = "many") -> Cache:
    """A complete cache of so many feature volumes of 2 × 2 × 8."""
    recipe = replace(random_recipe(), backbone=f"vit-{images}" if dataset == "many" else "vit", images=f"{images:064x}")
    path = features_path(dataset, split, recipe.backbone, recipe.digest)
    ids = [f"{number:08d}" for number in range(images)]
    cache = create_cache(home, path, recipe=recipe, arrays=feature_arrays("float16", _SHAPE[:2], 8), image_ids=ids)
    for shard in range(cache.shard_count):
        rows = cache.shard_rows(shard)
        values = np.ones((len(rows), *_SHAPE), np.float32)
        cache.write_shard(shard, encode_features(values, "float16", ids[rows.start : rows.stop]))
    flush(cache)
    return cache


def make_probed(home: LocalLocation, images: int) -> None:
    """Features and instance maps of 8 × 8 pixels of so many training images, and of few for validation."""
    for split, count in (("train", images), ("val", 200)):
        features = make_cache(home, count, split, "probed")
        recipe = TargetRecipe(
            annotation="instances", size=(8, 8), fit="squash", options={}, classes=(), images=f"{count:064x}",
            annotations="none",
        )  # fmt: skip
        array = ArraySpec(name="targets", dtype="int32", item_shape=(8, 8), dimensions=("row", "column"))
        path = targets_path("probed", split, "instances", recipe.digest)
        cache = create_cache(home, path, recipe=recipe, arrays=[array], image_ids=features.image_ids)
        for shard in range(cache.shard_count):
            values = np.zeros((len(cache.shard_rows(shard)), 8, 8), np.int32)
            values[:, 2:5, 3:6] = 1
            cache.write_shard(shard, {"targets": values})
        flush(cache)


def steps(root: Path, home: LocalLocation) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done with a dataset and a cache of as many images, in this order."""
    dataset = open_dataset(f"folder:{root.name}", root.parent)
    yield "list images", lambda: dataset.image_ids("train")
    index = DigestIndex(home)
    yield "digest files", lambda: dataset.image_digests("train", index=index)
    digests = dataset.image_digests("train", index=index)
    yield "digest of the image set", lambda: image_set_digest(zip(dataset.image_ids("train"), digests, strict=True))


def cache_steps(home: LocalLocation) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done with a large cache that is there."""
    (entry,) = list_caches(home)
    yield "open a cache and read a row", lambda: entry.open().read([7])
    yield "its image ids", lambda: entry.open().image_ids
    yield "look which shards are there", lambda: entry.open().present_shards()
    yield "verify", lambda: verify_cache(entry.location)


def extract_steps(root: Path, home: LocalLocation) -> Iterator[tuple[str, Callable[[], object]]]:
    """What extraction does, on base images of 8 × 8 pixels, by a backbone of one convolution."""
    file = Path(home.url).with_name("smallest.py")
    file.write_text(_PLUGIN)
    with mock.patch.dict(os.environ):  # a plugin in use is named there
        plugins.use([file])
        dataset = open_dataset(f"folder:{root.name}", root.parent)
        settings = ExtractionSettings(base_size=(8, 8), limit=_MOST_EXTRACTED, device="cpu")
        asked = {"splits": ["train"], "settings": settings}
        forward, spent = Backbone.outputs, [0.0]

        def timed(*arguments: object) -> object:
            start = time.thread_time()
            try:
                return forward(*arguments)
            finally:
                spent[0] += time.thread_time() - start

        def extracted() -> float:
            """Seconds of the forward alone."""
            spent[0] = 0.0
            with mock.patch.object(Backbone, "outputs", timed):
                list(extract(["smallest"], dataset, home, **asked))
            return spent[0]

        yield "extract --dry-run", lambda: plan_extraction(["smallest"], dataset, home, **asked)
        yield "extract, less the forward", extracted
        yield "extract, nothing to do", extracted
        yield "extract --dry-run, nothing to do", lambda: plan_extraction(["smallest"], dataset, home, **asked)


class _BegunError(Exception):
    """A probe's first step is done."""


def probe_steps(home: LocalLocation) -> Iterator[tuple[str, Callable[[], object]]]:
    """A probe until its first step is done."""
    config = ProbeConfig(
        tasks=["boundaries"], dataset="probed", backbones=["vit"], readouts=["linear"], lrs=(1e-3,), output_size=(8, 8),
        residency="stream",
    )  # fmt: skip

    def stop(_: object) -> None:
        raise _BegunError

    def begin() -> None:
        with contextlib.suppress(_BegunError):
            list(probe_backbone(home, config, progress=stop))

    yield "a probe, until its first step", begin


def run(quick: bool = False) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of a processor, by repeat, for some caches or images, and for ten times as many."""
    few = 3 if quick else 50
    found: dict[str, tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = LocalLocation(Path(folder) / "home")
        for place, caches in enumerate((range(few), range(few, 10 * few))):
            make_home(home, caches)
            for name, work in ways(home).items():
                found.setdefault(name, ([], []))[place].extend(_seconds(work) for _ in range(_REPEATS))
        for place, images in enumerate((20 * few, 200 * few)):
            root, own = Path(folder) / f"images{images}", LocalLocation(Path(folder) / f"home{images}")
            make_dataset(root, images)
            make_cache(own, images)
            probed, extracted = (LocalLocation(Path(folder) / f"{what}{images}") for what in ("probed", "extracted"))
            make_probed(probed, images)
            work_on = (steps(root, own), cache_steps(own), extract_steps(root, extracted), probe_steps(probed))
            for name, work in itertools.chain(*work_on):
                found.setdefault(name, ([], []))[place].append(_seconds(work))
    return found


def measure(kind: str, root: Path, home: LocalLocation) -> None:
    """In a process of its own: print each step with its time and the memory that it needs at its peak."""
    images = int(root.name.removeprefix("images"))
    before = _peak()
    beside = LocalLocation(Path(home.url) / kind)
    for name, work in {
        "cache": lambda: cache_steps(home),
        "extract": lambda: extract_steps(root, beside),
        "probe": lambda: probe_steps(beside),
    }.get(kind, lambda: steps(root, home))():
        seconds, peak = _seconds(work), _peak()
        each = (peak - before) / images
        print(f"{images:>9,}  {name:<34}{seconds:>9.2f} s{peak / 1e6:>8.0f} MB{each:>8.0f} bytes an image", flush=True)


def _peak() -> int:
    """Bytes of memory that this program has taken at most: ``ru_maxrss`` counts what the one that started it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def long(folder: Path) -> None:
    """Measure the sizes of :data:`SIZES`."""
    for images in SIZES:
        root, home = folder / f"images{images}", LocalLocation(folder / f"home{images}")
        make_dataset(root, images)
        make_cache(home, images)
        make_probed(LocalLocation(Path(home.url) / "probe"), images)
        for kind in ("first time", "again", "cache", "extract", "probe"):
            print(f"{images:>9,}  {kind}:", flush=True)
            command = [sys.executable, "-m", "tests.benchmarks.bench_growth", "--measure", kind, root, home.path]
            subprocess.run(command, check=True)


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
    """Seconds of a processor, less those that ``work`` returns."""
    start = time.process_time()
    returned = work()
    return time.process_time() - start - (returned if isinstance(returned, float) else 0.0)


def growth(few: Sequence[float], many: Sequence[float]) -> list[float]:
    """How much faster than the number of caches the time has grown; 1 is in step with it."""
    return [more / max(less, 1e-6) / 10 for less, more in zip(few, many, strict=True)]


def main() -> list[Figure]:
    """Print milliseconds for few and for ten times as many; the growth beside that, which should be at most 1.3."""
    found = run("--quick" in sys.argv[1:])
    print(f"{'processor time':<34}{'few, ms':>12}{'ten times, ms':>16}")
    for name, (few, many) in found.items():
        print(f"{name:<34}{min(few) * 1e3:>12.1f}{min(many) * 1e3:>16.1f}")
    return [
        Figure(what=f"growth: {name} / how many there are", ratios=growth(few, many), aim=1.3, at_most=True)
        for name, (few, many) in found.items()
    ]


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure(sys.argv[-3], Path(sys.argv[-2]), LocalLocation(Path(sys.argv[-1])))
    elif "--long" in sys.argv:
        long(Path(sys.argv[-1]))
    else:
        main()
