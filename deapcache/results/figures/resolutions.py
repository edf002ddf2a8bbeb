"""The paper's Figure 5: one readout queried at several output sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from deapcache.results.figures.canvas import Canvas
from deapcache.results.figures.mosaic import TILE, Painter, draw_mosaic, show_pixels
from deapcache.results.frame import display_name
from deapcache.results.prediction_panels import WHOLE, PredictionPanels, prediction_panels
from deapcache.results.record import Result


@dataclass(frozen=True)
class Queried:
    """One image and what the readout says of it."""

    name: str
    image: np.ndarray
    """(h, w, 3) uint8 RGB: what the prediction is about."""
    predictions: Sequence[np.ndarray]
    """One a size, as ``Task.prediction`` gives them."""


def draw_resolutions(result: Result, kind: str, sizes: Sequence[tuple[int, int]], shown: Sequence[Queried]) -> Canvas:
    """A row for each image: itself, and the prediction at each of ``sizes`` (height, width), in the same colours.

    ``kind`` is ``Task.picture`` of the run's task.
    """
    panels = [*_panels(result, kind, shown)]
    places = range(len(sizes))
    rows: list[list[Painter]] = []
    for row, one in enumerate(shown):
        maps = [partial(panels[row].draw, place=row * len(sizes) + place, size=TILE, extent=WHOLE) for place in places]
        rows.append([show_pixels(one.image), *maps])
    trained = tuple(result.protocol["output_size"])
    canvas = draw_mosaic(
        rows,
        heads=["image", *(f"{h} × {w} px" + ("\n(as trained)" if (h, w) == trained else "") for h, w in sizes)],
        sides=[one.name for one in shown],
        aspects=[one.image.shape[0] / one.image.shape[1] for one in shown],
        legend=panels[0].legend,
        bars=panels[0].bars,
    )
    canvas.note(f"{result.task}, {result.dataset} · {display_name(result)} · {result.readout} · seed {result.seed}")
    canvas.note(panels[0].note, f"trained at {trained[0]} × {trained[1]} px; the features are the same at all sizes")
    return canvas


def _panels(result: Result, kind: str, shown: Sequence[Queried]) -> list[PredictionPanels]:
    """For each image what draws it, all in one scale of colours; boxes have the image behind them."""
    every = [prediction for one in shown for prediction in one.predictions]
    if kind == "boxes":
        return [prediction_panels(kind, result.classes, one.image, every) for one in shown]
    return [prediction_panels(kind, result.classes, shown[0].image, every)] * len(shown)
