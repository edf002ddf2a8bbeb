"""Intervals over images, of a row of a table and of the difference of two, by bootstrap from the statistics of runs.

They are bias-corrected Student intervals (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 10
to 12) of the bootstrap's bias and the larger of its and the jackknife's standard error. An mIoU over rare classes falls
whenever images are drawn again, and rests on few images: percentiles, BCa and the basic bootstrap then hold the score
of all images too seldom (counted in ``tests/benchmarks/bench_intervals.py``).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from deapcache.errors import DeapcacheError, LocationError, ResultsError
from deapcache.locations import Location
from deapcache.recipe import SHORT, digest_of
from deapcache.results.documents import IntervalsDocument
from deapcache.results.files import MOST_BYTES
from deapcache.results.record import Result, Statistics, load_statistics, plain_json
from deapcache.tasks import Task, get_task

ImageStatistics = Mapping[str, np.ndarray]
"""Name → (images, ...)."""

Scores = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]
"""A task's ``scores``: per-image statistics → dataset-level scores; or its ``scores_of_sums``."""

Interval = tuple[float, float]

LEVEL, RESAMPLES = 0.95, 1000
OVER = {False: "val images", True: "val images and seeds (where a row has several)"}
"""Whether intervals are over seeds, too → what they are over."""

_GROUPS = 100
"""At most so many groups of images are left out in turn, for the jackknife."""


class Difference(NamedTuple):
    """A paired difference of two mean scores: both are scored on the same drawn images."""

    value: float
    interval: Interval
    p: float
    """Two-sided, of no difference; below 0.05 where the 95% interval leaves out 0."""


def bootstrap_interval(
    runs: Sequence[ImageStatistics],
    scores: Scores,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    from_sums: bool = False,
    over_seeds: bool = False,
) -> dict[str, Interval]:
    """Interval of the mean score of ``runs`` (the seeds of one row) over images.

    Every resample draws the same images for all runs. ``scores`` is computed over the drawn images as a whole, so that
    metrics that pool pixels or are no mean over images get their right interval. Metric → (low, high). An end may lie
    beyond the values that a metric takes.

    With ``from_sums``, ``scores`` takes the sums over each of R sets of images, name → (R, ...), and gives arrays (R,)
    (``Task.scores_of_sums``): all resamples are then one matrix product.
    ``over_seeds`` makes the interval one over images and seeds, where there are several runs.

    Raises :class:`ResultsError` where the runs are not over the same number of images.
    """
    weights = _weights(_images(runs), resamples, seed)
    found = _weighted_scores(runs, scores, weights, from_sums)
    return {name: _estimate([ours], resamples, over_seeds=over_seeds).interval for name, ours in found.items()}


