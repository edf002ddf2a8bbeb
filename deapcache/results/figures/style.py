"""What all figures share: the canvas, the style of axes, the marks of categories, and legends.

Figures are made directly, never through pyplot: nothing global is touched, and threads may draw at once.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from deapcache.results.figures.groups import Point
from deapcache.results.figures.labels import NAME, Label, place_labels
from deapcache.results.fonts import LiteralFigure, drawable, literal_legend

WIDTH = 7.0
"""Inches: the text width of a page, so that the sizes of type below are those in print."""

SMALL, NORMAL, LARGE = 6.5, 7.5, 8
"""Points: names of single points and notes; ticks, axes and legends; panel titles."""

GREY = "#555555"
_GRID = "#E4E4E4"
_DPI = 220
_CHARACTERS_PER_INCH = 20
_MOST_COLUMNS = 6
"""Of a legend."""
_LINE = 0.125
"""Height of a line of a note, inches."""
_TRIES = 4
"""At breaking what is too long: panels may get narrower by it."""
_NARROWEST = 8
"""Characters of a line that is not broken further."""

WIDE, _TALL = "_wide", "_tall"
"""Labels of texts that must fit the width or the height of their panel."""

_SAVED: Any = {"pdf.fonttype": 42, "svg.hashsalt": "deapcache"}
"""TrueType in PDF, which journals ask for; the same SVG from the same numbers."""


class Mark(NamedTuple):
    """Colour and shape; each tells marks apart without the other."""

    colour: str
    shape: str


MARKS: Mapping[str, Mark] = {
    "supervised": Mark("#0072B2", "o"),
    "self-supervised": Mark("#D55E00", "s"),
    "vision-language": Mark("#009E73", "^"),
    "checkpoint": Mark("#E69F00", "v"),
    "untrained": Mark("#777777", "D"),
    "other": Mark("#CC79A7", "P"),
}
"""Of :data:`deapcache.results.frame.CATEGORIES`, in their order; from the colours of Okabe and Ito."""

PAPER = Mark("#444444", "o")
"""A number of the paper, where its category is not shown; drawn hollow."""


class Canvas:
    """A figure of ``WIDTH`` × ``height`` inches, without its notes, whose parts find their own room.

    ``panels`` first, then what belongs on them; ``save`` last.
    """

    def __init__(self, height: float, *, gap: float = 0.04) -> None:
        # gap: inches around each panel with its labels
        self._engine = ConstrainedLayoutEngine(w_pad=gap, h_pad=gap, wspace=0.02, hspace=0.02)
        self.figure = LiteralFigure(figsize=(WIDTH, height), dpi=_DPI, layout=self._engine)
        self.agg = FigureCanvasAgg(self.figure)
        self._labels: dict[Axes, list[Label]] = {}
        self._unnamed: list[str] = []
        self._notes: list[str] = []
        self._height = height
        self._finished = False

    def panels(
        self,
        rows: int,
        columns: int,
        *,
        heights: Sequence[float] | None = None,
        sharex: bool = False,
        sharey: Literal["row"] | bool = False,
    ) -> list[list[Axes]]:
        """``rows`` × ``columns`` axes; ``heights`` of the rows relative to each other, axes shared as in matplotlib."""
        grid = self.figure.subplots(rows, columns, squeeze=False, height_ratios=heights, sharex=sharex, sharey=sharey)
        for axis in grid.flat:
            axis.spines[["top", "right"]].set_visible(False)
            axis.spines[["left", "bottom"]].set_color(GREY)
            axis.tick_params(labelsize=NORMAL, color=GREY, length=2.5, width=0.6)
            axis.grid(color=_GRID, linewidth=0.6)
            axis.set_axisbelow(True)
        return [list(line) for line in grid]

    def legend(self, handles: Sequence[Artist]) -> None:
        """What marks mean, above all panels, in as many columns as there is room for; nothing for no handles."""
        for columns in range(min(len(handles), _MOST_COLUMNS), 0, -1):
            made = literal_legend(
                self.figure, handles, loc="outside upper left", ncols=columns, fontsize=NORMAL, frameon=False,
                handletextpad=0.4, columnspacing=1.4, borderpad=0.1,
            )  # fmt: skip
            if made.get_window_extent(self.agg.get_renderer()).width <= self.figure.bbox.width:
                return
            made.remove()

    def note(self, *lines: str) -> None:
        """Sentences beneath all panels, once each; empty ones are left out."""
        self._notes += [line for line in dict.fromkeys(lines) if line and line not in self._notes]

    def label(self, axis: Axes, labels: Sequence[Label]) -> None:
        """Names beside points of ``axis``, put where nothing else is once everything has its place."""
        self._labels.setdefault(axis, []).extend(labels)

    def points(self, axis: Axes, x: Sequence[float], points: Sequence[Point], *, hollow: bool = False) -> None:
        """Scores over ``x`` with their bars, in the marks of their categories and with their names."""
        for at, point in zip(x, points, strict=True):
            style = mark_style(MARKS[point.category], hollow=hollow)
            axis.errorbar(at, point.score, yerr=point.bar or None, elinewidth=0.9, **style)
        self.label(axis, [Label(at, point.score, point.name) for at, point in zip(x, points, strict=True)])

    def finish(self) -> None:
        """Give everything its place; :meth:`save` does so by itself."""
        if self._finished:
            return
        self._finished = True
        while left_out := self._lay_out():  # the notes grow, so that all is placed anew
            self._unnamed += [label.text for label in left_out]
            self._labels = {
                axis: [one for one in labels if one not in left_out] for axis, labels in self._labels.items()
            }

    def save(self, form: str) -> bytes:
        """The figure as ``png``, ``svg`` or ``pdf``; the same bytes for the same numbers."""
        self.finish()
        undated: dict[str, dict[str, str | None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
        data = io.BytesIO()
        with matplotlib.rc_context(_SAVED):
            self.figure.savefig(data, format=form, metadata=undated[form])
        return data.getvalue()

    def _lay_out(self) -> list[Label]:
        """Place panels, notes and names; the names that found no room."""
        for axis in self._labels:
            for old in [text for text in axis.texts if text.get_label() == NAME]:
                old.remove()
        notes = list(self._notes)
        if self._unnamed:
            notes.append(f"points without a name, for want of room: {', '.join(dict.fromkeys(self._unnamed))}")
        if notes:
            room = int(WIDTH * _CHARACTERS_PER_INCH)
            lines = [line for note in notes for line in textwrap.wrap(drawable(note), room)]
            self.figure.set_size_inches(WIDTH, self._height + _LINE * len(lines))
            self.figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=GREY, linespacing=1.3)
        self._solve()
        renderer = self.agg.get_renderer()
        for _ in range(_TRIES):
            if not sum(_break_texts(axis, renderer) for axis in self.figure.axes):
                break
            self._solve()
        return [one for axis, labels in self._labels.items() for one in place_labels(axis, labels, renderer, SMALL)]

    def _solve(self) -> None:
        self.figure.set_layout_engine(self._engine)
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")


def two_columns(count: int, *, row: float, around: float) -> tuple[Canvas, list[Axes]]:
    """A canvas of ``count`` panels in up to two columns; inches of a row of them, and of what stands around all."""
    columns = min(2, count)
    rows = -(-count // columns)
    canvas = Canvas(around + rows * row)
    axes = [axis for line in canvas.panels(rows, columns) for axis in line]
    for axis in axes[count:]:
        axis.remove()
    return canvas, axes[:count]


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


def category_handles(categories: Iterable[str], *, paper: bool) -> list[Line2D]:
    """For a legend: the categories that are shown, and the paper's numbers where they are."""
    shown = set(categories)
    handles = [Line2D([], [], label=name, **mark_style(mark)) for name, mark in MARKS.items() if name in shown]
    return handles + ([paper_handle()] if paper else [])


