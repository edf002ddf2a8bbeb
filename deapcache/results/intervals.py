"""Bootstrap intervals over images, from the per-image statistics that every run keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deapcache.errors import ResultsError

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
