"""Decoding before a first extraction: base images from JPEG files, against plain Pillow, and the forward after it.

usage: python -m tests.benchmarks.bench_decode [--quick]

640×480 JPEG files, as COCO's mostly are, brought to 224×224 and published as base images, page cache warm. The limit is
what plain Pillow does that decodes and resizes the same files in a thread a core and keeps nothing. What limits a first
extraction is the slower one of decoding and the backbone's forward pass.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from deapcache.backbones import build
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, prepare_split
from deapcache.extraction.plan import measure_rate
from deapcache.locations import LocalLocation
from tests.benchmarks.figures import Figure, ratios

SIZE = (224, 224)
BACKBONES = ("efficientnet-lite0@untrained", "imagenet@untrained")


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Images a second, by repeat."""

    deapcache: list[float]
    pillow: list[float]
    """In a thread a core."""
    busy: list[float]
    """Cores that deapcache kept at work."""


def run(images: int, repeats: int) -> Speeds:
    """Measure both on so many files, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder) / "photographs", images)
        ours, plain, busy = [], [], []
        for repeat in range(repeats):
            plain.append(images / _pillow_seconds(files))
            start = time.process_time()
            seconds = _prepare_seconds(Path(folder), LocalLocation(Path(folder) / f"home{repeat}"))
            ours.append(images / seconds)
            busy.append((time.process_time() - start) / seconds)
    return Speeds(deapcache=ours, pillow=plain, busy=busy)


def write_photographs(root: Path, count: int) -> list[Path]:
    """JPEG files of 640×480 with the detail of a photograph (some 100 kB each), as a dataset of a folder."""
    rng = np.random.default_rng(0)
    paths = []
    for split in ("train", "val"):
        (root / split / "images").mkdir(parents=True)
    for number in range(count + 1):
        path = root / ("val" if number < count else "train") / "images" / f"{number:05d}.jpg"
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
        paths.append(path)
    return paths[:count]


def _pillow_seconds(files: list[Path]) -> float:
    def decode(path: Path) -> None:
        with Image.open(path) as image:
            image.convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC)

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(decode, files))
    return time.perf_counter() - start


def _prepare_seconds(folder: Path, home: LocalLocation) -> float:
    dataset = open_dataset("folder:photographs", folder)
    start = time.perf_counter()
    prepare_split(dataset, "val", home, ExtractionSettings(base_size=SIZE), annotations=())
    return time.perf_counter() - start


def main() -> list[Figure]:
    """Print both speeds, the share of the limit, and what limits a first extraction here."""
    quick = "--quick" in sys.argv[1:]
    speeds = run(8, 1) if quick else run(400, 3)
    found = ratios(speeds.deapcache, speeds.pillow)
    print(
        f"decoding: {median(speeds.deapcache):.0f} images/s on {os.cpu_count()} cores, with hashing and publishing, "
        f"{median(speeds.busy):.1f} cores busy"
    )
    print(f"Pillow alone: {median(speeds.pillow):.0f} images/s in a thread a core")
    print(f"share of that: {min(found):.2f} / {median(found):.2f} / {max(found):.2f} (min/median/max)")
    for name in BACKBONES[: 1 if quick else None]:
        forward = measure_rate(build(name), SIZE, 8)
        limit = "the forward pass" if forward < median(speeds.deapcache) else "decoding"
        print(f"{name}: {forward:.1f} images/s forward on {torch.get_num_threads()} threads: {limit} limits")
    return [Figure(what="images/s: base images from JPEG / Pillow on all cores", ratios=found)]


if __name__ == "__main__":
    main()
