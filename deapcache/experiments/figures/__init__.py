"""Figures from a home: gathers what they are of, and has them drawn."""

from deapcache.experiments.figures.making import make_figure
from deapcache.experiments.figures.request import FigureRequest

__all__ = ["FigureRequest", "make_figure"]
