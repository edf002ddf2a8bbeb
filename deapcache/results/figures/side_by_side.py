"""Images with their labels and what several readouts say of them, in the same colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deapcache.results.figures.style import TILE, Canvas, image, image_grid
from deapcache.results.painters import Painter, make_painter


def draw_side_by_side(
    picture: str,
    classes: Sequence[str],
    names: Sequence[str],
    *,
    images: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    predictions: Sequence[Sequence[np.ndarray]],
    sides: Sequence[str],
) -> Canvas:
    """A row for each image: itself (h, w, 3), its label, and the prediction of each of ``names``.

    ``picture`` is ``Task.picture``; ``targets`` and ``predictions``, of each image one for each name, are as
    ``Task.picture_values`` gives them. ``sides`` stand left of the rows.
    """
    count = len(names)
    painter = make_painter(
        picture,
        [prediction for row in predictions for prediction in row],
        targets=[target for target in targets for _ in names],
        images=[pixels for pixels in images for _ in names],
        classes=classes,
    )
    rows = []
    for row, pixels in enumerate(images):
        tiles: list[Callable[[Axes], None]] = [image(pixels), partial(_draw_target, painter, row * count)]
        tiles += [partial(painter.draw, place=row * count + column, size=TILE) for column in range(count)]
        rows.append(tiles)
    return image_grid(
        rows,
        heads=["image", "label", *names],
        sides=sides,
        aspects=[pixels.shape[0] / pixels.shape[1] for pixels in images],
        legend={name: colour for name, colour in painter.legend.items() if name != "wrong"},
        bars=painter.bars[:1],
    )


def _draw_target(painter: Painter, place: int, axis: Axes) -> None:
    """The first of the three panels of a comparison; the others are drawn where nobody sees them."""
    beside = Figure().subplots(1, 2)
    painter.compare([axis, *beside], place)
