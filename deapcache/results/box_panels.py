"""What the columns of a picture show for detection: boxes over the image, and which of them are right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from deapcache.results import palette
from deapcache.results.panels import Panels, Row, backdrop

_OBJECT, _CROWD = 1, 2
_OVERLAP = 0.5
_BOX = palette.DISTINCT[3]
_WITHOUT_IMAGE = (64, 64)


class BoxPanels(Panels):
    """Boxes (x, y, width, height as fractions of the image, and a fifth number).

    The fifth is 1 for a target's object, 2 for a crowd, 0 for none, and the score of a prediction, the best first. Of
    the predictions as many are shown as there are objects, and at least one: scores of different readouts differ by
    orders of magnitude, and no threshold would suit them all.
    """

    bars = ()
    legend = {  # noqa: RUF012 - a Mapping is not changed
        "box": _BOX,
        "crowd": palette.VOID,
        "hit": palette.HIT,
        "missed": palette.MISSED,
        "false alarm": palette.FALSE_ALARM,
    }

    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        objects, crowds = (row.target[row.target[:, 4] == kind, :4] for kind in (_OBJECT, _CROWD))
        found = row.prediction[row.prediction[:, 4] > 0, :4][: max(1, len(objects))]
        picture = backdrop(row.image, _WITHOUT_IMAGE if row.image is None else row.image.shape[:2])
        for axis in axes:
            axis.imshow(picture, extent=(0, 1, 1, 0), aspect="auto")
        outline(axes[0], crowds, palette.VOID, dashed=True)
        outline(axes[0], objects, _BOX)
        outline(axes[1], found, _BOX)
        is_found, is_hit, is_alarm = judge(objects, crowds, found)
        outline(axes[2], objects[~is_found], palette.MISSED, dashed=True)
        outline(axes[2], found[is_alarm], palette.FALSE_ALARM)
        outline(axes[2], found[is_hit], palette.HIT)
        return ["target", "best boxes, as many", "IoU ≥ 0.5"]


def judge(objects: np.ndarray, crowds: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which objects are found, which of the boxes found are hits, and which are false alarms.

    Boxes are (n, 4); those found, the best first, take the object left that they overlap most, if by an IoU of at least
    0.5. One that lies in a crowd by half and takes none is neither hit nor false alarm.
    """
    is_found, is_hit = np.zeros(len(objects), bool), np.zeros(len(found), bool)
    both = _intersections(found, objects)
    shares = both / (_areas(found)[:, None] + _areas(objects) - both)
    for place, share in enumerate(shares):
        left = np.where(is_found, 0.0, share)
        if left.max(initial=0.0) >= _OVERLAP:
            is_hit[place] = is_found[left.argmax()] = True
    in_crowd = (_intersections(found, crowds) >= _OVERLAP * _areas(found)[:, None]).any(1)
    return is_found, is_hit, ~is_hit & ~in_crowd


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2] * boxes[:, 3], 1e-12)


def _intersections(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n, m): the area that each pair of boxes shares."""
    corner = np.maximum(left[:, None, :2], right[None, :, :2])
    opposite = np.minimum((left[:, :2] + left[:, 2:])[:, None], (right[:, :2] + right[:, 2:])[None])
    sides: np.ndarray = np.maximum(opposite - corner, 0)
    return sides.prod(-1)


def outline(axis: Axes, boxes: np.ndarray, colour: str, *, dashed: bool = False) -> None:
    for x, y, width, height in boxes:
        frame = Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.3)
        frame.set_linestyle((0, (4, 2)) if dashed else "-")
        # a dark rim, so that it can be told from a light picture, too
        frame.set_path_effects([withStroke(linewidth=2.4, foreground="#000000", alpha=0.6)])
        axis.add_patch(frame)
