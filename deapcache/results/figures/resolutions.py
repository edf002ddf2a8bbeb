"""The paper's Figure 5: one readout queried at several output sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from deapcache.results.figures.style import TILE, Canvas, image, image_grid
from deapcache.results.frame import display_name
from deapcache.results.painters import make_painter
from deapcache.results.record import Result
from deapcache.tasks import get_task


@dataclass(frozen=True)
class Sample:
    """One image and what the readout says of it."""

    name: str
    image: np.ndarray
    """(h, w, 3) uint8 RGB: what the prediction is about."""
    predictions: Sequence[np.ndarray]
    """One a size, as ``Task.prediction`` gives them."""


def draw_resolutions(result: Result, sizes: Sequence[tuple[int, int]], samples: Sequence[Sample]) -> Canvas:
    """A row for each image: itself, and the prediction at each of ``sizes`` (height, width), in the same colours."""
    painter = make_painter(
        get_task(result.task).picture,
        [prediction for sample in samples for prediction in sample.predictions],
        images=[sample.image for sample in samples for _ in sizes],
        classes=result.classes,
    )
    places = [[row * len(sizes) + column for column in range(len(sizes))] for row in range(len(samples))]
    trained = tuple(result.protocol["output_size"])
    canvas = image_grid(
        [
            [image(sample.image), *(partial(painter.draw, place=place, size=TILE) for place in row)]
            for sample, row in zip(samples, places, strict=True)
        ],
        heads=["image", *(f"{h} × {w} px" + ("\n(as trained)" if (h, w) == trained else "") for h, w in sizes)],
        sides=[sample.name for sample in samples],
        aspects=[sample.image.shape[0] / sample.image.shape[1] for sample in samples],
        legend=painter.legend,
        bars=painter.bars,
    )
    canvas.note(f"{result.task}, {result.dataset} · {display_name(result)} · {result.readout} · seed {result.seed}")
    canvas.note(painter.note, f"trained at {trained[0]} × {trained[1]} px; the features are the same at all sizes")
    return canvas
