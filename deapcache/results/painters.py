"""Painters: from predictions to colours, alone or beside their targets.

A task names its painter in ``Task.picture``: one of :data:`PAINTERS`, or a label type of ``deapcache.annotations``,
which plugins add, and whose ``paint`` then draws it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from deapcache.annotations import VOID, get_annotation
from deapcache.errors import UsageError

DISTINCT = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#332288", "#AA4499", "#999933",
    "#882255", "#88CCEE",
)  # fmt: skip
"""Colours that can be told apart with any colour vision: Okabe and Ito's seven, then those of Tol's muted ones that
differ most from them."""

OTHER = "#9A9A9A"
"""Classes and instances beyond those that have a colour of their own."""

BLANK = "#FFFFFF"
"""Pixels without a label, and crowds."""

BACKGROUND = "#1F1F1F"

HIT = "#56B4E9"
MISSED = "#E69F00"
FALSE_ALARM = "#CC3311"

Bars = Sequence[tuple[ScalarMappable, str]]
"""Colour bars and their labels."""

Extent = tuple[float, float, float, float]
"""Left, right, bottom and top of a part of the image, in fractions of the image from its upper left corner."""

WHOLE: Extent = (0, 1, 1, 0)
"""Of what covers the whole image, whatever its resolution."""

_OBJECT, _CROWD_BOX = 1, 2
"""Fifth number of a target's boxes; 0 is a row without a box."""
_CROWD = -1
"""Instance id of crowds."""
_OVERLAP = 0.5
"""Least IoU of a hit."""
_BEST_BOXES = 10
"""Boxes that are drawn without a target: scores of different readouts differ by orders of magnitude, so that no
threshold would suit all of them."""
_PERCENTILES = (1, 99)
"""Range of values that get colours of their own: a single outlier must not take all the contrast."""


