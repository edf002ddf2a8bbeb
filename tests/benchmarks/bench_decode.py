"""Decoding before a first extraction: base images from JPEG files, against plain Pillow, and the forward after it.

usage: python -m tests.benchmarks.bench_decode [--quick]

640×480 JPEG files, as COCO's mostly are, brought to 224×224 and published as base images, page cache warm; and read
at their native size and resized for a backbone. The limit is what plain Pillow does that decodes and resizes the same
files in a thread a core and keeps nothing. Ratios are of the processor's time, which other work on the machine hardly
changes. What limits a first extraction is the slower one of decoding and the backbone's forward pass.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from deapcache.backbones import build
from deapcache.cache.format import DEFAULT_COMPRESSION, chunk_codecs
from deapcache.cache.shards import encode_chunk
from deapcache.datasets import open_dataset, resize_image
from deapcache.datasets.digests import file_digest
from deapcache.datasets.io import decode_picture
from deapcache.extraction import ExtractionSettings, prepare_split
from deapcache.extraction.pipeline import NativeImages
from deapcache.extraction.plan import measure_rate
from deapcache.locations import LocalLocation
from deapcache.regions import SQUASH
from tests.benchmarks.figures import Figure, ratios

SIZE = (224, 224)
_DISTINCT = 250
"""Photographs that are made; further files are hard links to them."""
BACKBONES = ("efficientnet-lite0@untrained", "imagenet@untrained")


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Images a second, and a second of one processor, by repeat."""

    deapcache: list[float]
    pillow: list[float]
    """In a thread a core."""
    busy: list[float]
    """Cores that deapcache kept at work."""
    base_images: list[float]
    """A processor second: listed, digested, decoded, resized, compressed and published."""
    native: list[float]
    """A processor second: decoded and resized for a backbone, nothing kept."""
    pillow_alone: list[float]
    """A processor second."""
    stages: dict[str, float]
    """Milliseconds of a processor an image, each step by itself in one thread."""


def run(images: int, repeats: int) -> Speeds:
    """Measure both on so many files, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder) / "photographs", images)
        dataset = open_dataset("folder:photographs", Path(folder))
        native = NativeImages(dataset, "val", SIZE, SQUASH)
        batches = [range(start, min(start + 32, images)) for start in range(0, images, 32)]
        measured = []
        _pillow(files)  # the first pass also takes what the C library later uses again
        for repeat in range(repeats):
            home = LocalLocation(Path(folder) / f"home{repeat}")
            measured.append(
                (
                    _seconds(lambda: _pillow(files)),
                    _seconds(lambda home=home: _prepare(Path(folder), home)),
                    _seconds(lambda: [native.request(rows).result() for rows in batches]),
                )
            )
        stages = _stages(files[:50])
    return Speeds(
        deapcache=[images / ours.wall for _, ours, _ in measured],
        pillow=[images / plain.wall for plain, _, _ in measured],
        busy=[ours.processor / ours.wall for _, ours, _ in measured],
        base_images=[images / ours.processor for _, ours, _ in measured],
        native=[images / own.processor for _, _, own in measured],
        pillow_alone=[images / plain.processor for plain, _, _ in measured],
        stages=stages,
    )


@dataclass(frozen=True)
class _Seconds:
    wall: float
    processor: float
    """Of all threads."""


def _seconds(work: Callable[[], Any]) -> _Seconds:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return _Seconds(time.perf_counter() - wall, time.process_time() - processor)


def _stages(files: Sequence[Path]) -> dict[str, float]:
    """Milliseconds of a processor an image, of each step by itself; the least of three passes."""
    pictures = [decode_picture(path) for path in files]
    images = [resize_image(picture, SIZE) for picture in pictures]
    codecs = chunk_codecs("uint8", DEFAULT_COMPRESSION["uint8"])
    steps: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
        "digest": (file_digest, files),
        "decode": (decode_picture, files),
        "resize": (lambda picture: resize_image(picture, SIZE), pictures),
        "compress": (lambda image: encode_chunk(codecs, image), images),
        "two copies, to NumPy and back (no longer made)": (lambda image: Image.fromarray(np.array(image)), pictures),
    }
    found = {}
    for name, (step, items) in steps.items():
        runs = [_seconds(functools.partial(deque, map(step, items), maxlen=0)) for _ in range(3)]
        found[name] = min(run.processor for run in runs) * 1000 / len(items)
    return found


def write_photographs(root: Path, count: int) -> list[Path]:
    """JPEG files of 640×480 with the detail of a photograph (some 100 kB each), as a dataset of a folder."""
    rng = np.random.default_rng(0)
    paths = []
    for split in ("train", "val"):
        (root / split / "images").mkdir(parents=True)
    for number in range(count + 1):
        path = root / ("val" if number < count else "train") / "images" / f"{number:05d}.jpg"
        if number >= _DISTINCT:
            path.hardlink_to(paths[number % _DISTINCT])
            paths.append(path)
            continue
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
        paths.append(path)
    return paths[:count]


def _pillow(files: Sequence[Path]) -> None:
    def decode(path: Path) -> None:
        with Image.open(path) as image:
            image.convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(decode, files))


def _prepare(folder: Path, home: LocalLocation) -> None:
    dataset = open_dataset("folder:photographs", folder)
    prepare_split(dataset, "val", home, ExtractionSettings(base_size=SIZE), annotations=())


def main() -> list[Figure]:
    """Print both speeds, the share of the limit, and what limits a first extraction here."""
    quick = "--quick" in sys.argv[1:]
    speeds = run(8, 1) if quick else run(1000, 3)
    found, native = ratios(speeds.base_images, speeds.pillow_alone), ratios(speeds.native, speeds.pillow_alone)
    print(
        f"decoding: {median(speeds.deapcache):.0f} images/s on {os.cpu_count()} cores, with hashing and publishing, "
        f"{median(speeds.busy):.1f} cores busy"
    )
    print(f"Pillow alone: {median(speeds.pillow):.0f} images/s in a thread a core")
    print(
        f"images a processor second: base images {median(speeds.base_images):.0f}, at native size "
        f"{median(speeds.native):.0f}, Pillow alone {median(speeds.pillow_alone):.0f}"
    )
    print("ms of a processor an image:", ", ".join(f"{name} {ms:.2f}" for name, ms in speeds.stages.items()))
    for name in BACKBONES[: 1 if quick else None]:
        forward = measure_rate(build(name), SIZE, 8)
        limit = "the forward pass" if forward < median(speeds.deapcache) else "decoding"
        print(f"{name}: {forward:.1f} images/s forward on {torch.get_num_threads()} threads: {limit} limits")
    return [
        Figure(what="images/processor s: base images from JPEG / Pillow alone", ratios=found, aim=0.9),
        Figure(what="images/processor s: at native size from JPEG / Pillow alone", ratios=native, aim=0.9),
    ]


if __name__ == "__main__":
    main()
