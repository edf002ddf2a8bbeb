"""A score as a bar that begins at zero, with its interval and the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deapcache.results.leaderboard.entries import Comparison, Score


@dataclass(frozen=True)
class Scale:
    """The same for all bars of a comparison."""

    low: float
    """0, or the lowest score where one is below."""
    high: float
    prior: float
    """NaN where there is none."""

    def place(self, value: float) -> float:
        """Hundredths of the bar's full width."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return round(100 * min(max(share, 0.0), 1.0), 2)


def scale_of(comparison: Comparison) -> Scale:
    """From zero to the largest score, interval or prior."""
    name = comparison.main.name
    scores = [entry.scores[name] for entry in comparison.entries if name in entry.scores]
    prior = comparison.prior.get(name, math.nan)
    ends = [end for score in scores for end in (score.mean, *(score.interval or ()))]
    known = [value for value in (*ends, prior) if not math.isnan(value)]
    return Scale(min(0.0, *known), max(0.0, *known), prior) if known else Scale(0.0, 1.0, prior)


def bar(score: Score, scale: Scale) -> str:
    """An SVG of 100 × 12 units; it says nothing that the number beside it does not, and is hidden from readers."""
    zero, end = scale.place(0.0), scale.place(score.mean)
    parts = [f'<rect class="fill" x="{min(zero, end)}" y="1" width="{round(abs(end - zero), 2)}" height="10"/>']
    if not math.isnan(scale.prior):
        at = scale.place(scale.prior)
        parts.append(f'<line class="prior" x1="{at}" x2="{at}" y1="0" y2="12"/>')
    if score.interval and not math.isnan(score.interval[0]):
        low, high = map(scale.place, score.interval)
        parts.append(f'<path class="whisker" d="M{low} 6H{high}M{low} 3V9M{high} 3V9"/>')
    return (
        '<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f"{''.join(parts)}</svg>"
    )