@dataclass
class Painter(ABC):
    """Draws all predictions of one picture in the same colours."""

    note: ClassVar[str] = ""
    """What neither legend nor bars can say of predictions without targets."""

    picture: str
    """``Task.picture``."""
    predictions: Sequence[np.ndarray]
    """As ``Task.prediction`` gives them, or as ``Task.picture_values`` where there are targets."""
    targets: Sequence[np.ndarray] | None
    """As ``Task.picture_values`` gives them; ``None`` where the truth is not known."""
    images: Sequence[np.ndarray] | None
    """The image (h, w, 3) uint8 RGB that each prediction is of; ``None`` where there are none."""
    classes: Sequence[str]
    """Names of the classes; empty without a class map."""
    legend: Mapping[str, str] = field(init=False, default_factory=dict)
    """Name → colour."""
    bars: Bars = field(init=False, default=())

    def __post_init__(self) -> None:
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Choose colours for all that is shown: set ``legend`` and ``bars``."""

    @abstractmethod
    def draw(self, axis: Axes, place: int, size: tuple[int, int], extent: Extent = WHOLE) -> None:
        """Draw the prediction at ``place``, which is about ``extent``, on ``axis`` of ``size`` (height, width)."""

    @abstractmethod
    def compare(self, axes: Sequence[Axes], place: int) -> Sequence[str]:
        """Draw target, prediction and errors at ``place`` on three axes; returns their titles."""

    def _pair(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """The target and the prediction at ``place``."""
        assert self.targets is not None
        return self.targets[place], self.predictions[place]

    def _backdrop(self, place: int, size: Sequence[int]) -> np.ndarray:
        return backdrop(None if self.images is None else self.images[place], size)


def make_painter(
    picture: str,
    predictions: Sequence[np.ndarray],
    *,
    targets: Sequence[np.ndarray] | None = None,
    images: Sequence[np.ndarray] | None = None,
    classes: Sequence[str] = (),
) -> Painter:
    """The painter of that name, see :class:`Painter`; ``picture`` is ``Task.picture``.

    Raises ``UnknownNameError`` for one that is neither in :data:`PAINTERS` nor a label type, and :class:`UsageError`
    for a label type that does not say how it is painted.
    """
    return PAINTERS.get(picture, LabelPainter)(picture, predictions, targets, images, classes)


class MapPainter(Painter):
    """A colour for each pixel."""

    titles: ClassVar[tuple[str, str, str]] = ("target", "prediction", "wrong pixels")

    @abstractmethod
    def paint(self, values: np.ndarray) -> np.ndarray:
        """(h, w, 3) of a prediction or a target."""

    @abstractmethod
    def paint_errors(self, place: int, valid: np.ndarray) -> np.ndarray:
        """(h, w, 3); ``valid`` (h, w) says which pixels have a label."""

    def valid(self, target: np.ndarray) -> np.ndarray:
        """(h, w) bool: the pixels that have a label."""
        return np.asarray(target != VOID)

    def draw(self, axis: Axes, place: int, size: tuple[int, int], extent: Extent = WHOLE) -> None:
        show_image(axis, self.paint(self.predictions[place]), size, extent)

    def compare(self, axes: Sequence[Axes], place: int) -> Sequence[str]:
        target, prediction = self._pair(place)
        valid = self.valid(target)
        axes[0].imshow(_blanked(self.paint(target), ~valid))
        axes[1].imshow(self.paint(prediction))
        axes[2].imshow(self.paint_errors(place, valid))
        return self.titles


class ProbabilityPainter(MapPainter):
    """One probability per pixel, judged at 0.5; targets are 0, 1 and 255 (void)."""

    titles = ("target", "prediction", "prediction > 0.5")

    def prepare(self) -> None:
        self._scale = ScalarMappable(Normalize(0, 1), "cividis")
        self.bars = ((self._scale, "probability"),)
        if self.targets is not None:
            self.legend = {"hit": HIT, "missed": MISSED, "false alarm": FALSE_ALARM, "void": BLANK}

    def paint(self, values: np.ndarray) -> np.ndarray:
        return _coloured(self._scale, values)

    def paint_errors(self, place: int, valid: np.ndarray) -> np.ndarray:
        target, prediction = self._pair(place)
        said, true = prediction > 0.5, target == 1
        painted = self._backdrop(place, target.shape)
        painted[said & true] = to_rgb(HIT)
        painted[~said & true] = to_rgb(MISSED)
        painted[said & ~true] = to_rgb(FALSE_ALARM)
        return _blanked(painted, ~valid)


class ClassPainter(MapPainter):
    """One class per pixel; 255 in targets is void."""

    def prepare(self) -> None:
        maps = [*self.predictions, *(self.targets or ())]
        self._colours = class_colours(maps, self.classes)
        named = {self.classes[value]: colour for value, colour in self._colours.items() if colour != OTHER}
        others = len(self._colours) - len(named)
        self.legend = {
            **named,
            **({f"{others} other classes": OTHER} if others else {}),
            **({} if self.targets is None else {"void": BLANK, "wrong": FALSE_ALARM}),
        }

    def paint(self, values: np.ndarray) -> np.ndarray:
        return _painted(values, self._colours, BLANK)

    def paint_errors(self, place: int, valid: np.ndarray) -> np.ndarray:
        target, prediction = self._pair(place)
        return _tinted(self._backdrop(place, target.shape), (prediction != target) & valid)


class DepthPainter(MapPainter):
    """Metres per pixel; 0 in targets is unknown."""

    titles = ("target", "prediction", "absolute error")

    def prepare(self) -> None:
        shown = [np.ravel(one) for one in self.predictions]
        if self.targets is not None:
            shown += [one[self.valid(one)] for one in self.targets]
        self._depth = ScalarMappable(Normalize(*value_range(shown)), "viridis")
        self.bars = ((self._depth, "depth [m]"),)
        if self.targets is not None:
            pairs = zip(self.predictions, self.targets, strict=True)
            errors = [np.abs(prediction - target)[self.valid(target)] for prediction, target in pairs]
            self._error = ScalarMappable(Normalize(0, value_range(errors)[1]), "magma")
            self.bars = (*self.bars, (self._error, "error [m]"))
            self.legend = {"unknown": BLANK}

    def valid(self, target: np.ndarray) -> np.ndarray:
        return np.asarray(target > 0)

    def paint(self, values: np.ndarray) -> np.ndarray:
        return _coloured(self._depth, values)

    def paint_errors(self, place: int, valid: np.ndarray) -> np.ndarray:
        target, prediction = self._pair(place)
        return _blanked(_coloured(self._error, np.abs(prediction - target)), ~valid)


class LabelPainter(MapPainter):
    """Labels of a type that says how it is painted; errors are the mean absolute difference of a pixel's numbers."""

    titles = ("target", "prediction", "absolute difference")

    def prepare(self) -> None:
        paint = get_annotation(self.picture).paint
        if paint is None:
            raise UsageError(f"label type {self.picture!r} has no paint, which a picture of it needs")
        self._paint = paint

    def valid(self, target: np.ndarray) -> np.ndarray:
        return np.ones(target.shape[:2], bool)

    def paint(self, values: np.ndarray) -> np.ndarray:
        return self._paint(values)

    def paint_errors(self, place: int, valid: np.ndarray) -> np.ndarray:
        target, prediction = self._pair(place)
        difference = np.abs(prediction.astype(np.float64) - target).reshape(*target.shape[:2], -1).mean(-1)
        return _coloured(ScalarMappable(cmap="magma"), difference)


