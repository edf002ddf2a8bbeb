"""Bootstrap intervals over images, of a row of a table and of the difference of two, from the statistics of runs."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from deapcache.errors import DeapcacheError, LocationError, ResultsError
from deapcache.locations import Location
from deapcache.recipe import SHORT, digest_of
from deapcache.results.documents import IntervalsDocument
from deapcache.results.files import MOST_BYTES
from deapcache.results.frame import Summary
from deapcache.results.record import Result, Statistics, load_statistics, plain_json

if TYPE_CHECKING:
    from deapcache.tasks import Task


ImageStatistics = Mapping[str, np.ndarray]
"""Name → (images, ...)."""

Scores = Callable[[dict[str, np.ndarray]], Mapping[str, float]]
"""A task's ``scores``: per-image statistics → dataset-level scores."""

Interval = tuple[float, float]

RESAMPLES = 1000


def bootstrap_interval(
    runs: Sequence[ImageStatistics],
    scores: Scores,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    sums_suffice: bool = False,
) -> dict[str, Interval]:
    """Percentile interval of the mean score of ``runs`` (the seeds of one row) when images are drawn again.

    Every resample draws the same images for all runs. ``scores`` is computed over the drawn images as a whole, so that
    metrics that pool pixels or are no mean over images get their right interval. Metric → (low, high).

    ``sums_suffice`` says that ``scores`` sees nothing of the statistics but their sums over images
    (``Task.scores_from_sums``). The sums of all resamples are then one matrix product, with the same outcome.

    Raises :class:`ResultsError` where the runs are not over the same number of images.
    """
    draws = _draws(_images(runs), resamples, seed)
    return _percentiles(_mean_scores(runs, scores, draws, sums_suffice), level)


def bootstrap_difference(
    left: Sequence[ImageStatistics],
    right: Sequence[ImageStatistics],
    scores: Scores,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    sums_suffice: bool = False,
) -> dict[str, Interval]:
    """Percentile interval of mean score of ``left`` minus that of ``right``, both on the same drawn images (paired).

    Raises :class:`ResultsError` where the runs are not over the same number of images.
    """
    draws = _draws(_images([*left, *right]), resamples, seed)
    ours, theirs = (_mean_scores(runs, scores, draws, sums_suffice) for runs in (left, right))
    return _percentiles({metric: ours[metric] - theirs[metric] for metric in ours}, level)


def _images(runs: Sequence[ImageStatistics]) -> int:
    counts = sorted({len(values) for run in runs for values in run.values()})
    if len(counts) != 1:
        raise ResultsError(
            f"statistics over {' and '.join(map(str, counts)) or 'no'} images cannot be resampled together: "
            "give runs that were scored on the same images"
        )
    return counts[0]


def _draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, images) rows, drawn with replacement."""
    return np.random.default_rng(seed).integers(0, images, (resamples, images), dtype=np.int32)


def _mean_scores(
    runs: Sequence[ImageStatistics], scores: Scores, draws: np.ndarray, sums_suffice: bool
) -> dict[str, np.ndarray]:
    """Metric → (resamples,), mean over runs."""
    every = [_scores_of_sums(run, scores, draws) if sums_suffice else _scores(run, scores, draws) for run in runs]
    return {metric: np.mean([[one[metric] for one in found] for found in every], axis=0) for metric in every[0][0]}


def _scores(run: ImageStatistics, scores: Scores, draws: np.ndarray) -> list[Mapping[str, float]]:
    return [scores({name: values[rows] for name, values in run.items()}) for rows in draws]


def _scores_of_sums(run: ImageStatistics, scores: Scores, draws: np.ndarray) -> list[Mapping[str, float]]:
    # float64 is exact for counts of pixels below 2⁵³
    times = np.stack([np.bincount(rows, minlength=draws.shape[1]) for rows in draws]).astype(np.float64)
    sums = {
        name: (times @ values.reshape(len(values), -1).astype(np.float64)).reshape(len(draws), 1, *values.shape[1:])
        for name, values in run.items()
    }
    return [scores({name: values[place] for name, values in sums.items()}) for place in range(len(draws))]


def _percentiles(drawn: Mapping[str, np.ndarray], level: float) -> dict[str, Interval]:
    outside = 100 * (1 - level) / 2
    return {metric: _percentile(values, outside) for metric, values in drawn.items()}


def _percentile(values: np.ndarray, outside: float) -> Interval:
    defined = values[~np.isnan(values)]
    if not len(defined):  # a metric may be undefined on some draws, e.g. without any positive pixel, or on all
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [outside, 100 - outside])
    return float(low), float(high)


_FEWEST = 200
_NUMBERS = 200_000_000
"""That are read for one interval at most, where this leaves :data:`_FEWEST` resamples or more: detection on COCO keeps
1.5 million numbers, and a thousand resamples of three seeds would take minutes."""

_SAME_SCORE = 1e-6
"""Relative: the score is recomputed from statistics by the same code, on another machine perhaps."""


_INTERVALS: TypeAdapter[IntervalsDocument] = TypeAdapter(IntervalsDocument)


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """The intervals of one row."""

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Metric → (low, high), 95%; empty where ``problem`` says why.

    A metric that no draw changes has none: it rests on a single image, or is perfect on all, which says nothing about
    others.
    """
    problem: str = ""


UncertaintyOf = Callable[[Summary], Uncertainty]


