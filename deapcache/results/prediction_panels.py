"""What predictions look like where the truth is not known, by kind of task; one scale of colours for all sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex

from deapcache.results import palette
from deapcache.results.box_panels import outline
from deapcache.results.page import Bars
from deapcache.results.panels import VOID, backdrop, painter, value_range

Extent = tuple[float, float, float, float]
"""Left, right, bottom and top of a part of the image, in fractions of the image from its upper left corner."""

WHOLE: Extent = (0, 1, 1, 0)
"""Of what covers the whole image, whatever its resolution."""

_BOXES = 10
"""Boxes that are drawn, the best: scores of different readouts differ by orders of magnitude."""

_COMPONENTS = 3


def prediction_panels(
    kind: str, classes: Sequence[str], image: np.ndarray, predictions: Sequence[np.ndarray]
) -> PredictionPanels:
    """The panels for a kind of picture (``Task.picture``), of ``predictions`` as ``Task.prediction`` gives them."""
    panels: dict[str, Callable[[], PredictionPanels]] = {
        "probability": lambda: MapPanels(predictions, ScalarMappable(Normalize(0, 1), "cividis"), "probability"),
        "classes": lambda: ClassMapPanels(predictions, classes),
        "depth": lambda: MapPanels(predictions, _depth_scale(predictions), "depth [m]"),
        "boxes": lambda: BoxListPanels(predictions, image),
        "segments": lambda: EmbeddingPanels(predictions),
    }
    if kind not in panels:
        return PaintedPanels([painter(kind)(one) for one in predictions], {}, ())
    return panels[kind]()


class PredictionPanels(ABC):
    """Draws one image's predictions; knows what explains their colours."""

    legend: Mapping[str, str]
    """Name → colour."""
    bars: Bars
    note: str = ""
    """What neither legend nor bars can say."""

    @abstractmethod
    def draw(self, axis: Axes, place: int, size: tuple[int, int], extent: Extent) -> None:
        """Put the prediction at ``place``, which is about the ``extent``, on ``axis`` of ``size`` (height, width)."""


class PaintedPanels(PredictionPanels):
    """Predictions of a colour for each pixel."""

    def __init__(self, painted: Sequence[np.ndarray], legend: Mapping[str, str], bars: Bars) -> None:
        self._painted = painted
        self.legend = legend
        self.bars = bars

    def draw(self, axis: Axes, place: int, size: tuple[int, int], extent: Extent) -> None:
        show_image(axis, self._painted[place], size, extent)


class MapPanels(PaintedPanels):
    """One number per pixel."""

    def __init__(self, predictions: Sequence[np.ndarray], scale: ScalarMappable, label: str) -> None:
        super().__init__([scale.to_rgba(one)[..., :3] for one in predictions], {}, ((scale, label),))


class ClassMapPanels(PaintedPanels):
    """One class per pixel."""

    def __init__(self, predictions: Sequence[np.ndarray], classes: Sequence[str]) -> None:
        colours = palette.class_colours(predictions, classes, VOID)
        named = {classes[value]: colour for value, colour in colours.items() if colour != palette.OTHER}
        others = {f"{len(colours) - len(named)} other classes": palette.OTHER} if len(named) < len(colours) else {}
        table = np.zeros((len(classes), 3))
        for value, colour in colours.items():
            table[value] = palette.rgb(colour)
        super().__init__([table[one] for one in predictions], {**named, **others}, ())


class EmbeddingPanels(PaintedPanels):
    """An embedding per pixel, (D, h, w), as the colour that its first three principal components give."""

    note = "red, green and blue are the first three principal components of the embedding"

    def __init__(self, predictions: Sequence[np.ndarray]) -> None:
        super().__init__(principal_colours(predictions), {}, ())


class BoxListPanels(PredictionPanels):
    """The best boxes (x, y, width, height as fractions of the image, and score) over the image, by score."""

    legend = {}  # noqa: RUF012 - a Mapping is not changed
    note = f"the {_BOXES} best boxes"

    def __init__(self, predictions: Sequence[np.ndarray], image: np.ndarray) -> None:
        self._found = [one[one[:, 4] > 0][:_BOXES] for one in predictions]
        self._backdrop = backdrop(image, image.shape[:2])
        highest = max((float(one[:, 4].max()) for one in self._found if len(one)), default=1.0)
        self._scale = ScalarMappable(Normalize(0, highest), "plasma")
        self.bars = ((self._scale, "score"),)

    def draw(self, axis: Axes, place: int, size: tuple[int, int], extent: Extent) -> None:
        show_image(axis, self._backdrop, size)
        for box in self._found[place][::-1]:  # the best ones on top
            outline(axis, box[None, :4], to_hex(tuple(self._scale.to_rgba(box[4]))))


def principal_colours(embeddings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(h, w, 3) in [0, 1] from each (D, h, w): the first three principal components of all, as red, green and blue.

    Axes and ranges are shared, so that a colour means the same in each; all weigh the same, however many pixels they
    have. A component's sign is chosen so that its largest part is positive.
    """
    points = [one.reshape(len(one), -1).T.astype(np.float64) for one in embeddings]
    mean = np.mean([one.mean(0) for one in points], axis=0)
    covariance = np.mean([(one - mean).T @ (one - mean) / len(one) for one in points], axis=0)
    axes = np.linalg.eigh(covariance)[1][:, : -_COMPONENTS - 1 : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    components = [(one - mean) @ axes for one in points]
    ranges = [value_range(np.concatenate([one[:, place] for one in components])) for place in range(_COMPONENTS)]
    low, high = np.array(ranges).T
    scaled = [np.clip((one - low) / (high - low), 0, 1) for one in components]
    return [one.reshape(*whole.shape[1:], _COMPONENTS) for one, whole in zip(scaled, embeddings, strict=True)]


def show_image(axis: Axes, pixels: np.ndarray, size: tuple[int, int], extent: Extent = WHOLE) -> None:
    """Stretch (h, w, 3) over the ``extent`` of ``axis``, which has ``size`` pixels; each of few stays a rectangle."""
    left, right, bottom, top = extent
    is_enlarged = pixels.shape[0] <= size[0] * (bottom - top) and pixels.shape[1] <= size[1] * (right - left)
    axis.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest" if is_enlarged else "antialiased")


def mark_region(axis: Axes, beside: np.ndarray, extent: Extent) -> None:
    """Frame the ``extent`` that predictions are about; ``beside`` (h, w, 3) shows where nothing else was drawn."""
    axis.imshow(beside, extent=WHOLE, aspect="auto", zorder=-1)
    axis.set_xlim(0, 1)
    axis.set_ylim(1, 0)
    left, right, bottom, top = extent
    outline(axis, np.array([[left, top, right - left, bottom - top]]), palette.VOID, dashed=True)


def _depth_scale(predictions: Sequence[np.ndarray]) -> ScalarMappable:
    return ScalarMappable(Normalize(*value_range(np.concatenate([one.ravel() for one in predictions]))), "viridis")
