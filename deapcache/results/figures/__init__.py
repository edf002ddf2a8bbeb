"""Figures of results, one file each: numbers in, a picture out. What they share is in ``canvas`` and ``marks``.

What a figure needs from caches and readouts is gathered in :mod:`deapcache.experiments.figures`.
"""

from deapcache.results.figures.catalogue import FIGURES, FORMATS, FigureEntry, find_figure

__all__ = ["FIGURES", "FORMATS", "FigureEntry", "find_figure"]