class HomeIntervals:
    """Intervals of the rows of one home's results: computed when first asked for, and kept in the home.

    They are ``intervals/<digest>.json``, named by what they are of; where the home cannot be written they are computed
    each time. A row whose statistics are absent, damaged or of another score, or whose task is not installed, has a
    ``problem`` instead of intervals: its table is shown all the same. ``home_of`` says where the statistics of a run
    lie, where that is not this home for all of them.
    """

    def __init__(self, home: Location, *, home_of: Callable[[str], Location] | None = None) -> None:
        self._home = home
        self._home_of = home_of or (lambda _: home)
        self._known: dict[str, Uncertainty] = {}

    def __call__(self, summary: Summary) -> Uncertainty:
        key = interval_key(summary)
        if key not in self._known:
            self._known[key] = self._kept(key) or self._computed(summary, key)
        return self._known[key]

    def _kept(self, key: str) -> Uncertainty | None:
        try:
            kept = _INTERVALS.validate_json(self._home.read(key, most=MOST_BYTES), strict=True)["intervals"]
        except (FileNotFoundError, LocationError, ValueError):
            return None  # it is made again, whatever is wrong with it
        return Uncertainty(intervals={metric: _numbers(*pair) for metric, pair in kept.items()})

    def _computed(self, summary: Summary, key: str) -> Uncertainty:
        try:
            task = task_of(summary.first)
            loaded = _statistics(self._home_of, summary, task)
            _require_same_images(loaded)
            runs, sums = [one.run for one in loaded], task.scores_from_sums
            found = bootstrap_interval(runs, task.scores, resamples=_resamples(task, loaded[0]), sums_suffice=sums)
            found = {metric: interval for metric, interval in found.items() if interval[0] != interval[1]}
        except DeapcacheError as error:
            return Uncertainty(problem=str(error))
        kept = {"runs": [result.run for result in summary.results], "intervals": plain_json(found)}
        with contextlib.suppress(LocationError):  # a home that is only read
            self._home.publish(key, json.dumps(kept).encode(), replace=True)
        return Uncertainty(intervals=found)


def interval_key(summary: Summary) -> str:
    """Where the intervals of a row lie in the home: another once a run was made anew."""
    runs = [[result.run, result.date, dict(plain_json(result.scores))] for result in summary.results]
    code = summary.first.versions.get("deapcache", "")
    return f"intervals/{digest_of({'runs': runs, 'code': code, 'resamples': RESAMPLES})[:SHORT]}.json"


def paired_difference(home: Location, left: Summary, right: Summary) -> dict[str, Interval]:
    """95% interval of the mean score of ``left`` minus that of ``right``, when both are scored on images drawn again.

    Metric → (low, high). What makes some images harder than others cancels out, so that this says more than the
    intervals of both rows do. Raises :class:`ResultsError` where they were not scored on the same images, or where
    statistics are absent, damaged or of another score.
    """
    task = task_of(left.first)
    ours, theirs = (_statistics(lambda _: home, row, task) for row in (left, right))
    _require_same_images([*ours, *theirs])
    return bootstrap_difference(
        [one.run for one in ours], [one.run for one in theirs], task.scores,
        resamples=_resamples(task, ours[0]), sums_suffice=task.scores_from_sums,
    )  # fmt: skip


def task_of(result: Result) -> Task:
    """The task of a result, with the choices of its protocol; raises :class:`UnknownNameError` where it is not here."""
    from deapcache.tasks import get_task

    options = result.protocol["task_options"]
    choices = get_task(result.task).choices
    return get_task(result.task, {name: options[name] for name in choices if name in options})


def _statistics(home_of: Callable[[str], Location], summary: Summary, task: Task) -> list[Statistics]:
    """Statistics of each seed, which give the score that is kept beside them."""
    loaded = [load_statistics(home_of(result.run), result.run) for result in summary.results]
    for result, statistics in zip(summary.results, loaded, strict=True):
        try:
            scores = task.scores(dict(statistics.run))
        except KeyError as error:
            raise ResultsError(f"the statistics of {result.run} lack {error}: run the probe again") from None
        except (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:  # of another shape
            reason = f"{type(error).__name__}: {error}"
            raise ResultsError(
                f"the statistics of {result.run} cannot be scored ({reason}): run the probe again"
            ) from None
        _require_same_score(result, scores)
    return loaded


def _resamples(task: Task, statistics: Statistics) -> int:
    if task.scores_from_sums:
        return RESAMPLES
    numbers = sum(values.size for values in statistics.run.values())
    return min(RESAMPLES, max(_FEWEST, _NUMBERS // max(numbers, 1)))


def _numbers(low: float | None, high: float | None) -> Interval:
    return (math.nan if low is None else low), (math.nan if high is None else high)


def same_score(kept: float, recomputed: float) -> bool:
    """Whether a score is the one that its statistics give, up to rounding; both may be NaN."""
    if math.isnan(kept) and math.isnan(recomputed):
        return True
    return math.isclose(kept, recomputed, rel_tol=_SAME_SCORE, abs_tol=1e-9)


def _require_same_score(result: Result, recomputed: Mapping[str, float]) -> None:
    kept, found = result.scores[result.main_metric], recomputed[result.main_metric]
    if not same_score(kept, found):
        raise ResultsError(
            f"{result.run} keeps {result.main_metric} {kept:.6f}, its statistics give {found:.6f}: "
            "they belong to another version of the run or of deapcache; run the probe again"
        )


def _require_same_images(loaded: Sequence[Statistics]) -> None:
    if any(statistics.image_ids != loaded[0].image_ids for statistics in loaded):
        raise ResultsError("runs that are put together were not scored on the same images: run their probes again")
