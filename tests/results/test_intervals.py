"""Intervals over images behave like intervals, by either way of computing them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from deapcache.errors import ResultsError
from deapcache.results import bootstrap_difference, bootstrap_interval, holm
from deapcache.tasks import TASKS, get_task
from tests.benchmarks import bench_intervals

POOLED = ("boundaries", "foreground", "edges", "segmentation", "voc", "coco-stuff", "depth", "normals")


def _mean(drawn: dict[str, np.ndarray]) -> dict[str, float]:
    return {"mean": float(drawn["values"].mean())}


def _ratio(drawn: dict[str, np.ndarray]) -> dict[str, float]:
    return {"iou": float(drawn["hits"].sum() / drawn["union"].sum())}


def test_interval_matches_theory_and_shrinks_with_images() -> None:
    generator = np.random.default_rng(1)
    widths = []
    for images in (100, 1600):
        values = generator.normal(3.0, 2.0, images)
        low, high = bootstrap_interval([{"values": values}], _mean)["mean"]
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(images), rel=0.12)
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_interval_and_p_of_a_mean_are_those_of_the_paired_t_test() -> None:
    generator = np.random.default_rng(4)
    left, right = generator.normal(0.3, 1, 40), generator.normal(0, 1, 40)
    found = bootstrap_difference([{"values": left}], [{"values": right}], _mean, resamples=4000)["mean"]
    expected = ttest_rel(left, right)
    assert found.value == pytest.approx((left - right).mean())
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()), rel=0.1, abs=0.05)
    assert found.p == pytest.approx(expected.pvalue, abs=0.03)


def test_a_biased_score_has_its_interval_moved_to_where_it_belongs() -> None:
    """The largest value of a sample is too low: its interval reaches further up than down."""
    values = np.random.default_rng(0).random(60)
    low, high = bootstrap_interval([{"v": values}], lambda drawn: {"m": float(drawn["v"].max())})["m"]
    assert high - values.max() > values.max() - low


def test_an_interval_holds_its_score_however_biased_and_a_difference_of_unknown_sign_is_none() -> None:
    """Of 60 distinct values a draw has 63%: correcting for that moves the interval past the score that it is of."""

    def score(drawn: dict[str, np.ndarray]) -> dict[str, float]:
        return {"m": drawn["base"].mean() - len(np.unique(drawn["v"])) / len(drawn["v"])}

    distinct = {"base": np.full(60, 1.1), "v": np.arange(60.0)}
    low, high = bootstrap_interval([distinct], score)["m"]
    assert low < -0.1
    assert high == pytest.approx(0.1)
    alike = {"base": np.full(60, 1 / 60), "v": np.zeros(60)}
    found = bootstrap_difference([distinct], [alike], score)["m"]
    assert (found.value, found.interval) == (pytest.approx(0.1), pytest.approx((low, high)))
    assert found.p == 1
    further = bootstrap_difference([{**distinct, "base": np.full(60, 0.7)}], [alike], score)["m"]
    assert further.interval[1] == pytest.approx(further.value) == pytest.approx(-0.3)
    assert further.p < 0.001


def test_intervals_over_seeds_hold_what_other_seeds_give() -> None:
    generator, held = np.random.default_rng(1), {False: 0, True: 0}
    for _ in range(60):
        seeds, images = generator.normal(0, 0.5, (3, 1)), generator.normal(0, 1, 40)
        runs = [{"values": values} for values in seeds + images]
        for over_seeds in held:
            low, high = bootstrap_interval(runs, _mean, resamples=40, over_seeds=over_seeds)["mean"]
            held[over_seeds] += low <= 0 <= high
    assert held[False] < 45
    assert held[True] >= 54
    single = [bootstrap_interval(runs[:1], _mean, resamples=40, over_seeds=each) for each in held]
    assert single[0] == single[1]


def test_holms_correction_is_that_of_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, math.nan, 0.8]) == pytest.approx([1, math.nan, 1], nan_ok=True)
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []


def test_intervals_of_miou_hold_the_truth_as_often_as_they_say() -> None:
    """32 classes, many of them rare, in 76 images: percentiles hold it in a third of all samples."""
    shares = bench_intervals.coverage(samples=60, resamples=200)
    assert shares["ours"] >= 0.85
    assert shares["percentile"] < 0.6


def test_interval_is_reproducible_and_follows_its_seed() -> None:
    runs = [{"values": np.random.default_rng(0).random(50)}]
    assert bootstrap_interval(runs, _mean, resamples=50) == bootstrap_interval(runs, _mean, resamples=50)
    assert bootstrap_interval(runs, _mean, resamples=50) != bootstrap_interval(runs, _mean, resamples=50, seed=1)


def test_pooled_metrics_are_recomputed_on_each_draw() -> None:
    generator = np.random.default_rng(0)
    union = generator.integers(1, 1000, 200)
    run = {"hits": (union * 0.5).astype(int), "union": union}
    low, high = bootstrap_interval([run], _ratio)["iou"]
    assert 0.49 < low <= _ratio(run)["iou"] <= high < 0.501


def test_paired_difference_cancels_what_images_share() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, 300)
    left, right = {"values": hard + 0.5}, {"values": hard}
    found = bootstrap_difference([left], [right], _mean)["mean"]
    assert (found.value, *found.interval) == pytest.approx((0.5, 0.5, 0.5))
    assert found.p < 1e-6


def test_seeds_are_averaged_within_a_draw() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 10, 300)
    low, high = bootstrap_interval([{"values": noise}, {"values": -noise}], _mean)["mean"]
    assert low == pytest.approx(0)
    assert high == pytest.approx(0)


def test_undefined_draws_are_left_out() -> None:
    def sometimes(drawn: dict[str, np.ndarray]) -> dict[str, float]:
        return {"m": float(drawn["v"].mean()) if drawn["v"].any() else math.nan}

    low, high = bootstrap_interval([{"v": np.array([0.0, 0.0, 1.0])}], sometimes, resamples=200)["m"]
    assert low < 1 / 3 < high


def test_runs_over_other_images_are_refused() -> None:
    with pytest.raises(ResultsError, match="3 and 4 images"):
        bootstrap_interval([{"values": np.ones(3)}, {"values": np.ones(4)}], _mean)


def test_draws_that_are_all_undefined_have_no_interval() -> None:
    (low, high) = bootstrap_interval([{"v": np.zeros(3)}], lambda drawn: {"m": math.nan}, resamples=20)["m"]
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("name", POOLED)
def test_tasks_that_need_only_sums_get_the_same_interval_from_them(name) -> None:
    task = get_task(name)
    generator = torch.Generator().manual_seed(0)
    (channels,) = task.heads(()) if name != "segmentation" else (4,)
    output = torch.randn(12, channels, 6, 7, generator=generator)
    target = torch.randint(0, max(channels, 2), (12, 6, 7), generator=generator)
    target[3] = 255
    if name == "normals":
        target = torch.nn.functional.normalize(torch.randn(12, 3, 6, 7, generator=generator), dim=1)
    elif name == "edges":
        target = task.target({"edges": torch.randint(0, 8, (12, 6, 7), generator=generator, dtype=torch.int16)})
    statistics = {key: values.numpy() for key, values in task.statistics(output, target).items()}
    runs = [statistics, {key: values[::-1] for key, values in statistics.items()}]
    gathered = bootstrap_interval(runs, task.scores, resamples=40)
    summands = [task.summands(run) for run in runs]
    summed = bootstrap_interval(summands, task.scores_of_sums, resamples=40, from_sums=True)
    assert task.scores_from_sums
    assert gathered.keys() == summed.keys()
    for metric, interval in gathered.items():
        assert summed[metric] == pytest.approx(interval, rel=1e-9)
        assert interval[0] < interval[1]
    difference = bootstrap_difference(summands[:1], summands[1:], task.scores_of_sums, resamples=40, from_sums=True)
    again = bootstrap_difference(runs[:1], runs[1:], task.scores, resamples=40)
    assert difference[task.main_metric].interval == pytest.approx(again[task.main_metric].interval, abs=1e-12)


def test_only_tasks_shown_to_need_sums_say_so() -> None:
    assert [name for name in TASKS.names() if get_task(name).scores_from_sums] == sorted(
        POOLED, key=TASKS.names().index
    )
