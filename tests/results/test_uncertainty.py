"""Intervals of a home's results come from its statistics, are kept there, and are never those of something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deapcache_results import main_rows

from deapcache.errors import ReadOnlyError, ResultsError
from deapcache.results import (
    HomeIntervals,
    bootstrap_difference,
    bootstrap_interval,
    load_results,
    make_tables,
    paired_difference,
    save_run,
    table_rows,
)
from deapcache.results.intervals import interval_key
from deapcache.results.verdict import verdict
from deapcache.tasks import TASKS, get_task

METRICS = {"iou": {"label": "IoU", "unit": "", "higher_is_better": True}}


def _statistics(seed: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (9, 5, 6), generator=torch.Generator().manual_seed(9))
    found = get_task("boundaries").statistics(torch.randn(9, 1, 5, 6, generator=generator), target)
    return {name: values.numpy() for name, values in found.items()}


@pytest.fixture
def row(home, facts, arrays):
    """A function that saves runs of boundaries with real statistics, and gives their summary."""

    def make(seeds=(0, 1), **changes):
        for seed in seeds:
            statistics = _statistics(seed)
            scores = get_task("boundaries").scores(statistics) | changes.get("scores", {})
            names = changes.get("ids", {}).get(seed, [str(number) for number in range(9)])
            prior = _statistics(5)
            parts = {**arrays, "statistics": statistics, "prior_statistics": prior, "image_ids": names}
            given = facts(seed=seed, scores=scores, metrics=METRICS)
            save_run(home, given | {"prior": get_task("boundaries").scores(prior)}, **parts)
        (summary,) = main_rows(load_results(home))
        return summary

    return make


def test_interval_is_the_bootstrap_over_all_seeds(home, row) -> None:
    summary = row()
    found = HomeIntervals(home)(summary.results)
    assert found.problem == ""
    expected = bootstrap_interval([_statistics(0), _statistics(1)], get_task("boundaries").scores)
    for metric, interval in expected.items():
        assert found.intervals[metric] == pytest.approx(interval, rel=1e-9)
    low, high = found.intervals["iou"]
    assert low < summary.mean < high


def test_the_difference_from_the_prior_is_over_the_same_drawn_images_and_is_kept(home, row) -> None:
    summary = row()
    expected = bootstrap_difference([_statistics(0), _statistics(1)], [_statistics(5)], get_task("boundaries").scores)
    for found in (HomeIntervals(home)(summary.results), HomeIntervals(home)(summary.results)):  # made, then kept
        assert found.differences["iou"].interval == pytest.approx(expected["iou"].interval)
        assert found.differences["iou"].p == pytest.approx(expected["iou"].p)
    rows = table_rows(load_results(home), uncertainty=HomeIntervals(home)).set_index("metric")
    assert rows.loc["iou", "difference"].value == pytest.approx(summary.mean - summary.prior)


def test_intervals_over_seeds_are_others_and_say_so(home, row) -> None:
    results = row().results
    images, both = (HomeIntervals(home, over_seeds=each)(results) for each in (False, True))
    widths = [high - low for low, high in (one.intervals["cross_entropy"] for one in (images, both))]
    assert widths[0] < widths[1]
    assert HomeIntervals(home)(results) == images, "each is kept by itself"
    (table,) = make_tables(table_rows(load_results(home), uncertainty=HomeIntervals(home, over_seeds=True)))
    assert "over val images and seeds" in "\n".join(table.notes)


def test_intervals_are_kept_in_the_home_until_a_run_is_made_anew(home, row) -> None:
    summary = row()
    found = HomeIntervals(home)(summary.results)
    assert load_results(home) == list(summary.results)  # what is kept is no result
    home.delete(f"results/{summary.result.run}.stats.safetensors")
    assert HomeIntervals(home)(summary.results).intervals == found.intervals
    home.publish(interval_key(summary.results), b"{", replace=True)
    assert "has no results/" in HomeIntervals(home)(summary.results).problem
    again = row(scores={"cross_entropy": 0.123})
    assert interval_key(again.results) != interval_key(summary.results)


def test_a_home_that_is_only_read_is_enough(home, row, monkeypatch) -> None:
    summary = row()

    def refuse(*_, **__):
        raise ReadOnlyError("read only")

    monkeypatch.setattr(type(home), "publish", refuse)
    assert "iou" in HomeIntervals(home)(summary.results).intervals
    assert not home.exists(interval_key(summary.results))


def test_statistics_of_another_score_are_not_used(home, row) -> None:
    found = HomeIntervals(home)(row(scores={"iou": 0.9}).results)
    assert found.intervals == {}
    assert "keeps iou 0.900000, its statistics give" in found.problem


def test_damaged_incomplete_and_unequal_statistics_are_problems(home, row, arrays, facts) -> None:
    summary = row()
    key = f"results/{summary.result.run}.stats.safetensors"
    whole = home.read(key)
    home.publish(key, whole[:-3], replace=True)
    assert "is damaged" in HomeIntervals(home)(summary.results).problem
    save_run(home, facts(seed=0, scores=dict(summary.result.scores), metrics=METRICS), **arrays)
    assert "lack 'valid'" in HomeIntervals(home)(summary.results).problem
    unequal = row(ids={1: [f"other {number}" for number in range(9)]})
    assert "not scored on the same images" in HomeIntervals(home)(unequal.results).problem


def test_a_task_that_is_not_installed_is_a_problem(home, facts, arrays) -> None:
    save_run(home, facts(task="somebodys"), **arrays)
    (summary,) = main_rows(load_results(home))
    assert "somebodys" in HomeIntervals(home)(summary.results).problem


def test_paired_difference_is_over_the_same_drawn_images(home, row) -> None:
    row(seeds=(0, 1, 2))
    first, second = (main_rows(r for r in load_results(home) if r.seed in seeds)[0] for seeds in ((0, 1), (2,)))
    expected = bootstrap_difference([_statistics(0), _statistics(1)], [_statistics(2)], get_task("boundaries").scores)
    found = paired_difference(home, first.results, second.results)
    for metric, difference in expected.items():
        assert found[metric].value == pytest.approx(difference.value, abs=1e-12)
        assert found[metric].interval == pytest.approx(difference.interval, abs=1e-12)
    row(seeds=(2,), ids={2: [f"other {number}" for number in range(9)]})
    with pytest.raises(ResultsError, match="not scored on the same images"):
        paired_difference(home, first.results, second.results)


@pytest.fixture
def rows(home, facts, arrays):
    """Rows of boundaries by backbone: the first two with one prior, the third with another."""
    for place, prior in enumerate((5, 5, 6)):
        statistics, theirs = _statistics(place), _statistics(prior)
        parts = {
            **arrays,
            "statistics": statistics,
            "prior_statistics": theirs,
            "image_ids": [str(n) for n in range(9)],
        }
        made = facts(backbone=f"b{place}", scores=get_task("boundaries").scores(statistics), metrics=METRICS)
        save_run(home, made | {"prior": get_task("boundaries").scores(theirs)}, **parts)
    return main_rows(load_results(home))


@pytest.fixture
def scored(monkeypatch):
    """How often a task's scores were computed on drawn images: an entry each."""
    kind, calls = type(get_task("boundaries")), []
    scores = kind.scores_of_sums

    def counted(task, sums):
        if len(next(iter(sums.values()))) > 1:
            calls.append(len(sums))
        return scores(task, sums)

    monkeypatch.setattr(kind, "scores_of_sums", counted)
    return calls


