"""Colours that can be told apart with any colour vision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DISTINCT = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#332288", "#AA4499", "#999933",
    "#882255", "#88CCEE",
)  # fmt: skip
"""Okabe and Ito's seven, then Tol's muted ones that differ most from them."""

OTHER = "#9A9A9A"
"""Classes beyond those that have a colour of their own."""

VOID = "#FFFFFF"
"""Pixels without an answer."""

BACKGROUND = "#1F1F1F"

HIT = "#56B4E9"
MISSED = "#E69F00"
FALSE_ALARM = "#CC3311"


def rgb(colour: str) -> tuple[float, float, float]:
    """(red, green, blue) in [0, 1] of ``#RRGGBB``."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def class_colours(maps: Sequence[np.ndarray], classes: Sequence[str], void: int) -> dict[int, str]:
    """A colour for each class that occurs in ``maps``, the most frequent first; a background class is dark."""
    values = np.concatenate([np.asarray(each).ravel() for each in maps])
    found, counts = np.unique(values[(values != void) & (values >= 0) & (values < len(classes))], return_counts=True)
    by_size = [int(value) for value in found[np.argsort(-counts, kind="stable")]]
    background = [value for value in by_size if classes[value] == "background"]
    others = [value for value in by_size if classes[value] != "background"]
    colours = dict.fromkeys(background, BACKGROUND)
    colours |= {value: DISTINCT[i] if i < len(DISTINCT) else OTHER for i, value in enumerate(others)}
    return colours
