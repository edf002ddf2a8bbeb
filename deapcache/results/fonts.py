"""Names on pictures as they are: none is read as mathematics or left out, and no character becomes an empty box."""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

_NOT_FOR_NAMES = ("Last Resort", "STIXNonUnicode", "STIXSize", "cm")
"""Beginnings of the names of fonts that have a box for every character, or other signs in the places of letters."""

_TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


class LiteralFigure(Figure):
    """A figure whose texts are drawn as :func:`write_literally` has them.

    A notebook shows it also where pyplot, which would register that, was never imported.
    """

    def draw(self, renderer: Any) -> None:
        write_literally(self)
        super().draw(renderer)

    def png(self) -> bytes:
        """The figure as a PNG file."""
        data = io.BytesIO()
        FigureCanvasAgg(self).print_png(data)
        return data.getvalue()

    _repr_png_ = png


def write_literally(figure: Figure) -> None:
    """Take every text of ``figure`` for what it says, with fonts that have its characters."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter):  # it writes the labels of ticks anew with each drawing
                formatter.seq = [drawable(name) for name in formatter.seq]
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_text(drawable(text.get_text()))
        if further := dict.fromkeys(font for one in text.get_text() if (font := _font_with(one))):
            text.set_fontfamily([FontProperties().get_name(), *further])


def literal_legend(figure: Figure, handles: Sequence[Artist], **options: Any) -> Legend:
    """A legend of all ``handles``; matplotlib's own leaves out those whose label begins with an underscore."""
    made = figure.legend(list(handles), ["-"] * len(handles), **options)
    for text, handle in zip(made.get_texts(), handles, strict=True):
        text.set_text(drawable(str(handle.get_label())))
        text.set_parse_math(False)
    return made


def drawable(text: str) -> str:
    """``text`` with characters that no font here has as their codes: ``\\u718a``."""
    escaped = {one: one.encode("unicode_escape").decode() for one in set(text) - {"\n"} if _font_with(one) is None}
    return "".join(escaped.get(one, one) for one in text)


def shortened(text: str, room: int) -> str:
    """``text`` as it is drawn, on one line of at most ``room`` characters."""
    line = drawable(" ".join(text.split()))
    return line if len(line) <= room else f"{line[: room - 1]}…"


@functools.lru_cache(maxsize=4096)
def _font_with(character: str) -> str | None:
    """Name of an installed font that has a character, empty for the usual one; None where there is none.

    None for what turns the direction of the text after it as well.
    """
    if unicodedata.bidirectional(character) in _TURNS:
        return None
    if ord(character) in _characters(findfont(FontProperties())):
        return ""
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.name))
    names = (font for font in fonts if not font.name.startswith(_NOT_FOR_NAMES))
    return next((font.name for font in names if ord(character) in _characters(font.fname)), None)


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """The codes of what a font file can draw at any size; none where it cannot be read."""
    try:
        font = get_font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
