"""Figures of results: numbers in, a :class:`deapcache.results.figures.style.Canvas` out; grids of images are one file.

What a figure needs from caches and readouts is gathered in :mod:`deapcache.experiments.figures`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from deapcache.errors import UnknownNameError

FORMATS = ("png", "svg", "pdf")

_OF_RESULTS = ("task", "dataset", "backbone", "readout", "protocol", "cache", "lr")


@dataclass(frozen=True, kw_only=True)
class FigureEntry:
    """One figure by name."""

    name: str
    shows: str
    needs: str
    """What must be in the home, with the command that makes it."""
    options: tuple[str, ...]
    """Options of ``deapcache figures`` that mean something to it."""


FIGURES: tuple[FigureEntry, ...] = (
    FigureEntry(
        name="instance-awareness",
        shows="the paper's Figure 3: backbones by category, scores of each task mapped to [0, 1]",
        needs="results of discrimination, boundaries or detection: deapcache probe --task discrimination",
        options=("paper", *_OF_RESULTS),
    ),
    FigureEntry(
        name="parameters",
        shows="Figure 4: score over learnable parameters, by readout",
        needs="results of several readouts: deapcache probe --task segmentation --readout deap,8-dim,bicubic",
        options=("paper", *_OF_RESULTS),
    ),
    FigureEntry(
        name="resolutions",
        shows="Figure 5: one readout queried at several output sizes",
        needs="a trained readout with its caches: deapcache probe --task segmentation",
        options=("run", "size", "images", "image", "weights"),
    ),
    FigureEntry(
        name="correlations",
        shows="Figure 6: our scores against published ones, with Pearson's and Spearman's correlation",
        needs="results of three backbones that the reference has too: deapcache probe --backbone A,B,C",
        options=("paper", "reference", *_OF_RESULTS),
    ),
    FigureEntry(
        name="speed-quality",
        shows="Figure 7: score over speed of the backbones, with the Pareto front",
        needs="speeds and results of the same backbones: deapcache speed --backbone NAME, deapcache probe",
        options=("paper", "device", *_OF_RESULTS),
    ),
    FigureEntry(
        name="label-efficiency",
        shows="score over the number of training images, by backbone",
        needs="results of a learning curve: deapcache probe --task segmentation --train-limit 50,100,all",
        options=_OF_RESULTS,
    ),
    FigureEntry(
        name="sigma",
        shows="the learned width σ of each attention head, by backbone",
        needs="results of a readout with a mask: deapcache probe --task segmentation --readout deap",
        options=_OF_RESULTS,
    ),
    FigureEntry(
        name="features",
        shows="feature volumes as colours, by principal components, beside the images",
        needs="cached features: deapcache extract --dataset NAME --backbone NAME",
        options=("dataset", "split", "backbone", "images"),
    ),
)


def find_figure(name: str) -> FigureEntry:
    """The figure of that name; raises :class:`UnknownNameError` with the nearest ones."""
    known = {entry.name: entry for entry in FIGURES}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownNameError(f"no figure {name!r}: {meant}there are {', '.join(known)}")