def test_rows_with_one_prior_score_it_once_and_another_is_not_mistaken_for_it(home, rows, scored) -> None:
    uncertainty = HomeIntervals(home)
    found = [uncertainty(row.results).differences["iou"] for row in rows]
    assert len(scored) == 5, "three runs, and two priors"
    for place, prior in enumerate((5, 5, 6)):
        expected = bootstrap_difference([_statistics(place)], [_statistics(prior)], get_task("boundaries").scores)
        assert found[place].interval == pytest.approx(expected["iou"].interval)


def test_a_verdict_draws_the_images_of_each_row_once(home, rows, scored) -> None:
    said = verdict(home, rows)
    assert len(scored) == len(rows)
    places = {row.display_name: row for row in rows}
    for pair in said["pairs"]:
        left, right = (places[pair[name]].results for name in ("better", "worse"))
        expected = paired_difference(home, left, right, over_seeds=True)["iou"]
        assert (pair["difference"], tuple(pair["interval"])) == (expected.value, expected.interval)


class _Chosen:
    """A task whose scores follow a choice."""

    choices = {"side": ("left", "right")}  # noqa: RUF012
    scores_from_sums = False

    def __init__(self, side: str = "left") -> None:
        self._side = side

    def scores(self, statistics):
        return {"iou": float(statistics[self._side].mean())}

    def summands(self, statistics):
        return statistics


def test_a_score_of_one_image_has_no_interval(home, facts, arrays, monkeypatch) -> None:
    TASKS.names()
    monkeypatch.setitem(TASKS._entries, "boundaries", _OfOne)
    parts = {**arrays, "statistics": {"ari": np.array([np.nan, 0.5, np.nan])}}
    parts |= {"prior_statistics": {"ari": np.array([np.nan, 0.4, np.nan])}}
    save_run(home, facts(scores={"iou": 0.5}, metrics=METRICS) | {"prior": {"iou": 0.4}}, **parts)
    (summary,) = main_rows(load_results(home))
    found = HomeIntervals(home)(summary.results)
    assert (found.intervals, found.problem) == ({}, "")
    assert found.differences["iou"].value == pytest.approx(0.1)


class _OfOne(_Chosen):
    """A task that judges few images."""

    def scores(self, statistics):
        judged = statistics["ari"][~np.isnan(statistics["ari"])]
        return {"iou": float(judged.mean()) if len(judged) else float("nan")}


def test_scores_are_computed_with_the_choices_of_the_protocol(home, facts, arrays, monkeypatch) -> None:
    TASKS.names()
    monkeypatch.setitem(TASKS._entries, "boundaries", _Chosen)
    statistics = {"left": np.zeros(9), "right": np.arange(9.0)}
    given = facts(scores={"iou": 4.0}, metrics=METRICS)
    given["protocol"]["task_options"]["side"] = "right"
    arrays |= {"statistics": statistics, "prior_statistics": statistics}
    save_run(home, given, **{**arrays, "image_ids": [str(n) for n in range(9)]})
    (summary,) = main_rows(load_results(home))
    low, high = HomeIntervals(home)(summary.results).intervals["iou"]
    assert 1.5 < low < 4 < high < 6.5
