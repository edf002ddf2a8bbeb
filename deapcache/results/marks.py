"""Marks beside a score that says less than it seems, and the legend beneath the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

NOT_ABOVE, FEW_JUDGED, FALLING, DIVERGED = "†", "‡", "§", "¶"

FEWEST_JUDGED = 50
"""Images with a score of their own, below which a mean over them says little."""
LARGEST_P = 0.05
_FALL = 0.03
"""Relative: of the loss over the last two fifths of the training."""

LEGEND = {
    NOT_ABOVE: (
        "not shown to be better than the image-independent prior: its score is not, or the interval of the difference "
        "reaches 0, or would with Holm's correction for all rows of the table; do not rank by it: take more "
        "--iterations or more images, and if it stays so, these features do not hold what the task asks for"
    ),
    FEW_JUDGED: f"the score rests on fewer than {FEWEST_JUDGED} images: take more, or define large otherwise",
    FALLING: "the training loss was still falling at the end: more --iterations would change the score",
    DIVERGED: (
        "training diverged: the loss ended above where it began; take a lower --lr, or leave the choice to --select"
    ),
}
"""Mark → what it means and, where there is something to do, what."""


def legend(marks: Iterable[str]) -> list[str]:
    """What stands beneath a table with these marks."""
    there = set("".join(marks))
    return [f"{mark} {meaning}" for mark, meaning in LEGEND.items() if mark in there]


def is_falling(losses: Sequence[float | None]) -> bool:
    """Whether the last fifth of a training curve lies below the fifth before by 3% and twice the standard error."""
    known = np.array([loss for loss in losses if loss is not None])
    fifth = len(known) // 5
    if fifth < 5:
        return False
    before, last = known[-2 * fifth : -fifth], known[-fifth:]
    fall = before.mean() - last.mean()
    error = math.sqrt((before.var(ddof=1) + last.var(ddof=1)) / fifth)
    return bool(fall > 2 * error and fall > _FALL * abs(before.mean()))


def has_diverged(losses: Sequence[float | None]) -> bool:
    """Whether the last tenth of a training curve lies above the first one, or a loss was not finite."""
    if None in losses:
        return True
    tenth = len(losses) // 10
    return tenth > 0 and bool(np.mean(losses[-tenth:]) > np.mean(losses[:tenth]))  # type: ignore[arg-type]
