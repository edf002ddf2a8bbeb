"""The embedded dataset: rendered rooms with exact annotations, nothing to download."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, Dataset, DatasetEntry, SplitStatus
from deapcache.datasets.boxes import BOXES, boxes_of_map
from deapcache.datasets.digests import DigestIndex, Progress
from deapcache.datasets.scenes.rendering import Maps, render_image, render_maps
from deapcache.datasets.scenes.world import CLASSES, MOST_BODIES, Scene, random_scene
from deapcache.recipe import digest_of

RENDERER = 1
"""Raised with every change that alters a pixel or an annotation, so that caches of older scenes are not mistaken."""

SEED = 0
SIZE = (240, 320)
COUNTS = {"train": 240, "val": 60}

_SKETCH = (60, 80)
"""Size at which a drawn scene is judged."""


class Scenes(Dataset):
    """Rooms with boxes, spheres, cylinders, cones, pyramids, capsules and tori of random size, colour and texture.

    Classes are told by shape alone. Every pixel has a class, no pixel is void, depth is known everywhere: it is the
    distance along the camera's axis, in metres, not along the ray. The same row always shows the same scene.
    """

    name = "scenes"
    images_name = "scenes"
    annotations = ("instances", "boxes", "classes", "depth")
    classes = CLASSES
    colour = "rendered rgb8"
    computes_images = True

    def image_ids(self, split: str) -> tuple[str, ...]:
        self._require_split(split)
        return tuple(f"{split}-{row:05d}" for row in range(COUNTS[split]))

    def image_digests(
        self, split: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> tuple[str, ...]:
        """Digests of what decides each picture (renderer version, seed, split and row); nothing is rendered."""
        rows = range(len(self.image_ids(split)))
        return tuple(digest_of(["scenes", RENDERER, SEED, SIZE, split, row]) for row in rows)

    def scene(self, split: str, row: int) -> Scene:
        """The room that a row shows, with its camera."""
        count = len(self.image_ids(split))
        return _draw(self.splits.index(split), range(count)[row])

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        return render_image(self.scene(split, row), SIZE)

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        maps = self._maps(split, row)
        if kind == BOXES:
            return boxes_of_map(maps.instances, maps.classes)
        values: NDArray[Any] = getattr(maps, kind)
        return values.copy()

    def box_rows(self, split: str) -> int:
        """Enough for every body that a scene can have."""
        self._require_split(split)
        return MOST_BODIES + 1

    def annotation_digest(
        self, split: str, kind: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> str:
        self._require_kind(kind)
        return digest_of([kind, self.image_digests(split)])

    def target_options(self, kind: str) -> dict[str, Any]:
        self._require_kind(kind)
        options = {"depth": {"depth": "along the camera's axis"}, BOXES: {"boxes": "tight, of visible pixels"}}
        return options.get(kind, {})

    def _maps(self, split: str, row: int) -> Maps:
        count = len(self.image_ids(split))
        return _render(self.splits.index(split), range(count)[row])


# A row's image and its annotations are asked for one after the other: the scene is drawn and traced once for all.
@functools.lru_cache(maxsize=2)
def _render(split_number: int, row: int) -> Maps:
    return render_maps(_draw(split_number, row), SIZE)


@functools.lru_cache(maxsize=2)
def _draw(split_number: int, row: int) -> Scene:
    """The first scene of this row's random sequence in which enough is to be seen."""
    generator = np.random.default_rng([SEED, split_number, row])
    scene = random_scene(generator)
    while not _is_lively(scene):
        scene = random_scene(generator)
    return scene


def _is_lively(scene: Scene) -> bool:
    """Three to nine bodies with a share of the picture each, on 15 to 60 % of it."""
    instances = render_maps(scene, _SKETCH).instances
    shares = np.bincount(instances.ravel())[1:] / instances.size
    return bool((shares > 0.004).sum() >= 3 and 0.15 < shares.sum() < 0.6)


def _status(_: Path) -> dict[str, SplitStatus]:
    return {split: SplitStatus(images=count) for split, count in COUNTS.items()}


DATASETS.add(
    "scenes",
    DatasetEntry(
        name="scenes",
        summary="Rendered rooms with solids of seven shapes: exact instances, classes and depth; embedded",
        layout="nothing is needed: the pictures are rendered when they are read",
        licence="Apache-2.0, as deapcache itself",
        open=lambda _: Scenes(),
        status=_status,
        official=COUNTS,
        annotations=Scenes.annotations,
        classes=CLASSES,
    ),
)
