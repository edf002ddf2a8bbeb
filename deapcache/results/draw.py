"""Pictures as PNG: of a run, of predictions for one image, and of cached features.

Their parts stand in inches from the upper left corner, so that no text can meet another. Figures are made directly,
never through pyplot: nothing global is touched, and threads may draw at once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Patch, Rectangle

from deapcache.cache import HFLIP, CacheEntry, FeatureCache, mirror
from deapcache.errors import IncompleteCacheError, UsageError
from deapcache.locations import Location
from deapcache.recipe import SHORT
from deapcache.regions import Region
from deapcache.results.fonts import LiteralFigure, drawable, literal_legend, shortened
from deapcache.results.frame import display_name
from deapcache.results.painters import (
    BLANK,
    WHOLE,
    Painter,
    backdrop,
    make_painter,
    outline,
    principal_colours,
    show_image,
)
from deapcache.results.record import Result, picture_key
from deapcache.tasks import get_task

_DPI = 110
_GAP, _MARGIN = 0.08, 0.15
_LINE, _CHARACTERS_PER_INCH = 0.2, 11
"""Height of a line of text; of a title of usual letters."""
_LEGEND, _BAR = 1.85, 1.2
"""Width of what explains the colours, right of the images; height of a colour bar with its label."""
_TILE = 1.75
"""Height of an image."""
_SIGMA = 1.2
"""Height of the panel of attention heads."""
_ACROSS = 4
"""Feature volumes side by side."""
_LEAST_WIDTH = 6.0
"""Of a picture of features, for its title."""
_SMALLEST, _LARGEST = 320, 960
"""Bounds of the longer side of a prediction's panel, pixels."""
_NARROWEST = 1 / 3
"""Of such panels, shorter side to longer: their titles need room."""


class Page:
    """A picture ``width`` inches wide: a line or more for each of ``title``, and ``body`` inches from ``top`` on.

    The title begins at ``left``.
    """

    def __init__(self, width: float, body: float, title: Sequence[str], left: float = _MARGIN) -> None:
        lines = [line for one in title for line in textwrap.wrap(drawable(one), int(width * _CHARACTERS_PER_INCH))]
        self.top = _MARGIN + _LINE * (len(lines) + 1.5)
        self._width, self._height = width, self.top + body + _MARGIN
        self.figure = LiteralFigure(figsize=(width, self._height), dpi=_DPI)
        self.figure.text(left / width, self._up(_MARGIN), "\n".join(lines), fontsize=10, va="top", linespacing=1.4)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """New axes without ticks."""
        size = (width / self._width, height / self._height)
        axis = self.figure.add_axes((left / self._width, self._up(top + height), *size))
        axis.set_xticks([])
        axis.set_yticks([])
        return axis

    def row(self, left: float, top: float, width: float, height: float, count: int) -> list[Axes]:
        """``count`` new axes beside each other."""
        return [self.axes(left + place * (width + _GAP), top, width, height) for place in range(count)]

    def place_legend(self, left: float, painter: Painter) -> None:
        """Say what the colours mean, from ``top`` on."""
        handles = [
            Patch(facecolor=colour, edgecolor="#555555", linewidth=0.5, label=shortened(name, 20))
            for name, colour in painter.legend.items()
        ]
        corner = (left / self._width, self._up(self.top))
        literal_legend(self.figure, handles, loc="upper left", bbox_to_anchor=corner, borderaxespad=0, borderpad=0,
                       fontsize=8, frameon=False)  # fmt: skip
        below = self.top + _LINE * (len(handles) + 1)
        for place, (scale, label) in enumerate(painter.bars):
            axis = self.axes(left + 0.05, below + place * _BAR, 0.14, _BAR - 0.2)
            self.figure.colorbar(scale, cax=axis).set_label(label, fontsize=8)
            axis.tick_params(labelsize=8)

    def _up(self, inches: float) -> float:
        return 1 - inches / self._height


def _legend_height(painter: Painter) -> float:
    return _LINE * (len(painter.legend) + 1) + _BAR * len(painter.bars)


def save_picture(home: Location, result: Result, **shown: Any) -> str:
    """Publish what :func:`draw_run` draws of the result and what is ``shown`` as ``results/<run>.png``, that key."""
    key = picture_key(result.run)
    home.publish(key, draw_run(result, **shown), replace=True)
    return key