def paper_handle() -> Line2D:
    """For a legend: hollow marks are the paper's numbers."""
    return Line2D([], [], label="hollow: the paper's number, as printed", **mark_style(PAPER, hollow=True))


def log_ticks(axis: Axes, *, most: int = 7) -> None:
    """A logarithmic x axis whose ticks are few and plain numbers; its limits must be final."""
    low, high = axis.get_xlim()
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for parts in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [part * 10.0**decade for decade in decades for part in parts if low <= part * 10.0**decade <= high]
        if len(ticks) <= most:
            break
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def name_axes(axis: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Write what a panel shows and what its axes are, with units; what is too long is broken."""
    if title:
        axis.set_title(title, fontsize=LARGE, loc="left", pad=5).set_label(WIDE)
    if x:
        axis.set_xlabel(x, fontsize=NORMAL, labelpad=3).set_label(WIDE)
    if y:
        axis.set_ylabel(y, fontsize=NORMAL, labelpad=3).set_label(_TALL)


def _break_texts(axis: Axes, renderer: RendererBase) -> bool:
    """Break titles and axis labels that are longer than their side of ``axis``; whether there were any."""
    frame, is_broken = axis.get_window_extent(renderer), False
    for text in axis.findobj(Text):
        if not isinstance(text, Text) or text.get_label() not in (WIDE, _TALL) or not text.get_text():
            continue
        extent, is_wide = text.get_window_extent(renderer), text.get_label() == WIDE
        share = frame.width / extent.width if is_wide else frame.height / extent.height
        lines = text.get_text().splitlines()
        room = max(int(share * max(map(len, lines))), _NARROWEST)
        shorter = "\n".join(part for line in lines for part in broken_lines(line, room))
        if share < 1 and shorter != text.get_text():
            text.set_text(shorter)
            is_broken = True
    return is_broken


def broken_lines(text: str, room: int) -> list[str]:
    """``text`` in lines of up to ``room`` characters, broken at spaces and at what joins the parts of names."""
    joined = re.split(r"(?<=[ :_/-])|(?=@)", text)
    lines = [""]
    for part in (piece for each in joined for piece in textwrap.wrap(each, room, drop_whitespace=False)):
        if len((lines[-1] + part).rstrip()) > room and lines[-1]:
            lines.append("")
        lines[-1] += part
    return [line.strip() for line in lines]
