"""Draws what a trained readout says about one image: the image, and the prediction at each size beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from deapcache.regions import Region
from deapcache.results.frame import display_name
from deapcache.results.page import DPI, GAP, LINE, MARGIN, STRIP, Page, strip_height, wrapped
from deapcache.results.panels import backdrop
from deapcache.results.prediction_panels import WHOLE, Extent, mark_region, prediction_panels, show_image
from deapcache.results.record import Result

_SMALLEST, _LARGEST = 320, 960
"""Bounds of the longer side of each panel, pixels."""

_NARROWEST = 1 / 3
"""Of panels, shorter side to longer: their titles need room."""

_CROPPED = "nothing is predicted outside of the frame: the readout was trained on centred crops (--fit crop)"


def draw_prediction(
    result: Result,
    kind: str,
    name: str,
    image: np.ndarray,
    predictions: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    *,
    seen: Region | None = None,
) -> bytes:
    """A PNG of the image and its predictions (Figure 5 of the paper), all as large, in the image's own shape.

    Panels have as many pixels as the largest prediction, between 320 and 960 along the longer side.

    Parameters
    ----------
    result
        The run that the readout is from.
    kind
        ``Task.picture`` of its task.
    name
        What to call the image.
    image
        (h, w, 3) uint8 RGB, of any size.
    predictions, sizes
        What the predictor gave for this image, and at which (height, width).
    seen
        The part of the image that it is about; what is beside it is shown pale. ``None``: the whole image.
    """
    panels = prediction_panels(kind, result.classes, image, predictions)
    height, width = panel = _panel_size(image.shape[:2], sizes)
    tall, wide = height / DPI, width / DPI
    strip_left = MARGIN + (len(sizes) + 1) * (wide + GAP) + GAP
    across = strip_left + (STRIP if panels.legend or panels.bars else 0)
    extent = _extent(seen, image.shape[:2])
    notes = [panels.note, _CROPPED if extent != WHOLE else ""]
    title = wrapped(_title(result, name, [note for note in notes if note]), across)
    top = MARGIN + LINE * (len(title) + 1.5)
    page = Page(across, top + max(tall, strip_height(panels.legend, panels.bars)) + MARGIN)
    page.place_title(MARGIN, title)
    axes = [page.axes(MARGIN + place * (wide + GAP), top, wide, tall) for place in range(len(sizes) + 1)]
    show_image(axes[0], image, panel)
    _head(axes[0], "image", image.shape[:2])
    for place, size in enumerate(sizes):
        panels.draw(axes[place + 1], place, panel, extent)
        _head(axes[place + 1], "", size)
    if extent != WHOLE:
        beside = backdrop(image, image.shape[:2])
        for axis in axes:
            mark_region(axis, beside, extent)
    page.place_strip(strip_left, top, panels.legend, panels.bars)
    return page.png()


def _panel_size(image: Sequence[int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    longer = min(max(_SMALLEST, *(side for size in sizes for side in size)), _LARGEST)
    height, width = (max(side / max(image), _NARROWEST) for side in image)
    return round(longer * height), round(longer * width)


def _extent(seen: Region | None, image: Sequence[int]) -> Extent:
    if seen is None:
        return WHOLE
    (height, width), right, bottom = image, seen.left + seen.width, seen.top + seen.height
    return (seen.left / width, right / width, bottom / height, seen.top / height)


def _title(result: Result, name: str, notes: Sequence[str]) -> list[str]:
    run = (
        f"{result.task} · trained on {result.dataset} · {display_name(result)} · {result.readout} · seed {result.seed}"
    )
    return [name, run, *notes]


def _head(axis: Axes, what: str, size: Sequence[int]) -> None:
    axis.set_title(f"{what} {size[0]} × {size[1]}".strip(), fontsize=9, pad=4)
    axis.set_xticks([])
    axis.set_yticks([])
