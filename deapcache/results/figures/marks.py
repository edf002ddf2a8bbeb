"""Marks that mean the same in every figure: a colour and a shape for each category, hollow for the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from matplotlib.lines import Line2D

UNTRAINED, UNKNOWN = "untrained", "category not known"
PAPER = "hollow: the paper's number, as printed"


class Mark(NamedTuple):
    """Colour and shape; each tells marks apart without the other."""

    colour: str
    shape: str


CATEGORIES: Mapping[str, Mark] = {
    "supervised": Mark("#0072B2", "o"),
    "self-supervised": Mark("#D55E00", "s"),
    "vision-language": Mark("#009E73", "^"),
    UNTRAINED: Mark("#777777", "D"),
    UNKNOWN: Mark("#CC79A7", "P"),
}
"""In the order of the paper's Table 2, and from the colours of Okabe and Ito."""

SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
"""For what has no category; with :data:`deapcache.results.palette.DISTINCT`."""


def category_of(backbone: str) -> str:
    """The category of a backbone, one of :data:`CATEGORIES`: as it is registered here, without building anything."""
    from deapcache.backbones import BACKBONES

    if backbone.endswith("@untrained"):
        return UNTRAINED
    if backbone.startswith("open_clip:"):
        return "vision-language"
    if backbone not in BACKBONES:  # of timm, or of a plugin that is not installed here
        return UNKNOWN
    entry = BACKBONES.get(backbone)
    return UNTRAINED if entry.untrained else entry.category or UNKNOWN


def mark_style(mark: Mark, *, hollow: bool = False, size: float = 5) -> dict[str, Any]:
    """What ``Axes.plot`` takes to draw it."""
    return {
        "marker": mark.shape,
        "markersize": size,
        "markerfacecolor": "white" if hollow else mark.colour,
        "markeredgecolor": mark.colour if hollow else "white",
        "markeredgewidth": 1.0 if hollow else 0.4,
        "color": mark.colour,
        "linestyle": "none",
    }


def legend_of(categories: Iterable[str], *, paper: bool) -> list[Line2D]:
    """Handles for the categories that are shown, and for the paper's numbers where they are."""
    shown = set(categories)
    handles = [Line2D([], [], label=name, **mark_style(mark)) for name, mark in CATEGORIES.items() if name in shown]
    return handles + ([paper_handle()] if paper else [])


def paper_handle() -> Line2D:
    """What says that hollow marks are the paper's."""
    return Line2D([], [], label=PAPER, **mark_style(Mark("#444444", "o"), hollow=True))
