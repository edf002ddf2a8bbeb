"""How often 95% intervals hold the score of all images: percentile, basic, BCa and ours, by simulation.

usage: python -m tests.benchmarks.bench_intervals [--quick] [--samples N]

Made-up confusion counts of 20,000 images: two to five of the classes in each, the k-th commonest 1/k as often as the
first, and pixels confused with others of the image and with any class. The score of all of them is the truth; samples
of few images are drawn, and a method is right where its interval of the sample's score holds the truth.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from deapcache.results.intervals import LEVEL, Interval, bootstrap_interval
from deapcache.tasks import get_task

POPULATION, PIXELS = 20_000, 3136
SETTINGS = ((32, 76), (12, 60), (32, 300), (8, 30), (150, 200))
"""(Classes, images)."""
METHODS = ("percentile", "basic", "BCa", "ours")
NORMAL = NormalDist()

Counts = Mapping[str, np.ndarray]


def population(classes: int, seed: int = 5) -> Counts:
    """The statistics of segmentation, (images, classes) and (images,)."""
    generator = np.random.default_rng(seed)
    often = 1 / np.arange(1, classes + 1)
    often /= often.sum()
    ease = generator.beta(4, 3, classes)
    found = {name: np.zeros((POPULATION, classes), np.int64) for name in ("intersection", "predicted", "actual")}
    for image in range(POPULATION):
        there = generator.choice(classes, generator.integers(2, 6), replace=False, p=often)
        actual = np.round(generator.dirichlet(np.ones(len(there))) * PIXELS).astype(np.int64)
        share = np.clip(generator.beta(3, 3, len(there)) * 0.5 + ease[there] * 0.6 - 0.05, 0, 1)
        right = np.round(actual * share).astype(np.int64)
        found["actual"][image, there], found["intersection"][image, there] = actual, right
        found["predicted"][image, there] += right
        among = generator.integers(len(there), size=len(there))
        anywhere = generator.choice(classes, len(there), p=often)
        np.add.at(found["predicted"][image], there[among], (actual - right) // 2)
        np.add.at(found["predicted"][image], anywhere, actual - right - (actual - right) // 2)
    return {**found, "valid": found["actual"].sum(1), "cross_entropy": np.zeros(POPULATION)}


def coverage(
    classes: int = 32, images: int = 76, *, samples: int = 200, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Method → share of the samples whose interval of mIoU holds that of all images."""
    every, generator = population(classes), np.random.default_rng(seed)
    truth = _mean_iou(every)
    held = dict.fromkeys(METHODS, 0)
    for sample in range(samples):
        rows = generator.integers(0, POPULATION, images)
        drawn = {name: values[rows] for name, values in every.items()}
        for method, (low, high) in _intervals(drawn, resamples, sample).items():
            held[method] += low <= truth <= high
    return {method: count / samples for method, count in held.items()}


def _mean_iou(counts: Counts) -> float:
    return get_task("segmentation").scores(counts)["mean_iou"]


def _intervals(counts: Counts, resamples: int, seed: int) -> dict[str, Interval]:
    task = get_task("segmentation")
    images, score = len(counts["valid"]), _mean_iou(counts)
    draws = np.random.default_rng(seed).integers(0, images, (resamples, images))
    times = np.stack([np.bincount(rows, minlength=images) for rows in draws]).astype(np.float64)
    sums = {name: times @ values for name, values in counts.items()}
    drawn = np.array([_mean_iou({n: values[k][None] for n, values in sums.items()}) for k in range(resamples)])
    without = np.array([_mean_iou({n: np.delete(values, k, 0) for n, values in counts.items()}) for k in range(images)])
    ends = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.quantile(drawn, ends)
    ours = bootstrap_interval([counts], task.scores_of_sums, resamples=resamples, seed=seed, from_sums=True)["mean_iou"]
    bca = np.quantile(drawn, _bca_ends(score, drawn, without, ends))
    return {
        "percentile": (low, high),
        "basic": (2 * score - high, 2 * score - low),
        "BCa": (bca[0], bca[1]),
        "ours": ours,
    }


def _bca_ends(score: float, drawn: np.ndarray, without: np.ndarray, ends: np.ndarray) -> list[float]:
    """Efron 1987: the percentiles moved by the bias and the acceleration, which leaves out each image in turn."""
    below = np.clip(np.mean(drawn < score), 1 / len(drawn), 1 - 1 / len(drawn))
    influence = without.mean() - without
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    bias = NORMAL.inv_cdf(float(below))
    z = [bias + NORMAL.inv_cdf(float(end)) for end in ends]
    return [NORMAL.cdf(bias + each / (1 - acceleration * each)) for each in z]


def main() -> None:
    """Print the shares of all settings."""
    arguments = sys.argv[1:]
    samples = int(arguments[arguments.index("--samples") + 1]) if "--samples" in arguments else 200
    settings = SETTINGS[:1] if "--quick" in arguments else SETTINGS
    print(f"share of {samples} samples whose 95% interval of mIoU holds the score of {POPULATION:,} images")
    print("classes  images  " + "  ".join(f"{method:>10}" for method in METHODS))
    for classes, images in settings:
        found = coverage(classes, images, samples=10 if "--quick" in arguments else samples)
        print(f"{classes:7}  {images:6}  " + "  ".join(f"{found[method]:10.1%}" for method in METHODS), flush=True)


if __name__ == "__main__":
    main()