class BoxPainter(Painter):
    """Boxes (x, y, width, height as fractions of the image, and a fifth number).

    The fifth is 1 for a target's object, 2 for a crowd, 0 for none, and the score of a prediction, the best first.
    Beside targets as many predictions are shown as there are objects, and at least one.
    """

    note = f"the {_BEST_BOXES} best boxes"
    _BOX = DISTINCT[3]

    def prepare(self) -> None:
        if self.targets is not None:
            self.legend = {
                "box": self._BOX, "crowd": BLANK, "hit": HIT, "missed": MISSED, "false alarm": FALSE_ALARM,
            }  # fmt: skip
            return
        highest = max((float(one[:, 4].max()) for one in self.predictions if (one[:, 4] > 0).any()), default=1.0)
        self._score = ScalarMappable(Normalize(0, highest), "plasma")
        self.bars = ((self._score, "score"),)

    def draw(self, axis: Axes, place: int, size: tuple[int, int], extent: Extent = WHOLE) -> None:
        assert self.images is not None
        show_image(axis, self._backdrop(place, self.images[place].shape[:2]), size)
        boxes = self.predictions[place]
        for box in boxes[boxes[:, 4] > 0][:_BEST_BOXES][::-1]:  # the best ones on top
            outline(axis, box[None, :4], to_hex(tuple(self._score.to_rgba(box[4]))))

    def compare(self, axes: Sequence[Axes], place: int) -> Sequence[str]:
        target, prediction = self._pair(place)
        objects, crowds = (target[target[:, 4] == kind, :4] for kind in (_OBJECT, _CROWD_BOX))
        found = prediction[prediction[:, 4] > 0, :4][: max(1, len(objects))]
        pixels = self._backdrop(place, (64, 64) if self.images is None else self.images[place].shape[:2])
        for axis in axes:
            axis.imshow(pixels, extent=WHOLE, aspect="auto")
        outline(axes[0], crowds, BLANK, dashed=True)
        outline(axes[0], objects, self._BOX)
        outline(axes[1], found, self._BOX)
        is_found, is_hit, is_alarm = judge_boxes(objects, crowds, found)
        outline(axes[2], objects[~is_found], MISSED, dashed=True)
        outline(axes[2], found[is_alarm], FALSE_ALARM)
        outline(axes[2], found[is_hit], HIT)
        return "target", "best boxes, as many", "IoU ≥ 0.5"


class SegmentPainter(Painter):
    """Instances of an image: clusters beside their targets, embeddings (D, h, w) where there are none.

    Targets are ids above 0, 0 for background and -1 for crowds; an image's instances have colours of their own, the
    largest first. Clusters are numbered from 1, 0 outside of the instances, and each has the colour of the instance
    that :func:`match_clusters` gives it. Embeddings are shown by :func:`principal_colours`.
    """

    note = "red, green and blue are the first three principal components of the embedding"

    def prepare(self) -> None:
        if self.targets is None:
            self._embeddings, _ = principal_colours([np.moveaxis(one, 0, -1) for one in self.predictions])
            return
        is_crowded = any(OTHER in instance_colours(target).values() for target in self.targets)
        self.legend = {
            **({"smaller instances": OTHER} if is_crowded else {}),
            "background": BACKGROUND,
            "crowd": BLANK,
            "wrong": FALSE_ALARM,
        }

    def draw(self, axis: Axes, place: int, size: tuple[int, int], extent: Extent = WHOLE) -> None:
        show_image(axis, self._embeddings[place], size, extent)

    def compare(self, axes: Sequence[Axes], place: int) -> Sequence[str]:
        target, prediction = self._pair(place)
        colours = {**instance_colours(target), _CROWD: BLANK}
        found = match_clusters(target, prediction)
        axes[0].imshow(_painted(target, colours, BACKGROUND))
        axes[1].imshow(_painted(np.where(target == _CROWD, _CROWD, found), colours, BACKGROUND))
        axes[2].imshow(_tinted(self._backdrop(place, target.shape), (target > 0) & (found != target)))
        return "instances", "clusters, matched", "wrong pixels"


