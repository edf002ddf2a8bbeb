"""Bootstrap intervals over images, of a row of a table and of the difference of two, from the statistics of runs."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from deapcache.errors import DeapcacheError, LocationError, ResultsError
from deapcache.locations import Location
from deapcache.recipe import SHORT, digest_of
from deapcache.results.documents import IntervalsDocument
from deapcache.results.files import MOST_BYTES
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
    resampled = _resampled_sums if sums_suffice else _resampled
    every = [[scores(one) for one in resampled(run, draws)] for run in runs]
    return {metric: np.mean([[one[metric] for one in found] for found in every], axis=0) for metric in every[0][0]}


def _resampled(run: ImageStatistics, draws: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """The statistics of the images of each draw."""
    return ({name: values[rows] for name, values in run.items()} for rows in draws)


def _resampled_sums(run: ImageStatistics, draws: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Their sums over these images, as statistics of a single image."""
    # float64 is exact for counts of pixels below 2⁵³
    times = np.stack([np.bincount(rows, minlength=draws.shape[1]) for rows in draws]).astype(np.float64)
    sums = {
        name: (times @ values.reshape(len(values), -1).astype(np.float64)).reshape(len(draws), 1, *values.shape[1:])
        for name, values in run.items()
    }
    return ({name: values[place] for name, values in sums.items()} for place in range(len(draws)))


def _percentiles(drawn: Mapping[str, np.ndarray], level: float) -> dict[str, Interval]:
    outside = 100 * (1 - level) / 2
    found = {}
    for metric, values in drawn.items():
        # a metric may be undefined on some draws, e.g. without any positive pixel, or on all
        defined = values[~np.isnan(values)]
        low, high = np.percentile(defined, [outside, 100 - outside]) if len(defined) else (np.nan, np.nan)
        found[metric] = float(low), float(high)
    return found


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


UncertaintyOf = Callable[[Sequence[Result]], Uncertainty]
"""From the runs of a row, by seed."""


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

    def __call__(self, results: Sequence[Result]) -> Uncertainty:
        key = interval_key(results)
        if key not in self._known:
            self._known[key] = self._kept(key) or self._computed(results, key)
        return self._known[key]

    def _kept(self, key: str) -> Uncertainty | None:
        try:
            kept = _INTERVALS.validate_json(self._home.read(key, most=MOST_BYTES), strict=True)["intervals"]
        except (FileNotFoundError, LocationError, ValueError):
            return None  # it is made again, whatever is wrong with it
        return Uncertainty(
            intervals={
                metric: (math.nan if low is None else low, math.nan if high is None else high)
                for metric, (low, high) in kept.items()
            }
        )

    def _computed(self, results: Sequence[Result], key: str) -> Uncertainty:
        try:
            task = task_of(results[0])
            runs = [_statistics(self._home_of(result.run), result, task) for result in results]
            found = bootstrap_interval(_same_images(runs), task.scores, **_options(task, runs))
        except DeapcacheError as error:
            return Uncertainty(problem=str(error))
        found = {metric: interval for metric, interval in found.items() if interval[0] != interval[1]}
        kept = {"runs": [result.run for result in results], "intervals": plain_json(found)}
        with contextlib.suppress(LocationError):  # a home that is only read
            self._home.publish(key, json.dumps(kept).encode(), replace=True)
        return Uncertainty(intervals=found)


def interval_key(results: Sequence[Result]) -> str:
    """Where the intervals of a row lie in the home: another once a run was made anew."""
    runs = [[result.run, result.date, dict(plain_json(result.scores))] for result in results]
    code = results[0].versions.get("deapcache", "")
    return f"intervals/{digest_of({'runs': runs, 'code': code, 'resamples': RESAMPLES})[:SHORT]}.json"


def paired_difference(home: Location, left: Sequence[Result], right: Sequence[Result]) -> dict[str, Interval]:
    """95% interval of the mean score of ``left`` minus that of ``right``, when both are scored on images drawn again.

    Both are the seeds of a row: ``results`` of :func:`deapcache.results.table_rows`. Metric → (low, high). What makes
    some images harder than others cancels out, so that this says more than the intervals of both rows do. Raises
    :class:`ResultsError` where they were not scored on the same images, or where statistics are absent, damaged or of
    another score.
    """
    task = task_of(left[0])
    runs = [_statistics(home, result, task) for result in (*left, *right)]
    images = _same_images(runs)
    ours, theirs = images[: len(left)], images[len(left) :]
    return bootstrap_difference(ours, theirs, task.scores, **_options(task, runs))


def task_of(result: Result) -> Task:
    """The task of a result, with the choices of its protocol; raises :class:`UnknownNameError` where it is not here."""
    from deapcache.tasks import get_task

    options = result.protocol["task_options"]
    choices = get_task(result.task).choices
    return get_task(result.task, {name: options[name] for name in choices if name in options})


def _statistics(home: Location, result: Result, task: Task) -> Statistics:
    """Statistics of a run, which give the score that is kept beside them."""
    found = load_statistics(home, result.run)
    try:
        recomputed = task.scores(dict(found.run))[result.main_metric]
    except KeyError as error:
        raise ResultsError(f"the statistics of {result.run} lack {error}: run the probe again") from None
    except (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:  # of another shape
        reason = f"{type(error).__name__}: {error}"
        raise ResultsError(f"the statistics of {result.run} cannot be scored ({reason}): run the probe again") from None
    kept = result.scores[result.main_metric]
    if not same_score(kept, recomputed):
        raise ResultsError(
            f"{result.run} keeps {result.main_metric} {kept:.6f}, its statistics give {recomputed:.6f}: "
            "they belong to another version of the run or of deapcache; run the probe again"
        )
    return found


def same_score(kept: float, recomputed: float) -> bool:
    """Whether a score is the one that its statistics give, up to rounding; both may be NaN."""
    if math.isnan(kept) and math.isnan(recomputed):
        return True
    return math.isclose(kept, recomputed, rel_tol=_SAME_SCORE, abs_tol=1e-9)


def _same_images(runs: Sequence[Statistics]) -> list[ImageStatistics]:
    """The statistics of runs that were scored on the same images."""
    if any(statistics.image_ids != runs[0].image_ids for statistics in runs):
        raise ResultsError("runs that are put together were not scored on the same images: run their probes again")
    return [statistics.run for statistics in runs]


def _options(task: Task, runs: Sequence[Statistics]) -> dict[str, Any]:
    """How the bootstrap of a task's scores is computed, and from how many resamples."""
    numbers = sum(values.size for values in runs[0].run.values())
    few = min(RESAMPLES, max(_FEWEST, _NUMBERS // max(numbers, 1)))
    return {"resamples": RESAMPLES if task.scores_from_sums else few, "sums_suffice": task.scores_from_sums}
