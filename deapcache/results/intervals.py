"""Bootstrap intervals over images, from the per-image statistics that every run keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from deapcache.errors import ResultsError

ImageStatistics = Mapping[str, np.ndarray]
"""Name → (images, ...)."""

Scores = Callable[[dict[str, np.ndarray]], Mapping[str, float]]
"""A task's ``scores``: per-image statistics → dataset-level scores."""

Interval = tuple[float, float]


def bootstrap_interval(
    runs: Sequence[ImageStatistics], scores: Scores, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Percentile interval of the mean score of ``runs`` (the seeds of one row) when images are drawn again.

    Every resample draws the same images for all runs. ``scores`` is computed over the drawn images as a whole, so that
    metrics that pool pixels or are no mean over images get their right interval. Metric → (low, high).

    Raises :class:`ResultsError` where the runs are not over the same number of images.
    """
    drawn = [_mean_scores(runs, scores, rows) for rows in _resamples(_images(runs), resamples, seed)]
    return _percentiles(drawn, level)


def bootstrap_difference(
    left: Sequence[ImageStatistics],
    right: Sequence[ImageStatistics],
    scores: Scores,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile interval of mean score of ``left`` minus that of ``right``, both on the same drawn images (paired).

    Raises :class:`ResultsError` where the runs are not over the same number of images.
    """
    drawn = []
    for rows in _resamples(_images([*left, *right]), resamples, seed):
        ours, theirs = _mean_scores(left, scores, rows), _mean_scores(right, scores, rows)
        drawn.append({metric: ours[metric] - theirs[metric] for metric in ours})
    return _percentiles(drawn, level)


def _images(runs: Sequence[ImageStatistics]) -> int:
    counts = sorted({len(values) for run in runs for values in run.values()})
    if len(counts) != 1:
        raise ResultsError(
            f"statistics over {' and '.join(map(str, counts)) or 'no'} images cannot be resampled together: "
            "give runs that were scored on the same images"
        )
    return counts[0]


def _resamples(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(0, images, images)


def _mean_scores(runs: Sequence[ImageStatistics], scores: Scores, rows: np.ndarray) -> dict[str, float]:
    found = [scores({name: values[rows] for name, values in run.items()}) for run in runs]
    return {metric: float(np.mean([one[metric] for one in found])) for metric in found[0]}


def _percentiles(drawn: Sequence[Mapping[str, float]], level: float) -> dict[str, Interval]:
    outside = 100 * (1 - level) / 2
    return {
        metric: (float(low), float(high))
        for metric in drawn[0]
        # a metric may be undefined on some draws, e.g. without any positive pixel
        for low, high in [np.nanpercentile([one[metric] for one in drawn], [outside, 100 - outside])]
    }
