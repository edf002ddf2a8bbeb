"""Feature volumes as colours: their first three principal components, beside the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deapcache.results.figures.canvas import Canvas
from deapcache.results.figures.mosaic import draw_mosaic, show_pixels
from deapcache.results.prediction_panels import principal_colours


@dataclass(frozen=True)
class Volumes:
    """One backbone's features of the images that are shown."""

    backbone: str
    volumes: np.ndarray
    """(n, H, W, D)."""


def draw_features(images: np.ndarray, names: Sequence[str], found: Sequence[Volumes], *, source: str) -> Canvas:
    """A row for each image: itself, and the features of each backbone in colours.

    ``images`` is (n, h, w, 3) uint8 RGB, what the features are of; ``source`` says of which data. The components are
    those of all images shown, so that a colour means the same down a column; columns have nothing in common.
    """
    painted = [principal_colours(list(one.volumes.transpose(0, 3, 1, 2).astype(np.float32))) for one in found]
    rows = [
        [show_pixels(image), *(show_pixels(colours[row]) for colours in painted)] for row, image in enumerate(images)
    ]
    heads = [
        f"{one.backbone}\n{one.volumes.shape[1]} × {one.volumes.shape[2]} × {one.volumes.shape[3]}" for one in found
    ]
    canvas = draw_mosaic(
        rows,
        heads=["image", *heads],
        sides=names,
        aspects=[images.shape[1] / images.shape[2]] * len(images),
    )
    canvas.note(
        f"{source}; red, green and blue are the first three principal components of a backbone's features over the "
        "images shown, each stretched over its 1st to 99th percentile; under each name: height × width × features"
    )
    return canvas