def bootstrap_difference(
    left: Sequence[ImageStatistics],
    right: Sequence[ImageStatistics],
    scores: Scores,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    from_sums: bool = False,
    over_seeds: bool = False,
) -> dict[str, Difference]:
    """Mean score of ``left`` minus that of ``right``, by metric, with the interval of :func:`bootstrap_interval`.

    Raises :class:`ResultsError` where the runs are not over the same number of images.
    """
    weights = _weights(_images([*left, *right]), resamples, seed)
    ours, theirs = (_weighted_scores(runs, scores, weights, from_sums) for runs in (left, right))
    return {name: _estimate([ours[name], theirs[name]], resamples, over_seeds=over_seeds) for name in ours}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for so many comparisons (Holm 1979): those up to 0.05 hold together at that level.

    NaN stays, and is no comparison.
    """
    known = [p for p in p_values if not math.isnan(p)]
    adjusted: dict[float, float] = {}
    largest = 0.0
    for place, p in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - place) * p))
        adjusted.setdefault(p, largest)
    return [adjusted.get(p, math.nan) for p in p_values]


def _images(runs: Sequence[ImageStatistics]) -> int:
    counts = sorted({len(values) for run in runs for values in run.values()})
    if len(counts) != 1:
        raise ResultsError(
            f"statistics over {' and '.join(map(str, counts)) or 'no'} images cannot be resampled together: "
            "give runs that were scored on the same images"
        )
    return counts[0]


def _weights(images: int, resamples: int, seed: int) -> np.ndarray:
    """(1 + resamples + groups, images): how often each image counts.

    Once each; then as they are drawn with replacement; then once each but for those of one group, which is a single
    image where there are few.
    """
    groups = min(images, _GROUPS, max(resamples // 4, 2))
    draws = np.random.default_rng(seed).integers(0, images, (resamples, images), dtype=np.int32)
    counts = [np.bincount(rows, minlength=images) for rows in draws]
    left_out = np.arange(images) % groups == np.arange(groups)[:, None]
    return np.concatenate([np.ones((1, images), np.int64), counts, ~left_out])


def _weighted_scores(
    runs: Sequence[ImageStatistics], scores: Scores, weights: np.ndarray, from_sums: bool
) -> dict[str, np.ndarray]:
    """Metric → (runs, rows of ``weights``)."""
    found: list[Mapping[str, Any]] = []
    for run in runs:
        if from_sums:
            times = weights.astype(np.float64)  # exact for counts of pixels below 2⁵³
            sums = {name: times @ values.reshape(len(values), -1).astype(np.float64) for name, values in run.items()}
            shaped = {name: each.reshape(len(times), *run[name].shape[1:]) for name, each in sums.items()}
            found.append(scores(shaped))
        else:
            ones = []
            for times in weights:
                rows = np.repeat(np.arange(len(times)), times)
                ones.append(scores({name: values[rows] for name, values in run.items()}))
            found.append({metric: np.array([one[metric] for one in ones]) for metric in ones[0]})
    return {metric: np.array([one[metric] for one in found]) for metric in found[0]}


def _estimate(scores: Sequence[np.ndarray], resamples: int, *, over_seeds: bool) -> Difference:
    """A mean score, or the first less the second, with its interval; each is (runs, rows of :func:`_weights`).

    With the bootstrap's bias b and the larger of its standard error and the jackknife's, s: value − b ± t·s, where t is
    Student's, with the jackknife's degrees of freedom; where b is so large that this leaves out the value, up to it.
    ``over_seeds`` adds the variances of the means over runs to s², with the degrees of freedom of Welch and
    Satterthwaite.
    """
    from scipy.special import stdtr, stdtrit

    # a metric may be undefined on some draws, e.g. without any positive pixel, or on all
    values = scores[0].mean(0) - (scores[1].mean(0) if len(scores) > 1 else 0.0)
    value, drawn, without = float(values[0]), values[1 : 1 + resamples], values[1 + resamples :]
    drawn, without = drawn[~np.isnan(drawn)], without[~np.isnan(without)]
    if math.isnan(value) or not len(drawn) or len(without) < 2:
        return Difference(value, (math.nan, math.nan), math.nan)
    freedom: float = len(without) - 1
    error = max(float(drawn.std()), math.sqrt(freedom) * float(without.std()))
    runs = [one[:, 0] for one in scores if over_seeds and len(one) > 1]
    parts = [(error**2, freedom), *((float(one.var(ddof=1)) / len(one), len(one) - 1) for one in runs)]
    if (variance := sum(part for part, _ in parts)) > 0:
        error, freedom = math.sqrt(variance), variance**2 / sum(part**2 / own for part, own in parts)
    centre = 2 * value - float(drawn.mean())
    around = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(centre) / error)) if error > 0 else float(centre == 0)
    if value * centre < 0:  # it does not even tell which is the larger
        p = 1.0
    return Difference(value, (min(centre - around, value), max(centre + around, value)), p)


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
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """Metric → score minus that of the constant baseline; without those that a result's prior does not come from."""
    over: str = "val images"
    """What they are over, in words."""
    problem: str = ""


UncertaintyOf = Callable[[Sequence[Result]], Uncertainty]
"""From the runs of a row, by seed."""


