"""What the columns of a picture show, by kind of task: probabilities, classes or depth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from deapcache.results import palette
from deapcache.results.record import Result

VOID = 255


@dataclass(frozen=True)
class Row:
    """One image's part of a picture."""

    image: np.ndarray | None
    """(h, w, 3) uint8 RGB."""
    target: np.ndarray
    prediction: np.ndarray


def panels_for(result: Result, targets: np.ndarray, predictions: np.ndarray) -> Panels:
    """The panels that fit the run's annotation."""
    annotation = result.protocol["task_options"]["targets"]["annotation"]
    if annotation == "depth":
        return DepthPanels(targets, predictions)
    if annotation == "classes":
        return ClassPanels(targets, predictions, result.classes)
    return ProbabilityPanels()


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
        axes[2].imshow(_tinted(row, wrong, palette.FALSE_ALARM))
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
        self._depth = ScalarMappable(Normalize(*_range(shown)), "viridis")
        self._error = ScalarMappable(Normalize(0, _range(errors)[1]), "magma")
        self.bars = ((self._depth, "depth [m]"), (self._error, "error [m]"))
        self.legend = {"unknown": palette.VOID}

    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        known = row.target > 0
        axes[0].imshow(_masked(self._depth, row.target, known))
        axes[1].imshow(self._depth.to_rgba(row.prediction)[..., :3])
        axes[2].imshow(_masked(self._error, np.abs(row.prediction - row.target), known))
        return ["target", "prediction", "absolute error"]


def _range(values: np.ndarray) -> tuple[float, float]:
    """The range of most values: a single outlier must not take all the contrast."""
    low, high = np.percentile(values, [1, 99])
    return float(low), float(max(high, low + 1e-6))


def _masked(scale: ScalarMappable, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    painted = scale.to_rgba(values)[..., :3]
    painted[~valid] = palette.rgb(palette.VOID)
    return painted


def _confusion(row: Row, valid: np.ndarray) -> np.ndarray:
    said, true = row.prediction > 0.5, row.target == 1
    painted = _backdrop(row)
    for where, colour in (
        (said & true, palette.HIT),
        (~said & true, palette.MISSED),
        (said & ~true & valid, palette.FALSE_ALARM),
    ):
        painted[where] = palette.rgb(colour)
    painted[~valid] = palette.rgb(palette.VOID)
    return painted


def _tinted(row: Row, strength: np.ndarray, colour: str) -> np.ndarray:
    share = 0.85 * strength[..., None]
    return _backdrop(row) * (1 - share) + share * np.asarray(palette.rgb(colour))


def _backdrop(row: Row) -> np.ndarray:
    """(h, w, 3) in [0, 1]: the image in pale grey, so that colours on it stand out; dark without an image."""
    height, width = row.target.shape
    if row.image is None:
        return np.full((height, width, 3), 0.15)
    rows = np.arange(height) * row.image.shape[0] // height
    columns = np.arange(width) * row.image.shape[1] // width
    grey = row.image[rows][:, columns].mean(-1, keepdims=True) / 255
    return np.repeat(0.15 + 0.6 * grey, 3, axis=-1)
