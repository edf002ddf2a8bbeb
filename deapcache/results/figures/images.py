"""Figures that are grids of images: features, one readout at several sizes, several readouts side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from deapcache.results.figures.style import GREY, NORMAL, SMALL, WIDE, WIDTH, Canvas
from deapcache.results.fonts import shortened
from deapcache.results.frame import display_name
from deapcache.results.painters import (
    PAINTERS,
    Bars,
    LabelPainter,
    Painter,
    make_painter,
    principal_colours,
    show_image,
)
from deapcache.results.record import Result
from deapcache.tasks import get_task

TILE = (200, 200)
"""Pixels below which those of an image in a grid are shown as rectangles; larger images are smoothed."""
_SIDE, _BAR, _GAP, _LARGEST = 0.35, 0.65, 0.06, 2.2
"""Inches of a grid of images: names left of the rows, a colour bar, between images; the side of an image at most."""


def draw_features(
    images: np.ndarray, names: Sequence[str], volumes: Mapping[str, np.ndarray], *, source: str
) -> Canvas:
    """A row for each image: itself, and the features of each backbone in colours.

    ``images`` is (n, h, w, 3) uint8 RGB, what the features are of; ``volumes`` are (n, H, W, D) by backbone; ``source``
    says of which data. The components are those of all images shown, so that a colour means the same down a column;
    columns have nothing in common.
    """
    columns = [images, *(principal_colours([one])[0][0] for one in volumes.values())]
    heads = [f"{name}\n{' × '.join(map(str, one.shape[1:]))}" for name, one in volumes.items()]
    canvas = _image_grid(
        [[_image(pixels) for pixels in row] for row in zip(*columns, strict=True)],
        heads=["image", *heads],
        sides=names,
        aspects=[images.shape[1] / images.shape[2]] * len(images),
    )
    canvas.note(
        f"{source}; red, green and blue are the first three principal components of a backbone's features over the "
        "images shown, each stretched over its 1st to 99th percentile; under each name: height × width × features"
    )
    return canvas


@dataclass(frozen=True)
class Sample:
    """One image and what the readout says of it."""

    name: str
    image: np.ndarray
    """(h, w, 3) uint8 RGB: what the prediction is about."""
    predictions: Sequence[np.ndarray]
    """One a size, as ``Task.prediction`` gives them."""


def draw_resolutions(result: Result, sizes: Sequence[tuple[int, int]], samples: Sequence[Sample]) -> Canvas:
    """The paper's Figure 5, one readout at several output sizes: a row for each image, in the same colours.

    After the image itself stands the prediction at each of ``sizes`` (height, width).
    """
    picture, trained = get_task(result.task).picture, tuple(result.protocol["output_size"])
    canvas = draw_side_by_side(
        picture,
        result.classes,
        [f"{h} × {w} px" + ("\n(as trained)" if (h, w) == trained else "") for h, w in sizes],
        images=[sample.image for sample in samples],
        predictions=[sample.predictions for sample in samples],
        sides=[sample.name for sample in samples],
    )
    canvas.note(f"{result.task}, {result.dataset} · {display_name(result)} · {result.readout} · seed {result.seed}")
    note = PAINTERS.get(picture, LabelPainter).note
    canvas.note(note, f"trained at {trained[0]} × {trained[1]} px; the features are the same at all sizes")
    return canvas


def draw_side_by_side(
    picture: str,
    classes: Sequence[str],
    names: Sequence[str],
    *,
    images: Sequence[np.ndarray],
    predictions: Sequence[Sequence[np.ndarray]],
    sides: Sequence[str],
    targets: Sequence[np.ndarray] | None = None,
) -> Canvas:
    """A row for each image: itself (h, w, 3), its label where there are ``targets``, and a prediction for each name.

    ``picture`` is ``Task.picture``; ``targets`` and ``predictions``, of each image one for each name, are as
    ``Task.picture_values`` gives them, predictions without targets as ``Task.prediction``. ``sides`` stand left of the
    rows. All are in the same colours.
    """
    count = len(names)
    painter = make_painter(
        picture,
        [prediction for row in predictions for prediction in row],
        targets=None if targets is None else [target for target in targets for _ in names],
        images=[pixels for pixels in images for _ in names],
        classes=classes,
    )
    rows = []
    for row, pixels in enumerate(images):
        tiles: list[Callable[[Axes], None]] = [_image(pixels)]
        tiles += [] if targets is None else [partial(_draw_target, painter, row * count)]
        tiles += [partial(painter.draw, place=row * count + column, size=TILE) for column in range(count)]
        rows.append(tiles)
    of_errors = () if targets is None else ("wrong",)
    return _image_grid(
        rows,
        heads=["image", *([] if targets is None else ["label"]), *names],
        sides=sides,
        aspects=[pixels.shape[0] / pixels.shape[1] for pixels in images],
        legend={name: colour for name, colour in painter.legend.items() if name not in of_errors},
        bars=painter.bars[:1],
    )


def _draw_target(painter: Painter, place: int, axis: Axes) -> None:
    """The first of the three panels of a comparison; the others are drawn where nobody sees them."""
    beside = Figure().subplots(1, 2)
    painter.compare([axis, *beside], place)


def _image_grid(
    rows: Sequence[Sequence[Callable[[Axes], None]]],
    *,
    heads: Sequence[str],
    sides: Sequence[str],
    aspects: Sequence[float],
    legend: Mapping[str, str] = {},
    bars: Bars = (),
) -> Canvas:
    """A canvas of images: what draws each on its axes, row by row, with ``heads`` above and ``sides`` left of them.

    ``sides`` have up to two lines. ``aspects`` is height by width of each row's images; ``legend`` is name → colour,
    ``bars`` stand on the right.
    """
    tile = min((WIDTH - _SIDE - _BAR * len(bars)) / len(heads) - _GAP, _LARGEST)
    height = sum(tile * aspect + _GAP for aspect in aspects)
    canvas = Canvas(height + 0.85 + 0.2 * -(-len(legend) // 5), gap=_GAP / 2)
    grid = canvas.panels(len(rows), len(heads), heights=aspects)
    for axes, images, side, aspect in zip(grid, rows, sides, aspects, strict=True):
        for axis, draw in zip(axes, images, strict=True):
            draw(axis)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            axis.set_box_aspect(aspect)
            axis.spines[:].set_visible(False)
        room = max(int(tile * aspect * 18), 8)
        axes[0].set_ylabel("\n".join(shortened(line, room) for line in side.split("\n", 1)), fontsize=SMALL)
    for axis, head in zip(grid[0], heads, strict=True):
        axis.set_title(head, fontsize=NORMAL, pad=4).set_label(WIDE)
    for scale, label in bars:
        every = [axis for axes in grid for axis in axes]
        bar = canvas.figure.colorbar(scale, ax=every, shrink=0.8, aspect=30, pad=0.015)
        bar.set_label(label, fontsize=NORMAL)
        bar.ax.tick_params(labelsize=NORMAL)
    canvas.legend(
        [Patch(facecolor=colour, edgecolor=GREY, linewidth=0.5, label=name) for name, colour in legend.items()]
    )
    return canvas


def _image(pixels: np.ndarray) -> Callable[[Axes], None]:
    """What draws (h, w, 3) in a grid, as uint8 or in [0, 1]; each pixel of few stays a rectangle."""
    return lambda axis: show_image(axis, pixels, TILE)