class HomeIntervals:
    """Intervals of the rows of a home's results: computed when first asked for, and kept in the home.

    They are ``intervals/<digest>.json``, named by what they are of; where the home cannot be written they are computed
    each time. A row whose statistics are absent, damaged or of another score, or whose task is not installed, has a
    ``problem`` instead of intervals: its table is shown all the same. ``home`` may say of each run in which home its
    statistics lie; intervals are then kept in that of a row's first one. ``over_seeds`` as of
    :func:`bootstrap_interval`.
    """

    def __init__(self, home: Location | Callable[[str], Location], *, over_seeds: bool = False) -> None:
        self._over_seeds = over_seeds
        self._home_of = (lambda _: home) if isinstance(home, Location) else home
        self._known: dict[str, Uncertainty] = {}
        self._prior: tuple[Any, Sequence[ImageStatistics], dict[str, np.ndarray]] = (None, (), {})
        """Of the row before: its task and resamples, its priors and their scores. Rows of one table share them."""

    def __call__(self, results: Sequence[Result]) -> Uncertainty:
        key = interval_key(results, over_seeds=self._over_seeds)
        if key not in self._known:
            home = self._home_of(results[0].run)
            self._known[key] = self._kept(home, key) or self._computed(home, results, key)
        return self._known[key]

    def _kept(self, home: Location, key: str) -> Uncertainty | None:
        try:
            kept = _INTERVALS.validate_json(home.read(key, most=MOST_BYTES), strict=True)
        except (FileNotFoundError, LocationError, ValueError):
            return None  # it is made again, whatever is wrong with it
        differences = {metric: Difference(*facts) for metric, facts in kept["differences"].items()}
        return Uncertainty(intervals=kept["intervals"], differences=differences, over=OVER[self._over_seeds])

    def _computed(self, home: Location, results: Sequence[Result], key: str) -> Uncertainty:
        try:
            task = task_of(results[0])
            statistics = [checked_statistics(self._home_of(one.run), one, task) for one in results]
            found = self._uncertainty(results, statistics, task)
        except DeapcacheError as error:
            return Uncertainty(problem=str(error))
        kept = plain_json({"runs": [result.run for result in results], **vars(found)})
        with contextlib.suppress(LocationError):  # a home that is only read
            home.publish(key, json.dumps(kept).encode(), replace=True)
        return found

    def _uncertainty(self, results: Sequence[Result], statistics: Sequence[Statistics], task: Task) -> Uncertainty:
        """Intervals of the scores, and of their differences from the prior over the same drawn images."""
        first = results[0]
        runs = [task.summands(run) for run in _same_images(statistics)]
        resamples = _resamples(task, statistics)
        weights = _weights(_images(runs), resamples, seed=0)
        ours = _task_scores(runs, task, weights)
        theirs = self._prior_scores((first.task, first.protocol["task_options"], resamples), statistics, task, weights)
        intervals = {}
        for metric, scores in ours.items():
            low, high = _estimate([scores], resamples, over_seeds=self._over_seeds).interval
            about = first.metrics.get(metric, {})
            is_share = about.get("higher_is_better") and not about.get("unit")
            # within 0 and, of a share, 1, where no score lies beyond
            low = low if (scores < 0).any() else max(low, 0.0)
            intervals[metric] = low, min(high, 1.0) if is_share and not (scores > 1).any() else high
        kept = {metric: float(np.mean([one.prior.get(metric, math.nan) for one in results])) for metric in theirs}
        return Uncertainty(
            intervals={metric: interval for metric, interval in intervals.items() if interval[0] != interval[1]},
            differences={
                metric: _estimate([ours[metric], scores], resamples, over_seeds=self._over_seeds)
                for metric, scores in theirs.items()
                if metric in first.metrics and same_score(kept[metric], float(scores[:, 0].mean()))
            },
            over=OVER[self._over_seeds],
        )

    def _prior_scores(
        self, measured: Any, statistics: Sequence[Statistics], task: Task, weights: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Of the priors, or of one where all are the same; those of the row before where its were these."""

        def is_equal(one: ImageStatistics, other: ImageStatistics) -> bool:
            return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)

        priors = [task.summands(one.prior) for one in statistics]
        if all(is_equal(prior, priors[0]) for prior in priors):  # as a rule
            priors = priors[:1]
        known, before, _ = self._prior
        if known != measured or len(before) != len(priors) or not all(map(is_equal, before, priors)):
            self._prior = measured, priors, _task_scores(priors, task, weights)
        return self._prior[2]


def interval_key(results: Sequence[Result], *, over_seeds: bool = False) -> str:
    """Where the intervals of a row lie in the home: another once a run was made anew."""
    runs = [[one.run, one.date, dict(plain_json(one.scores)), dict(plain_json(one.prior))] for one in results]
    facts = {"runs": runs, "code": results[0].versions.get("deapcache", ""), "resamples": RESAMPLES}
    facts |= {"kind": "Student, with the score", "over_seeds": over_seeds}
    return f"intervals/{digest_of(facts)[:SHORT]}.json"


def paired_difference(
    home: Location, left: Sequence[Result], right: Sequence[Result], *, over_seeds: bool = False
) -> dict[str, Difference]:
    """Mean score of ``left`` minus that of ``right``, both scored on the same drawn images; by metric.

    Both are the seeds of a row: ``results`` of :func:`deapcache.results.table_rows`. What makes some images harder than
    others cancels out, so that its interval says more than those of both rows do. ``over_seeds`` as of
    :func:`bootstrap_interval`.

    Raises :class:`ResultsError` where they were not scored on the same images, or where statistics are absent, damaged
    or of another score.
    """
    ((_, _, over_both, over_images),) = pair_differences(home, [left, right])
    return over_both if over_seeds else over_images


def pair_differences(
    home: Location, rows: Sequence[Sequence[Result]]
) -> Iterator[tuple[int, int, dict[str, Difference], dict[str, Difference]]]:
    """Of each pair of ``rows`` their places, and :func:`paired_difference` over images and seeds, and over images.

    The scores of a row on the drawn images are computed once, in however many pairs it is. Raises what that raises.
    """
    if len(rows) < 2:
        return
    task = task_of(rows[0][0])
    statistics = [checked_statistics(home, result, task) for row in rows for result in row]
    images = [task.summands(run) for run in _same_images(statistics)]
    resamples = _resamples(task, statistics)
    weights = _weights(_images(images), resamples, seed=0)
    of_each = iter(images)
    drawn = [_task_scores([next(of_each) for _ in row], task, weights) for row in rows]
    for left, right in combinations(range(len(rows)), 2):
        over_both, over_images = (
            {
                metric: _estimate([ours, drawn[right][metric]], resamples, over_seeds=over_seeds)
                for metric, ours in drawn[left].items()
            }
            for over_seeds in (True, False)
        )
        yield left, right, over_both, over_images


def task_of(result: Result) -> Task:
    """The task of a result, with the choices of its protocol; raises :class:`UnknownNameError` where it is not here."""
    options = result.protocol["task_options"]
    choices = get_task(result.task).choices
    return get_task(result.task, {name: options[name] for name in choices if name in options})


def checked_statistics(home: Location, result: Result, task: Task) -> Statistics:
    """Statistics of a run, which give the score that is kept beside them, and of its prior, which give some."""
    found = load_statistics(home, result.run)
    for arrays, what in ((found.run, "statistics"), (found.prior, "prior's statistics")):
        try:
            recomputed = task.scores(dict(arrays))[result.main_metric]
        except KeyError as error:
            raise ResultsError(f"the {what} of {result.run} lack {error}: run the probe again") from None
        except (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:  # of another shape
            reason = f"{type(error).__name__}: {error}"
            raise ResultsError(f"the {what} of {result.run} cannot be scored ({reason}): run the probe again") from None
        kept = result.scores[result.main_metric]
        if arrays is found.run and not same_score(kept, recomputed):
            raise ResultsError(
                f"{result.run} keeps {result.main_metric} {kept:.6f}, its statistics give {recomputed:.6f}: "
                "they belong to another version of the run or of deapcache; run the probe again"
            )
    if _images([found.run]) != _images([found.prior]):
        raise ResultsError(f"the prior's statistics of {result.run} are of other images: run the probe again")
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


def _resamples(task: Task, runs: Sequence[Statistics]) -> int:
    """From how many the bootstrap of a task's scores is computed."""
    numbers = sum(values.size for values in runs[0].run.values())
    return RESAMPLES if task.scores_from_sums else min(RESAMPLES, max(_FEWEST, _NUMBERS // max(numbers, 1)))


def _task_scores(runs: Sequence[ImageStatistics], task: Task, weights: np.ndarray) -> dict[str, np.ndarray]:
    """:func:`_weighted_scores` of a task, from its summands."""
    from_sums = task.scores_from_sums
    return _weighted_scores(runs, task.scores_of_sums if from_sums else task.scores, weights, from_sums)