def draw_run(
    result: Result,
    *,
    images: np.ndarray | None,
    targets: np.ndarray,
    predictions: np.ndarray,
    image_ids: Sequence[str] = (),
) -> bytes:
    """A PNG of images with target, prediction and errors, and of the learned width of each attention head.

    Parameters
    ----------
    images
        (n, h, w, 3) uint8 RGB base images of any size; ``None`` where none are at hand.
    targets
        (n, h, w): 0, 1 and 255 (void) for probabilities; classes and 255 (void); metres and 0 (unknown); instances, 0
        (background) and -1 (crowd). Or (n, m, 5) boxes: x, y, width, height as fractions of the image, and 1 (object),
        2 (crowd) or 0 (none).
    predictions
        (n, h, w): probability, class, metres or cluster. Or (n, k, 5) boxes and their scores, the best first.
    image_ids
        What to write beside each image; empty: nothing.
    """
    picture = get_task(result.task).picture
    painter = make_painter(
        picture,
        list(predictions),
        targets=list(targets),
        images=None if images is None else list(images),
        classes=result.classes,
    )
    output_height, output_width = result.protocol["output_size"]
    wide = _TILE * output_width / output_height
    columns = 3 if images is None else 4
    left = _MARGIN + (_LINE if image_ids else 0)
    legend_left = left + columns * (wide + _GAP) + _GAP
    body = max(len(targets) * (_TILE + _GAP), _legend_height(painter))
    metric = result.metrics[result.main_metric]
    unit = f" {metric['unit']}" if metric["unit"] else ""
    score, prior = result.scores[result.main_metric], result.prior[result.main_metric]
    about = (
        f"{result.task} · {result.dataset} · {display_name(result)} · {result.readout} · seed {result.seed}",
        f"{metric['label']} {score:.4f}{unit} (image-independent prior {prior:.4f})",
    )
    page = Page(legend_left + _LEGEND, body + (_SIGMA if result.sigma else 0), about, left)
    for place in range(len(targets)):
        axes = page.row(left, page.top + place * (_TILE + _GAP), wide, _TILE, columns)
        if images is not None:
            axes[0].imshow(images[place])
        titles = painter.compare(axes[-3:], place)
        if place == 0:
            for axis, title in zip(axes, ["image", *titles][-columns:], strict=True):
                axis.set_title(title, fontsize=9, pad=4)
        if image_ids:
            axes[0].set_ylabel(shortened(image_ids[place], 20), fontsize=7)
    page.place_legend(legend_left, painter)
    if result.sigma:
        width = legend_left + _LEGEND - left - _MARGIN
        axis = page.axes(left, page.top + body + 0.35, width, _SIGMA - 0.35)
        _draw_sigma(axis, result.sigma, output_height / output_width)
    return page.figure.png()


def _draw_sigma(axis: Axes, sigma: Sequence[float], aspect: float) -> None:
    """Each head's mask as the circle of radius σ around an image's centre; the longer side is 1."""
    height, width = (aspect, 1.0) if aspect <= 1 else (1.0, 1 / aspect)
    step = width + 0.25
    for head, value in enumerate(sigma):
        left = head * step
        frame = Rectangle((left, 0), width, height, facecolor="#F2F2F2", edgecolor="#555555", linewidth=0.8)
        circle = Circle((left + width / 2, height / 2), value, facecolor="#0072B2", alpha=0.75, linewidth=0)
        axis.add_patch(frame)
        axis.add_patch(circle)
        circle.set_clip_path(frame)
        axis.text(left + width / 2, -0.08, f"{value:.3f}", ha="center", va="top", fontsize=8)
    axis.set_xlim(-0.02, len(sigma) * step)
    axis.set_ylim(-0.35, height + 0.05)
    axis.set_aspect("equal", anchor="W")
    axis.set_axis_off()
    axis.set_title(
        "learned reach σ of each attention head, as a share of the image's longer side", fontsize=9, loc="left", pad=3
    )


