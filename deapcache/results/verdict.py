"""Which backbone is better, how sure that is, and how many more images would tell: sentences from paired intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deapcache.errors import listed
from deapcache.locations import Location
from deapcache.results.intervals import Difference, holm, pair_differences
from deapcache.results.marks import LARGEST_P, NOT_ABOVE
from deapcache.results.record import plain_json

_MOST_TIMES = 50
"""More images than so many times those at hand are not asked for: such a difference does not matter."""

_FEWEST = 20
"""Validation images below which no number of further ones is estimated."""


def verdict(home: Location, lines: Sequence[Any]) -> dict[str, Any]:
    """What rows of one comparison say of each other, as JSON values.

    ``headline``, one or two sentences; ``ranking``, the names from the best; ``pairs`` of these, each with ``better``,
    ``worse``, ``difference`` (95% ``interval`` over images and seeds, both scored on the same drawn images), ``p``
    (Holm's, over all pairs), ``is_sure``, ``more_images`` (validation images that would be needed besides, ``None``
    where more images alone do not tell) and ``text``.

    Parameters
    ----------
    home
        Where the statistics of all runs lie.
    lines
        Of the main metric of :func:`deapcache.results.table_rows`, with marks; at least one.
    """
    first = lines[0]
    sign = 1 if first.higher_is_better else -1
    ranked = sorted(lines, key=lambda line: (math.isnan(line.mean), -sign * line.mean))
    images, label = first.result.val_images, first.result.metrics[first.metric]["label"]
    compared = [
        (ranked[left], ranked[right], both[first.metric], over_images[first.metric])
        for left, right, both, over_images in pair_differences(home, [line.results for line in ranked])
    ]
    p_values = holm([both.p for _, _, both, _ in compared])
    pairs: list[dict[str, Any]] = []
    for (left, right, both, over_images), p in zip(compared, p_values, strict=True):
        is_sure = p < LARGEST_P
        more = None if is_sure else more_images(both, over_images, images, len(compared))
        low, high = both.interval
        ends = "no interval, for lack of images" if math.isnan(low) else f"95% interval of it {low:+.4f} to {high:+.4f}"
        by = f"by {abs(both.value):.4f} {label} ({ends})"
        better, worse = left.display_name, right.display_name
        if is_sure:
            text = f"{better} beats {worse} {by}"
        elif math.isnan(both.value):
            text = f"{better} and {worse} cannot be compared: one has no score"
        else:
            tied = f"{better} and {worse} can't be told apart with {_these(images)}"
            text = f"{tied}: {_needed(more, images)}; they differ {by}"
        facts = {"better": better, "worse": worse, "difference": both.value, "interval": list(both.interval), "p": p}
        pairs.append({**facts, "is_sure": is_sure, "more_images": more, "text": text})
    headline = _headline(ranked, pairs, label, images)
    return dict(plain_json({"ranking": [line.display_name for line in ranked], "headline": headline, "pairs": pairs}))


def more_images(both: Difference, over_images: Difference, images: int, pairs: int = 1) -> int | None:
    """Validation images besides the ``images`` at hand, at which a difference of this size would be told apart.

    The part of the variance that comes from images falls with their number, that of seeds does not; ``None`` where
    that alone hides the difference, or there is none. The bound is Bonferroni's for so many ``pairs``, which is
    Holm's for the first one.
    """
    from scipy.special import ndtri

    if math.isnan(both.value) or math.isnan(over_images.interval[0]):
        return None
    stricter = float(ndtri(1 - LARGEST_P / 2 / pairs) / ndtri(1 - LARGEST_P / 2))
    of_both, of_images = (stricter * (found.interval[1] - found.interval[0]) / 2 for found in (both, over_images))
    room = both.value**2 - max(of_both**2 - of_images**2, 0.0)
    if room <= 0:
        return None
    return max(1, math.ceil(images * (of_images**2 / room - 1)))


def _these(images: int) -> str:
    return "a single image" if images == 1 else f"these {images:,} images"


def _needed(more: int | None, images: int) -> str:
    if images < _FEWEST:
        return f"take {_FEWEST} or more for a verdict"
    if more is None:
        return "more images alone would not tell them apart; more seeds and longer training may"
    if more > _MOST_TIMES * images:
        return f"more than {_MOST_TIMES * images:,} more would be needed, so that the difference hardly matters"
    unit = 10 ** max(0, len(str(more)) - 2)  # two digits: it is an estimate
    return f"about {math.ceil(more / unit) * unit:,} more validation images would be needed"


def _headline(ranked: Sequence[Any], pairs: Sequence[dict[str, Any]], label: str, images: int) -> str:
    best = ranked[0].display_name
    if NOT_ABOVE in ranked[0].marks or math.isnan(ranked[0].mean):
        return (
            f"No verdict: even {best}, the first, is not shown to be better than a constant that looks at no image. "
            "Give more --minutes, more labelled images, or an easier --task."
        )
    if len(ranked) == 1:
        return f"{best}: {label} {ranked[0].mean:.4f}."
    own = [pair for pair in pairs if pair["better"] == best]
    beaten, level = ([pair["worse"] for pair in own if pair["is_sure"] is sure] for sure in (True, False))
    if not level:
        return f"{best} is the best: it beats {listed(beaten)}."
    tied = f"{listed([best, *level])} can't be told apart with {_these(images)}"
    return f"{tied}; {best} beats {listed(beaten)}." if beaten else f"{tied}."
