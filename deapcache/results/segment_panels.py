"""What the columns of a picture show for instance discrimination: instances, and clusters in their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from deapcache.results import palette
from deapcache.results.panels import Panels, Row, tinted

_CROWD = -1


class SegmentPanels(Panels):
    """Instances of each image (ids above 0, 0 background, -1 crowd) and as many clusters (from 1 on) of its foreground.

    An image's instances have colours of their own, the largest first. Each cluster has the colour of the instance that
    :func:`match_clusters` gives it.
    """

    bars = ()

    def __init__(self, targets: np.ndarray) -> None:
        crowded = max(len(_by_size(target)) for target in targets) > len(palette.DISTINCT)
        self.legend = {
            **({"smaller instances": palette.OTHER} if crowded else {}),
            "background": palette.BACKGROUND,
            "crowd": palette.VOID,
            "wrong": palette.FALSE_ALARM,
        }

    def draw_maps(self, axes: Sequence[Axes], row: Row) -> list[str]:
        colours = instance_colours(row.target)
        found = match_clusters(row.target, row.prediction)
        axes[0].imshow(_painted(row.target, colours))
        axes[1].imshow(_painted(np.where(row.target == _CROWD, _CROWD, found), colours))
        wrong = np.where((row.target > 0) & (found != row.target), 1.0, 0.0)
        axes[2].imshow(tinted(row, wrong, palette.FALSE_ALARM))
        return ["instances", "clusters, matched", "wrong pixels"]


def instance_colours(instances: np.ndarray) -> dict[int, str]:
    """A colour for each instance of a map; all but the largest share one."""
    ids = _by_size(instances)
    return {one: palette.DISTINCT[i] if i < len(palette.DISTINCT) else palette.OTHER for i, one in enumerate(ids)}


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


def _by_size(instances: np.ndarray) -> list[int]:
    """Ids of an (h, w) map, the largest instance first."""
    ids, pixels = np.unique(instances[instances > 0], return_counts=True)
    return [int(one) for one in ids[np.argsort(-pixels, kind="stable")]]


def _painted(values: np.ndarray, colours: Mapping[int, str]) -> np.ndarray:
    """(h, w, 3) in [0, 1]: instances on a dark ground, crowds blank."""
    painted = np.empty((*values.shape, 3))
    painted[:] = palette.rgb(palette.BACKGROUND)
    for value, colour in {**colours, _CROWD: palette.VOID}.items():
        painted[values == value] = palette.rgb(colour)
    return painted
