"""What the columns of a picture show, by kind of task: probabilities, classes or depth; boxes, segments elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from deapcache.annotations import get_annotation
from deapcache.errors import UsageError
from deapcache.results import palette
from deapcache.results.record import Result

VOID = 255

Painter = Callable[[np.ndarray], np.ndarray]
"""``Annotation.paint``: from (h, w, ...) to (h, w, 3) uint8 RGB."""


@dataclass(frozen=True)
class Row:
    """One image's part of a picture."""

    image: np.ndarray | None
    """(h, w, 3) uint8 RGB."""
    target: np.ndarray
    prediction: np.ndarray


def panels_for(result: Result, targets: np.ndarray, predictions: np.ndarray) -> Panels:
    """The panels that the run's task asks for with ``Task.picture``; else a label type's name, painted as it says."""
    from deapcache.results.box_panels import BoxPanels
    from deapcache.results.segment_panels import SegmentPanels
    from deapcache.tasks import get_task

    panels: dict[str, Callable[[], Panels]] = {
        "probability": ProbabilityPanels,
        "classes": lambda: ClassPanels(targets, predictions, result.classes),
        "depth": lambda: DepthPanels(targets, predictions),
        "boxes": BoxPanels,
        "segments": lambda: SegmentPanels(targets),
    }
    picture = get_task(result.task).picture
    return panels[picture]() if picture in panels else PaintedPanels(painter(picture))


class Panels(ABC):
    """Draws the columns of one image; knows what explains their colours."""

    legend: Mapping[str, str]
    """Name → colour."""
    bars: Sequence[tuple[ScalarMappable, str]]
    """Colour bars and their labels."""

    def draw(self, axes: Sequence[Axes], row: Row) -> list[str]:
        """Fill ``axes``: image (where there is one), target, prediction, errors; returns the columns' titles."""
        left = list(axes)
        titles = []
        if row.image is not None:
            left.pop(0).imshow(row.image)
            titles.append("image")
        return [*titles, *self.draw_maps(left, row)]

    @abstractmethod
    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        """Fill three axes: target, prediction, errors; returns their titles."""


class ProbabilityPanels(Panels):
    """One probability per pixel, judged at 0.5."""

    legend = {  # noqa: RUF012 - a Mapping is not changed
        "hit": palette.HIT,
        "missed": palette.MISSED,
        "false alarm": palette.FALSE_ALARM,
        "void": palette.VOID,
    }
    _scale = ScalarMappable(Normalize(0, 1), "cividis")
    bars = ((_scale, "probability"),)

    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        valid = row.target != VOID
        axes[0].imshow(_masked(self._scale, row.target, valid))
        axes[1].imshow(self._scale.to_rgba(row.prediction)[..., :3])
        axes[2].imshow(_confusion(row, valid))
        return ["target", "prediction", "prediction > 0.5"]


class ClassPanels(Panels):
    """One class per pixel."""

    def __init__(self, targets: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> None:
        self._colours = palette.class_colours([targets, predictions], classes, VOID)
        self.bars = ()
        self.legend = self._legend(classes)

    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        valid = row.target != VOID
        axes[0].imshow(self._painted(row.target))
        axes[1].imshow(self._painted(row.prediction))
        wrong = np.where((row.prediction != row.target) & valid, 1.0, 0.0)
        axes[2].imshow(tinted(row, wrong, palette.FALSE_ALARM))
        return ["target", "prediction", "wrong pixels"]

    def _legend(self, classes: Sequence[str]) -> dict[str, str]:
        named = {value: colour for value, colour in self._colours.items() if colour != palette.OTHER}
        entries = {classes[value]: colour for value, colour in named.items()}
        if others := len(self._colours) - len(named):
            entries[f"{others} other classes"] = palette.OTHER
        return {**entries, "void": palette.VOID, "wrong": palette.FALSE_ALARM}

    def _painted(self, values: np.ndarray) -> np.ndarray:
        painted = np.ones((*values.shape, 3))
        for value, colour in self._colours.items():
            painted[values == value] = palette.rgb(colour)
        return painted


class DepthPanels(Panels):
    """Metres per pixel; 0 is unknown."""

    def __init__(self, targets: np.ndarray, predictions: np.ndarray) -> None:
        known = targets > 0
        shown = np.concatenate([targets[known], predictions.ravel()])
        errors = np.abs(predictions - targets)[known]
        self._depth = ScalarMappable(Normalize(*value_range(shown)), "viridis")
        self._error = ScalarMappable(Normalize(0, value_range(errors)[1]), "magma")
        self.bars = ((self._depth, "depth [m]"), (self._error, "error [m]"))
        self.legend = {"unknown": palette.VOID}

    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        known = row.target > 0
        axes[0].imshow(_masked(self._depth, row.target, known))
        axes[1].imshow(self._depth.to_rgba(row.prediction)[..., :3])
        axes[2].imshow(_masked(self._error, np.abs(row.prediction - row.target), known))
        return ["target", "prediction", "absolute error"]


class PaintedPanels(Panels):
    """Labels of a type that says how it is painted; the pixels' mean absolute difference beside them."""

    legend = {}  # noqa: RUF012 - a Mapping is not changed
    bars = ()

    def __init__(self, paint: Painter) -> None:
        self._paint = paint

    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        axes[0].imshow(self._paint(row.target))
        axes[1].imshow(self._paint(row.prediction))
        difference = np.abs(row.prediction.astype(np.float64) - row.target)
        axes[2].imshow(difference.reshape(*difference.shape[:2], -1).mean(-1), "magma")
        return ["target", "prediction", "absolute difference"]


def painter(picture: str) -> Painter:
    """How a label type is painted; raises :class:`UsageError` where it does not say, and ``UnknownNameError``."""
    paint = get_annotation(picture).paint
    if paint is None:
        raise UsageError(f"label type {picture!r} has no paint, which a picture of it needs")
    return paint


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The range of most values, 0 to 1 where there are none: a single outlier must not take all the contrast."""
    low, high = np.percentile(values, [1, 99]) if values.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def _masked(scale: ScalarMappable, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    painted = scale.to_rgba(values)[..., :3]
    painted[~valid] = palette.rgb(palette.VOID)
    return painted


def _confusion(row: Row, valid: np.ndarray) -> np.ndarray:
    said, true = row.prediction > 0.5, row.target == 1
    painted = backdrop(row.image, row.target.shape)
    for where, colour in (
        (said & true, palette.HIT),
        (~said & true, palette.MISSED),
        (said & ~true & valid, palette.FALSE_ALARM),
    ):
        painted[where] = palette.rgb(colour)
    painted[~valid] = palette.rgb(palette.VOID)
    return painted


def tinted(row: Row, strength: np.ndarray, colour: str) -> np.ndarray:
    """(h, w, 3) in [0, 1]: the backdrop, more or less covered with ``colour``; ``strength`` is (h, w) in [0, 1]."""
    share = 0.85 * strength[..., None]
    return backdrop(row.image, row.target.shape) * (1 - share) + share * np.asarray(palette.rgb(colour))


def backdrop(image: np.ndarray | None, size: Sequence[int]) -> np.ndarray:
    """(h, w, 3) in [0, 1]: the image in pale grey, so that colours on it stand out; dark without an image."""
    height, width = size
    if image is None:
        return np.full((height, width, 3), 0.15)
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    grey = image[rows][:, columns].mean(-1, keepdims=True) / 255
    return np.repeat(0.15 + 0.6 * grey, 3, axis=-1)
