"""A home with trained readouts, and the image files that its features are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deapcache.annotations import BOXES, boxes_of_map
from deapcache.datasets import Dataset, decode_image
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, ProbeResult, probe_backbone
from deapcache.recipe import digest_of
from deapcache.results import save_run

BACKBONE = "efficientnet-lite0-s16"
TASKS = ("foreground", "segmentation", "depth", "detection", "discrimination")
COUNTS = {"train": 6, "val": 3}
NATIVE, BASE = (60, 80), (56, 64)


class Photographs(Dataset):
    """Smooth random pictures in PNG files below ``root``, with two squares each and every annotation."""

    name = images_name = "photographs"
    annotations = ("instances", "boxes", "classes", "depth")
    classes = ("background", "one", "two")
    colour = "any"
    base_size = BASE

    def __init__(self, root: Path) -> None:
        self.root = root
        for split, count in COUNTS.items():
            for row in range(count):
                coarse = np.random.default_rng([len(split), row]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
                path = self.path(split, row)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(coarse).resize(NATIVE[::-1], Image.Resampling.BICUBIC).save(path)

    def path(self, split: str, row: int) -> Path:
        """The file of an image."""
        return self.root / split / f"photo-{row}.png"

    def image_ids(self, split: str) -> tuple[str, ...]:
        return tuple(f"{split}-{row}" for row in range(COUNTS[split]))

    def image_digests(self, split: str, **_: Any) -> tuple[str, ...]:
        return tuple(digest_of([split, row]) for row in range(COUNTS[split]))

    def read_image(self, split: str, row: int) -> np.ndarray:
        return decode_image(self.path(split, row))

    def read_annotation(self, split: str, row: int, kind: str) -> np.ndarray:
        instances = np.zeros(NATIVE, np.int32)
        for number in (1, 2):
            corner = 5 + 3 * row + 20 * (number - 1)
            instances[corner : corner + 18, corner : corner + 22] = number
        if kind == "depth":
            return (2 + instances).astype(np.float32)
        classes = np.repeat(np.arange(3, dtype=np.uint8), 20)[:, None].repeat(NATIVE[1], 1)
        return {"instances": instances, "classes": classes, BOXES: boxes_of_map(instances, classes)}[kind]

    def box_rows(self, split: str) -> int:
        return 3

    def annotation_digest(self, split: str, kind: str, **_: object) -> str:
        return digest_of([split, kind])

    def target_options(self, kind: str) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Trained:
    """Probes that were run and saved."""

    home: LocalLocation
    dataset: Photographs
    runs: dict[str, ProbeResult]
    """By task."""
    names: dict[str, str]
    """Run names by task."""


def train(
    folder: Path,
    tasks: Sequence[str] = TASKS,
    *,
    backbone: str = BACKBONE,
    readout: str = "deap",
    upsampler: Path | None = None,
    iterations: int = 12,
    **settings: Any,
) -> Trained:
    """Extract features below ``folder``, and train a few steps of each task on them; ``settings`` of the extraction."""
    home, dataset = LocalLocation(folder / "home"), Photographs(folder / "photographs")
    (folder / "home").mkdir()
    for _ in extract([backbone], dataset, home, settings=ExtractionSettings(device="cpu", **settings)):
        pass
    config = ProbeConfig(
        dataset="photographs", backbones=[backbone], tasks=tasks, readouts=[readout],
        iterations=iterations, batch_size=3, lrs=(0.01,), upsampler=upsampler,
    )  # fmt: skip
    runs = {run.task: run for run in probe_backbone(home, config)}
    return Trained(home, dataset, runs, {task: save(home, run) for task, run in runs.items()})


def save(home: LocalLocation, run: ProbeResult, **changes: Any) -> str:
    """Write a run's result and readout, with some of its facts changed; the name that it gets."""
    result = save_run(
        home,
        {**run.to_json(), **changes},
        statistics=run.statistics,
        prior_statistics=run.baseline_statistics,
        image_ids=run.image_ids,
        weights=run.weights,
    )
    return result.run
