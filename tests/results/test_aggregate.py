"""Seeds are averaged, different measurements never are, and intervals behave like intervals."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from deapcache.errors import ResultsError
from deapcache.results import bootstrap_difference, bootstrap_interval, summarise
from deapcache.results.record import make_result


def test_mean_and_sample_deviation_over_seeds(facts) -> None:
    values = [0.5, 0.7, 0.9]
    (summary,) = summarise(make_result(facts(seed=seed, iou=value)) for seed, value in enumerate(values))
    assert summary.seeds == (0, 1, 2)
    assert summary.mean["iou"] == pytest.approx(statistics.mean(values))
    assert summary.spread["iou"] == pytest.approx(statistics.stdev(values))


def test_one_seed_has_no_spread(facts) -> None:
    (summary,) = summarise([make_result(facts())])
    assert math.isnan(summary.spread["iou"])


def test_backbones_and_readouts_are_rows_of_their_own(facts) -> None:
    results = [
        make_result(facts(backbone=backbone, readout=readout)) for backbone in ("b", "a") for readout in ("x", "y")
    ]
    assert [(s.backbone, s.readout) for s in summarise(results)] == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"iterations": 7}, r"protocol\.iterations: (100 or 7|7 or 100)"),
        ({"storage": "int8"}, "train.storage: ('float16' or 'int8'|'int8' or 'float16')"),
        ({"iterations": 7, "backbone": "other"}, r"protocol\.iterations"),
        ({"size": (8, 8), "readout": "bicubic"}, r"protocol\.output_size"),
    ],
)
def test_what_was_measured_differently_is_refused_and_named(facts, changes, field) -> None:
    results = [make_result(facts()), make_result(facts(seed=1, **changes))]
    with pytest.raises(ResultsError, match=field):
        summarise(results)
    mixed = summarise(results, allow_mixed=True)
    assert [len(summary.results) for summary in mixed] == [1, 1]


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


def test_interval_is_reproducible_and_follows_its_seed() -> None:
    runs = [{"values": np.random.default_rng(0).random(50)}]
    assert bootstrap_interval(runs, _mean, resamples=50) == bootstrap_interval(runs, _mean, resamples=50)
    assert bootstrap_interval(runs, _mean, resamples=50) != bootstrap_interval(runs, _mean, resamples=50, seed=1)


def test_pooled_metrics_are_recomputed_on_each_draw() -> None:
    generator = np.random.default_rng(0)
    union = generator.integers(1, 1000, 200)
    run = {"hits": (union * 0.5).astype(int), "union": union}
    low, high = bootstrap_interval([run], _ratio)["iou"]
    assert 0.49 < low <= _ratio(run)["iou"] <= high <= 0.5


def test_paired_difference_cancels_what_images_share() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, 300)
    left, right = {"values": hard + 0.5}, {"values": hard}
    low, high = bootstrap_difference([left], [right], _mean)["mean"]
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(0.5)


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
    assert 0 < low < high <= 1


def test_runs_over_other_images_are_refused() -> None:
    with pytest.raises(ResultsError, match="3 and 4 images"):
        bootstrap_interval([{"values": np.ones(3)}, {"values": np.ones(4)}], _mean)
