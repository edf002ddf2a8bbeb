"""A small home with several backbones, tasks, readouts and seeds, and what a drawn figure looks like to a ruler."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from deapcache_predictions import BACKBONE, NATIVE, Photographs, save
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from deapcache.annotations import BOXES, boxes_of_map
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, probe_backbone
from deapcache.results.figures.style import Canvas
from deapcache.results.speeds import Speed, write_speed

BACKBONES = (
    BACKBONE, "timm:test_vit@untrained", "timm:test_resnet@untrained", "timm:test_convnext@untrained",
)  # fmt: skip
TASKS = ("discrimination", "boundaries", "detection", "segmentation")
READOUTS = ("deap", "deap:8", "bicubic")
SEEDS = (0, 1)


class Tables(Photographs):
    """The same pictures, each with four large objects, so that discrimination has a score."""

    def read_annotation(self, split: str, row: int, kind: str) -> np.ndarray:
        if kind not in ("instances", BOXES):
            return super().read_annotation(split, row, kind)
        height, width = NATIVE
        instances = np.zeros(NATIVE, np.int32)
        for number, (top, left) in enumerate(itertools.product((2, 32), (3, 43)), 1):
            instances[top : top + height // 2 - 4, left + row : left + width // 2 - 6] = number
        return instances if kind == "instances" else boxes_of_map(instances, (instances > 0).astype(np.uint8))

    def box_rows(self, split: str) -> int:
        return 5  # with the image itself


@dataclass(frozen=True)
class Drawable:
    """A home that every figure can be made from."""

    home: LocalLocation
    dataset: Photographs
    reference: Path
    """A CSV with a score of each backbone."""


def build_home(folder: Path) -> Drawable:
    """Extract, and train each readout for a few steps: real runs, if short ones. Speeds are of a made-up device."""
    home, dataset = LocalLocation(folder / "home"), Tables(folder / "photographs")
    (folder / "home").mkdir()
    for _ in extract(list(BACKBONES), dataset, home, settings=ExtractionSettings(device="cpu")):
        pass
    for backbone in BACKBONES:
        _probe(home, backbone, ("discrimination", "segmentation"), ("deap",))
    _probe(home, BACKBONES[0], ("segmentation",), ("deap:8", "bicubic"))
    _probe(home, BACKBONES[0], ("boundaries", "detection"), ("deap",))
    for place, backbone in enumerate(BACKBONES):
        add_speed(home, backbone, 10.0 * 3**place, 3.0**place)
    reference = folder / "published.csv"
    scores = "".join(f"{backbone},{40 + 3 * place}\n" for place, backbone in enumerate(BACKBONES))
    reference.write_text(f"backbone,accuracy elsewhere [%] ↑\n{scores}")
    return Drawable(home, dataset, reference)


def add_learning_curve(home: LocalLocation) -> None:
    """Train on parts of the training images too."""
    for images in (3, 6):
        _probe(home, BACKBONES[0], ("boundaries",), ("deap",), train_limit=images, train_subset=0)


def _probe(home: LocalLocation, backbone: str, tasks: Sequence[str], readouts: Sequence[str], **options: Any) -> None:
    config = ProbeConfig(
        dataset="photographs", backbones=[backbone], tasks=tasks, readouts=readouts, seeds=SEEDS,
        iterations=4, batch_size=3, lrs=(0.01,), **options,
    )  # fmt: skip
    for run in probe_backbone(home, config):
        save(home, run)


def add_speed(home: LocalLocation, backbone: str, rate: float, relative: float, device: str = "cpu, 2 cores") -> str:
    """Write a speed as ``deapcache speed`` does; its key."""
    speed = Speed(
        kind="backbone", name=backbone, weights="trained", input="images 224x224", batch=1, seconds=(1 / rate,),
        reference_seconds=relative / rate, reference="imagenet", peak_memory_bytes=1, memory="resident", parameters=1,
        device=device, precision="fp32", threads=2, date="2026-01-01T00:00:00+00:00", versions={},
    )  # fmt: skip
    return write_speed(home, speed)


def texts_of(canvas: Canvas) -> list[tuple[str, Bbox]]:
    """What is written on a finished figure, and where, in pixels."""
    canvas.finish()
    canvas.figure.draw_without_rendering()  # an annotation knows its place only then
    renderer, unseen = canvas.agg.get_renderer(), _unseen_ticks(canvas)
    found = {id(text): text for text in canvas.figure.findobj(Text) if text.get_visible() and text.get_text().strip()}
    # the text alone, as an annotation's own extent includes its leader
    shown = [text for key, text in found.items() if key not in unseen]
    return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in shown]


def _unseen_ticks(canvas: Canvas) -> set[int]:
    """Texts of ticks that are not drawn: beyond the limits, or on the side without labels."""
    unseen = set()
    for axis in canvas.figure.axes:
        for side in (axis.xaxis, axis.yaxis):
            low, high = sorted(side.get_view_interval())
            drawn = [tick for tick in side.get_major_ticks() if low <= tick.get_loc() <= high]
            labels = {id(tick.label1) for tick in drawn if tick.label1.get_visible()}
            every = [text for tick in (*side.majorTicks, *side.minorTicks) for text in (tick.label1, tick.label2)]
            unseen |= {id(text) for text in every} - labels
    return unseen


def collisions(canvas: Canvas) -> list[str]:
    """Texts that meet another text, or leave the sheet."""
    texts, sheet = texts_of(canvas), canvas.figure.bbox
    found = [
        f"{one!r} meets {other!r}"
        for (one, box), (other, place) in itertools.combinations(texts, 2)
        if _meet(box, place)
    ]
    for name, box in texts:
        if box.x0 < sheet.x0 - 1 or box.y0 < sheet.y0 - 1 or box.x1 > sheet.x1 + 1 or box.y1 > sheet.y1 + 1:
            found.append(f"{name!r} leaves the sheet")
    return found


def _meet(one: Bbox, other: Bbox) -> bool:
    common = Bbox.intersection(one, other)
    return common is not None and common.width > 1 and common.height > 1


def marks_of(axis: Axes) -> np.ndarray:
    """(n, 2): the points that a panel shows, sorted."""
    lines = [line for line in axis.lines if line.get_marker() not in ("None", "_", "|")]
    points = np.concatenate([np.column_stack(line.get_data()).astype(float) for line in lines])
    return points[np.lexsort(points.T[::-1])]
