"""Peak memory of extraction and of a streamed probe over 1×, 4× and 16× images: it must not grow with their number.

usage: python -m tests.benchmarks.bench_memory [--quick]

Each verb runs in a process of its own on a dataset of its own, and tells its peak resident memory (VmHWM, as Linux
counts it). Growth is that of the whole peak over the one of 1×.

A shard holds a 64th of the images until it has 100 MB, and is encoded in memory: up to there memory grows with it, and
no further. So that each number of images has shards of one size, they are held at a size that 1× reaches too; the last
line is of 16× with shards as they are.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.figures import Figure
from tests.benchmarks.memory import MEBIBYTE, environment, resident

BACKBONE = "timm:test_vit@untrained"
"""timm's smallest transformer: it needs no calibration, and its forward pass would hide nothing that is kept."""

TIMES = (1, 4, 16)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is extracted and probed."""

    train: int = 128
    """Images at 1×."""
    val: int = 32
    base: int = 224
    """Height and width of the base images and targets."""
    iterations: int = 40
    shard_bytes: int = 310_000
    """As large as 2 base images: 128 images have no larger shards."""
    times: tuple[int, ...] = TIMES


QUICK = Sizes(train=8, val=4, base=32, iterations=2, shard_bytes=1, times=(1, 2))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One verb over so many times the images; mebibytes."""

    verb: str
    """``extract``, ``probe``, or ``usual shards``: extraction with shards as they are."""
    times: int
    images: int
    before: float
    """Resident memory when all was imported and nothing opened."""
    peak: float
    data: float
    """All that the verb wrote or read, uncompressed: what a peak would grow by if it were kept."""


def run(quick: bool = False) -> list[Row]:
    """Measure both verbs at each number of images."""
    return measure(QUICK if quick else Sizes())


def measure(sizes: Sizes, *verbs: str) -> list[Row]:
    """Measure all verbs, or those named, at each number of images, in one process that forks another for each."""
    with tempfile.TemporaryDirectory() as folder:
        for times in sizes.times:
            write_coco(Path(folder) / str(times) / "coco", sizes.train * times, sizes.val * times)
        command = [sys.executable, __file__, "--measure", folder, json.dumps(vars(sizes)), *verbs]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    return [Row(**row) for row in json.loads(done.stdout)]


def growth(rows: list[Row], verb: str) -> float:
    """The highest peak over the one of the fewest images, less 1."""
    peaks = [row.peak for row in rows if row.verb == verb]
    return max(peaks) / peaks[0] - 1


def write_coco(root: Path, train: int, val: int) -> None:
    """COCO's layout: smooth random photographs of 96×128 pixels, one square each."""
    for split, count, first in (("train", train, 0), ("val", val, 1_000_000)):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(first)
        images, annotations = [], []
        for number in range(first, first + count):
            name, (x, y) = f"{number:012d}.jpg", rng.integers(0, 50, 2).tolist()
            (folder / name).write_bytes(_photograph(rng))
            images.append({"id": number, "file_name": name, "height": 96, "width": 128, "license": 7})
            corners = [x, y, x + 40, y, x + 40, y + 40, x, y + 40]
            found = {"id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 1600}
            annotations.append({**found, "bbox": [x, y, 40, 40], "segmentation": [corners]})
        (root / "annotations").mkdir(exist_ok=True)
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))


def _photograph(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    coarse.resize((128, 96), Image.Resampling.BILINEAR).save(file, "JPEG", quality=92)
    return file.getvalue()


def _measure(folder: Path, sizes: Sizes, verbs: list[str]) -> Iterator[dict[str, object]]:
    """What the process does that forks: it has imported everything, and started no thread."""
    from deapcache.backbones import build  # noqa: F401 - imported before anything is measured
    from deapcache.extraction import extract  # noqa: F401
    from deapcache.probing import probe_backbone  # noqa: F401

    work = [(verb, times) for times in sizes.times for verb in ("extract", "probe")]
    for verb, times in (*work, ("usual shards", sizes.times[-1])):
        if verb in verbs:
            before, peak, data = _in_a_fork(VERBS[verb], folder / str(times), sizes)
            images = times * (sizes.train + sizes.val)
            yield vars(Row(verb=verb, times=times, images=images, before=before, peak=peak, data=data))


def _in_a_fork(verb: Callable[[Path, Sizes], float], folder: Path, sizes: Sizes) -> tuple[float, float, float]:
    reading, writing = os.pipe()
    if os.fork() == 0:
        status = 1
        try:
            before = resident("VmRSS")
            data = verb(folder, sizes)
            os.write(writing, json.dumps([before, resident("VmHWM"), data]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.wait()
    return tuple(json.loads(text))


def _extract(folder: Path, sizes: Sizes) -> float:
    """Extract both splits with shards of one size; returns the mebibytes of all that is stored."""
    from deapcache.cache import format as layout

    layout.SHARD_BYTES = sizes.shard_bytes
    return _extracted(folder, folder / "home", sizes)


def _usual_shards(folder: Path, sizes: Sizes) -> float:
    return _extracted(folder, folder / "another home", sizes)


def _extracted(folder: Path, home: Path, sizes: Sizes) -> float:
    from deapcache.datasets import open_dataset
    from deapcache.extraction import ExtractionSettings, extract
    from deapcache.locations import LocalLocation

    settings = ExtractionSettings(device="cpu", base_size=(sizes.base, sizes.base))
    home.mkdir()
    list(extract([BACKBONE], open_dataset("coco", folder / "coco"), LocalLocation(home), settings=settings))
    return _decoded(LocalLocation(home))


def _probe(folder: Path, sizes: Sizes) -> float:
    """Train and score one readout; returns the mebibytes of all that could be read."""
    from deapcache.locations import LocalLocation
    from deapcache.probing import ProbeConfig, probe_backbone

    home = LocalLocation(folder / "home")
    asked = {"dataset": "coco", "backbones": [BACKBONE], "tasks": ["boundaries"]}
    config = ProbeConfig(iterations=sizes.iterations, batch_size=8, residency="stream", **asked)
    list(probe_backbone(home, config))
    return _decoded(home)


VERBS = {"extract": _extract, "probe": _probe, "usual shards": _usual_shards}


def _decoded(home: object) -> float:
    from deapcache.cache import list_caches

    caches = [entry.open() for entry in list_caches(home)]  # type: ignore[arg-type]
    return sum(len(cache) * spec.item_bytes for cache in caches for spec in cache.arrays.values()) / MEBIBYTE


def main() -> list[Figure]:
    """Print peaks and their growth."""
    rows = run("--quick" in sys.argv[1:])
    print(f"{'peak resident memory, MiB':<28}{'images':>8}{'data':>8}{'imported':>10}{'peak':>7}{'growth':>9}")
    for row in rows:
        first = next(one for one in rows if one.verb == row.verb.replace("usual shards", "extract"))
        print(
            f"{f'{row.verb} {row.times}×':<28}{row.images:>8}{row.data:>8.0f}{row.before:>10.0f}{row.peak:>7.0f}"
            f"{row.peak / first.peak - 1:>9.1%}"
        )
    most = max(row.times for row in rows)
    named = {verb: f"peak memory: {verb}, {most}× / 1× the images" for verb in ("extract", "probe")}
    return [Figure(what=what, ratios=[1 + growth(rows, verb)], aim=1.05, at_most=True) for verb, what in named.items()]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        folder, sizes, *verbs = sys.argv[2:]
        print(json.dumps(list(_measure(Path(folder), Sizes(**json.loads(sizes)), verbs or list(VERBS)))))
    else:
        main()
