"""Pearson's and Spearman's correlation with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

FEWEST = 3
"""Points that have a correlation."""

_NORMAL_975 = 1.959963984540054

HOW = (
    "95% intervals: Fisher's z with standard error 1/√(n−3) for Pearson's r, and √((1+ρ²/2)/(n−3)) (Bonett and Wright "
    "2000) for Spearman's ρ; none below four points"
)
"""For a note beneath."""


@dataclass(frozen=True)
class Correlation:
    """A coefficient over ``points`` points."""

    kind: Literal["r", "ρ"]
    """Pearson's r or Spearman's ρ."""
    value: float
    """NaN where one of the sides is the same everywhere."""
    interval: tuple[float, float] | None
    """95%; ``None`` below four points, or where there is no value."""
    points: int

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"{self.kind} not defined"
        shown = f"{self.kind} = {self.value:+.2f}"
        return shown if self.interval is None else f"{shown} [{self.interval[0]:+.2f}, {self.interval[1]:+.2f}]"


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's r of at least :data:`FEWEST` pairs, with the interval of Fisher's z."""
    return _correlation("r", np.asarray(x, float), np.asarray(y, float), 0.0)


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Spearman's ρ of at least :data:`FEWEST` pairs, ties with their mean rank, and Bonett and Wright's interval."""
    return _correlation("ρ", _ranks(x), _ranks(y), 0.5)


def _ranks(values: Sequence[float]) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), float)


def _correlation(kind: Literal["r", "ρ"], x: np.ndarray, y: np.ndarray, excess: float) -> Correlation:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(kind, math.nan, None, len(x))
    value = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if len(x) < FEWEST + 1:
        return Correlation(kind, value, None, len(x))
    if abs(value) == 1:
        return Correlation(kind, value, (value, value), len(x))
    error = _NORMAL_975 * math.sqrt((1 + excess * value**2) / (len(x) - 3))
    middle = math.atanh(value)
    return Correlation(kind, value, (math.tanh(middle - error), math.tanh(middle + error)), len(x))
