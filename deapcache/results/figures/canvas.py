"""The sheet that a figure is drawn on: one size of print, one style of axes, legends and notes, three file formats.

Figures are made directly, never through pyplot: nothing global is touched, and threads may draw at once.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from deapcache.results.figures.labels import Label, place_labels

WIDTH = 7.0
"""Inches: the text width of a page, so that the sizes of type below are those in print."""

SMALL, NORMAL, LARGE = 6.5, 7.5, 8.5
"""Points: names of single points and notes; ticks, axes and legends; panel titles."""

GREY = "#555555"
_GRID = "#E4E4E4"
_DPI = 220
_CHARACTERS_PER_INCH = 20
_SAVED: Any = {"pdf.fonttype": 42, "svg.hashsalt": "deapcache"}
"""TrueType in PDF, which journals ask for; the same SVG from the same numbers."""


class Canvas:
    """A figure of ``WIDTH`` × ``height`` inches whose parts find their own room.

    ``panels`` first, then what belongs on them; ``save`` last.
    """

    def __init__(self, height: float, *, gap: float = 0.04) -> None:
        # gap: inches around each panel with its labels
        self._engine = ConstrainedLayoutEngine(w_pad=gap, h_pad=gap, wspace=0.02, hspace=0.02)
        self.figure = Figure(figsize=(WIDTH, height), dpi=_DPI, layout=self._engine)
        self.agg = FigureCanvasAgg(self.figure)
        self._labels: dict[Axes, list[Label]] = {}
        self._notes: list[str] = []
        self._note: Text | None = None
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
            _style(axis)
        return [list(line) for line in grid]

    def legend(self, handles: Sequence[Artist], *, columns: int = 4) -> None:
        """What marks mean, above all panels; nothing for no handles."""
        if handles:
            self.figure.legend(
                handles=list(handles), loc="outside upper left", ncols=columns, fontsize=NORMAL, frameon=False,
                handletextpad=0.4, columnspacing=1.4, borderpad=0.1,
            )  # fmt: skip

    def note(self, *lines: str) -> None:
        """Sentences beneath all panels, once each; empty ones are left out."""
        self._notes += [line for line in lines if line and line not in self._notes]

    def label(self, axis: Axes, labels: Sequence[Label]) -> None:
        """Names beside points of ``axis``, put where nothing else is once everything has its place."""
        self._labels.setdefault(axis, []).extend(labels)

    def finish(self) -> None:
        """Give everything its place; :meth:`save` does so by itself."""
        if self._finished:
            return
        self._finished = True
        left_out = self._lay_out()
        if left_out:  # the notes grow, so that all is placed anew
            self.note(f"points without a name, for want of room: {', '.join(left_out)}")
            self._lay_out()

    def save(self, form: str) -> bytes:
        """The figure as ``png``, ``svg`` or ``pdf``; the same bytes for the same numbers."""
        self.finish()
        undated: dict[str, dict[str, str | None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
        data = io.BytesIO()
        with matplotlib.rc_context(_SAVED):
            self.figure.savefig(data, format=form, metadata=undated[form])
        return data.getvalue()

    def _lay_out(self) -> list[str]:
        """Place panels, notes and names; the names that found no room."""
        for axis in self._labels:
            for old in [text for text in axis.texts if text.get_gid() == "name"]:
                old.remove()
        self._write_notes()
        self.figure.set_layout_engine(self._engine)
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")
        renderer = self.agg.get_renderer()
        return [name for axis, labels in self._labels.items() for name in place_labels(axis, labels, renderer, SMALL)]

    def _write_notes(self) -> None:
        if not self._notes:
            return
        lines = [line for note in self._notes for line in textwrap.wrap(note, int(WIDTH * _CHARACTERS_PER_INCH))]
        self._note = self.figure.supxlabel(
            "\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=GREY, linespacing=1.3
        )


def _style(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.tick_params(labelsize=NORMAL, color=GREY, length=2.5, width=0.6)
    axis.grid(color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)


def name_axes(axis: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Write what a panel shows and what its axes are, with units."""
    if title:
        axis.set_title(title, fontsize=LARGE, loc="left", pad=5)
    if x:
        axis.set_xlabel(x, fontsize=NORMAL, labelpad=3)
    if y:
        axis.set_ylabel(y, fontsize=NORMAL, labelpad=3)