PAINTERS: Mapping[str, type[Painter]] = {
    "probability": ProbabilityPainter,
    "classes": ClassPainter,
    "depth": DepthPainter,
    "boxes": BoxPainter,
    "segments": SegmentPainter,
}
"""By ``Task.picture``."""


def class_colours(maps: Sequence[np.ndarray], classes: Sequence[str]) -> dict[int, str]:
    """A colour for each class that occurs in ``maps``, the most frequent first; a background class is dark."""
    values = np.concatenate([np.ravel(each) for each in maps])
    found, counts = np.unique(values[(values != VOID) & (values >= 0) & (values < len(classes))], return_counts=True)
    by_size = [int(value) for value in found[np.argsort(-counts, kind="stable")]]
    background = [value for value in by_size if classes[value] == "background"]
    return dict.fromkeys(background, BACKGROUND) | _distinct([one for one in by_size if one not in background])


def instance_colours(instances: np.ndarray) -> dict[int, str]:
    """A colour for each instance of a map; all but the largest share one."""
    ids, pixels = np.unique(instances[instances > 0], return_counts=True)
    return _distinct([int(one) for one in ids[np.argsort(-pixels, kind="stable")]])


def _distinct(values: Sequence[int]) -> dict[int, str]:
    return {value: DISTINCT[i] if i < len(DISTINCT) else OTHER for i, value in enumerate(values)}