def draw_prediction(
    result: Result,
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
    name
        What to call the image.
    image
        (h, w, 3) uint8 RGB, of any size.
    predictions, sizes
        What the predictor gave for this image, and at which (height, width).
    seen
        The part of the image that it is about; what is beside it is shown pale. ``None``: the whole image.
    """
    picture = get_task(result.task).picture
    painter = make_painter(picture, predictions, images=[image] * len(predictions), classes=result.classes)
    longer = min(max(_SMALLEST, *(side for size in sizes for side in size)), _LARGEST)
    height, width = (round(longer * max(side / max(image.shape[:2]), _NARROWEST)) for side in image.shape[:2])
    tall, wide = height / _DPI, width / _DPI
    legend_left = _MARGIN + (len(sizes) + 1) * (wide + _GAP) + _GAP
    extent = WHOLE
    if seen is not None:
        left, right = seen.left / image.shape[1], (seen.left + seen.width) / image.shape[1]
        extent = left, right, (seen.top + seen.height) / image.shape[0], seen.top / image.shape[0]
    title = [
        name,
        f"{result.task} · trained on {result.dataset} · {display_name(result)} · {result.readout} · seed {result.seed}",
        painter.note,
        "" if extent == WHOLE
        else "nothing is predicted outside of the frame: the readout was trained on centred crops (--fit crop)",
    ]  # fmt: skip
    across = legend_left + (_LEGEND if painter.legend or painter.bars else 0)
    page = Page(across, max(tall, _legend_height(painter)), title)
    first, *axes = page.row(_MARGIN, page.top, wide, tall, len(sizes) + 1)
    show_image(first, image, (height, width))
    first.set_title(f"image {image.shape[0]} × {image.shape[1]}", fontsize=9, pad=4)
    for place, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        painter.draw(axis, place, (height, width), extent)
        axis.set_title(f"{size[0]} × {size[1]}", fontsize=9, pad=4)
    if extent != WHOLE:
        beside = backdrop(image, image.shape[:2])
        left, right, bottom, top = extent
        for axis in (first, *axes):
            axis.imshow(beside, extent=WHOLE, aspect="auto", zorder=-1)
            axis.set_xlim(0, 1)
            axis.set_ylim(1, 0)
            outline(axis, np.array([[left, top, right - left, bottom - top]]), BLANK, dashed=True)
    page.place_legend(legend_left, painter)
    return page.figure.png()


def draw_cache(features: CacheEntry, images: CacheEntry | None, count: int) -> bytes:
    """A PNG of ``count`` volumes spread over a feature cache, with the base images of ``images`` where it has them.

    Raises :class:`IncompleteCacheError` for a cache without any volume, :class:`UsageError` for another kind of cache.
    """
    cache = features.open()
    if not isinstance(cache, FeatureCache):
        raise UsageError(f"{features.path} holds {features.kind}: a picture is drawn of features")
    rows = [row for shard in sorted(cache.present_shards()) for row in cache.shard_rows(shard)]
    if not rows:
        raise IncompleteCacheError(f"{cache.location} has no volumes yet: extract first")
    if len(rows) > count:
        rows = [rows[place * len(rows) // count] for place in range(count)]
    return draw_volumes(cache, features, images, rows).png()


def draw_volumes(
    cache: FeatureCache, features: CacheEntry, images: CacheEntry | None, rows: Sequence[int]
) -> LiteralFigure:
    """The volumes in ``rows`` of the open ``cache``, as :func:`draw_cache` draws them; at least one row."""
    colours, shares = principal_colours([cache.read_features(rows)])
    pictures = [colours[0]]
    if images and (beside := images.open()).is_complete(rows):
        shown = beside.read(rows)
        pictures.insert(0, mirror("images", shown) if features.fields["view"] == HFLIP else shown)
    _, height, width, _ = pictures[0].shape
    wide = _TILE * width / height
    across = min(_ACROSS, len(rows))
    step = len(pictures) * (wide + _GAP) + _GAP
    named = [features.name, f"{features.dataset} {features.split}".strip(), cache.storage, features.digest[:SHORT]]
    variance = ", ".join(f"{share:.0%}" for share in shares)
    title = [
        " · ".join(filter(None, named)),
        f"red, green, blue: principal components 1, 2, 3 of these volumes, {variance} of their variance",
    ]
    lines = -(-len(rows) // across)
    page = Page(max(2 * _MARGIN + across * step, _LEAST_WIDTH), lines * (_TILE + _LINE + _GAP), title)
    for place, row in enumerate(rows):
        down, right = divmod(place, across)
        axes = page.row(_MARGIN + right * step, page.top + down * (_TILE + _LINE + _GAP), wide, _TILE, len(pictures))
        for axis, each in zip(axes, pictures, strict=True):
            axis.imshow(each[place], interpolation="nearest", aspect="auto")
        axes[0].set_title(shortened(cache.image_ids[row], 24), fontsize=7, pad=2, loc="left")
    return page.figure
