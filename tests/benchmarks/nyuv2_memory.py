"""Peak memory while all of NYUv2 is read from its MATLAB file, image after image.

usage: python -m tests.benchmarks.nyuv2_memory [--images N]

Writes a file of the real shape (1,449 images of 480 × 640 pixels unless told otherwise; images and depth are noise, so
that it does not shrink) to a temporary folder, and lets a fresh process open it, take all digests, and read every
image, depth map, instance map and table of boxes. What counts is by how much that process's peak grows, beside the
sizes of the file and of its arrays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.memory import MEBIBYTE, environment, resident

SUPPORT = Path(__file__).parents[1] / "support"
SIZE = (480, 640)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Mebibytes."""

    images: int
    file: float
    arrays: float
    before: float
    """Peak of the reading process when it has imported everything and opened nothing."""
    growth: float
    """By how much its peak is beyond that when all has been read."""


def run(images: int = 1449, *, noise: bool = True) -> Memory:
    """Write a file of so many images, of noise or of even colours, and read it in another process."""
    with tempfile.TemporaryDirectory() as name:
        path = _write(Path(name), images, noise)
        command = [sys.executable, __file__, "--read", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
        before, peak, arrays = json.loads(done.stdout)
        file = path.stat().st_size / MEBIBYTE
    return Memory(images=images, file=file, arrays=arrays / MEBIBYTE, before=before, growth=peak - before)


def _write(folder: Path, images: int, noise: bool) -> Path:
    sys.path.insert(0, str(SUPPORT))
    from deapcache_matlab import MatlabFile, write_splits

    rng = np.random.default_rng(0)
    path = folder / "nyu_depth_v2_labeled.mat"
    file = MatlabFile(path, images, SIZE)
    picture = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) * np.uint8(noise)
    depth = rng.integers(500, 9990, SIZE).astype(np.float32) / 1000 * np.float32(noise)
    blocks = np.arange(SIZE[0])[:, None] // 96 * 5 + np.arange(SIZE[1]) // 128
    for row in range(images):
        maps = {"images": np.roll(picture, row, 0), "rawDepths": np.roll(depth, row, 0), "depths": depth}
        file.write(row, {**maps, "labels": blocks.astype(np.uint16), "instances": (blocks % 7).astype(np.uint8)})
    file.close()
    train = round(images * 795 / 1449)
    write_splits(folder, range(1, train + 1), range(train + 1, images + 1))
    return path


def _read(folder: Path) -> None:
    """Print resident memory before and at its peak, mebibytes, and the bytes of the arrays that were read."""
    from scipy.io import loadmat  # noqa: F401 - imported on first use, which is no reading

    from deapcache.datasets.nyuv2 import NyuLabelled

    before, arrays = resident("VmHWM"), 0
    dataset = NyuLabelled.open(folder)
    for split in dataset.splits:
        dataset.image_digests(split)
        for kind in dataset.annotations:
            dataset.annotation_digest(split, kind)
        for row in range(len(dataset.image_ids(split))):
            arrays += dataset.read_image(split, row).nbytes
            arrays += sum(dataset.read_annotation(split, row, kind).nbytes for kind in dataset.annotations)
    print(json.dumps([before, resident("VmHWM"), arrays]))


def main() -> None:
    """Print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1449)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        _read(arguments.read)
        return
    memory = run(arguments.images)
    print(
        f"{memory.images} images: file {memory.file:,.0f} MiB, values given out {memory.arrays:,.0f} MiB; "
        f"before {memory.before:.0f} MiB, peak grew by {memory.growth:.1f} MiB"
    )


if __name__ == "__main__":
    main()