def judge_boxes(
    objects: np.ndarray, crowds: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which objects are found, which of the boxes found are hits, and which are false alarms.

    Boxes are (n, 4); those found, the best first, take the object left that they overlap most, if by an IoU of at least
    0.5. One that lies in a crowd by half and takes none is neither hit nor false alarm.
    """
    from pycocotools.mask import iou

    def overlaps(boxes: np.ndarray, *, crowd: bool) -> np.ndarray:
        """(found, boxes): IoU, or with crowds the share of the box found; no rows where there is nothing."""
        given = [np.ascontiguousarray(each, np.float64) for each in (found, boxes)]
        return np.reshape(iou(*given, np.full(len(boxes), crowd, np.uint8)), (len(found), len(boxes)))

    is_found, is_hit = np.zeros(len(objects), bool), np.zeros(len(found), bool)
    for place, row in enumerate(overlaps(objects, crowd=False)):
        left = np.where(is_found, 0.0, row)
        if left.max(initial=0.0) >= _OVERLAP:
            is_hit[place] = is_found[left.argmax()] = True
    in_crowd = (overlaps(crowds, crowd=True) >= _OVERLAP).any(1)
    return is_found, is_hit, ~is_hit & ~in_crowd


def match_clusters(instances: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """``clusters`` (h, w) as ids of the instances that they are matched with one to one; 0 outside of all clusters.

    The matching is the one under which the most pixels are right. There must not be more clusters than instances.
    """
    from scipy.optimize import linear_sum_assignment

    inside = instances > 0
    ids, which_id = np.unique(instances[inside], return_inverse=True)
    labels, which_label = np.unique(clusters[inside], return_inverse=True)
    together = np.zeros((len(labels), len(ids)), np.int64)
    np.add.at(together, (which_label, which_id), 1)
    matched = dict(zip(*linear_sum_assignment(together, maximize=True), strict=True))
    found = np.zeros_like(instances)
    found[inside] = np.array([ids[matched[i]] for i in range(len(labels))], instances.dtype)[which_label]
    return found


def principal_colours(volumes: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, ...]]:
    """The first three principal components over the cells of all ``volumes`` (..., D), as red, green and blue.

    Returns (..., 3) in [0, 1] for each volume, and each component's share of the variance. Axes and ranges (1st to 99th
    percentile) are shared, so that a colour means the same in each; volumes weigh the same, however many cells they
    have. A component's sign is such that its largest weight is positive, so that the same features always give the same
    colours. A component without variance is 0.5, its share 0.
    """
    cells = [one.reshape(-1, one.shape[-1]).astype(np.float64) for one in volumes]
    mean = np.mean([one.mean(0) for one in cells], axis=0)
    covariance = np.mean([(one - mean).T @ (one - mean) / len(one) for one in cells], axis=0)
    variances, vectors = np.linalg.eigh(covariance)
    first = np.argsort(variances)[::-1][:3]
    chosen = vectors[:, first]
    chosen = chosen * np.where(chosen[np.abs(chosen).argmax(0), np.arange(len(first))] < 0, -1.0, 1.0)
    missing = 3 - len(first)
    scores = [np.pad((one - mean) @ chosen, ((0, 0), (0, missing))) for one in cells]
    every = np.concatenate(scores)
    low, high = np.percentile(every, _PERCENTILES, axis=0)
    is_flat = high - low <= 1e-12 * max(1.0, float(np.abs(every).max(initial=0.0)))
    width = np.where(is_flat, 1.0, high - low)
    colours = [np.where(is_flat, 0.5, np.clip((one - low) / width, 0, 1)) for one in scores]
    total = float(variances.clip(0).sum()) or 1.0
    shares = (*(max(float(variances[place]), 0.0) / total for place in first), *[0.0] * missing)
    return [one.reshape(*whole.shape[:-1], 3) for one, whole in zip(colours, volumes, strict=True)], shares


def value_range(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The range of most values, 0 to 1 where there are none."""
    every = np.concatenate(list(values))
    low, high = np.percentile(every, _PERCENTILES) if every.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def backdrop(image: np.ndarray | None, size: Sequence[int]) -> np.ndarray:
    """(h, w, 3) in [0, 1]: the image in pale grey, so that colours on it stand out; dark without an image."""
    height, width = size
    if image is None:
        return np.full((height, width, 3), 0.15)
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    grey = image[rows][:, columns].mean(-1, keepdims=True) / 255
    return np.repeat(0.15 + 0.6 * grey, 3, axis=-1)


def _coloured(scale: ScalarMappable, values: np.ndarray) -> np.ndarray:
    painted: np.ndarray = scale.to_rgba(values)[..., :3]
    return painted


def _painted(values: np.ndarray, colours: Mapping[int, str], other: str) -> np.ndarray:
    """(h, w, 3) in [0, 1]: each value in its colour, those without one in ``other``."""
    painted = np.empty((*values.shape, 3))
    painted[:] = to_rgb(other)
    for value, colour in colours.items():
        painted[values == value] = to_rgb(colour)
    return painted


def _tinted(pixels: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """``pixels`` (h, w, 3) in [0, 1], nearly covered where they are ``wrong`` (h, w)."""
    return np.where(wrong[..., None], 0.15 * pixels + 0.85 * np.asarray(to_rgb(FALSE_ALARM)), pixels)


def _blanked(painted: np.ndarray, where: np.ndarray) -> np.ndarray:
    if where.any():
        painted[where] = to_rgb(BLANK)
    return painted


def show_image(axis: Axes, pixels: np.ndarray, size: tuple[int, int], extent: Extent = WHOLE) -> None:
    """Stretch (h, w, 3) over the ``extent`` of ``axis``, which has ``size`` pixels; each of few stays a rectangle."""
    left, right, bottom, top = extent
    is_enlarged = pixels.shape[0] <= size[0] * (bottom - top) and pixels.shape[1] <= size[1] * (right - left)
    axis.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest" if is_enlarged else "antialiased")


def outline(axis: Axes, boxes: np.ndarray, colour: str, *, dashed: bool = False) -> None:
    """Draw the frames of boxes (n, 4)."""
    for x, y, width, height in boxes:
        frame = Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.3)
        frame.set_linestyle((0, (4, 2)) if dashed else "-")
        # a dark rim, so that it can be told from a light picture, too
        frame.set_path_effects([withStroke(linewidth=2.4, foreground="#000000", alpha=0.6)])
        axis.add_patch(frame)
