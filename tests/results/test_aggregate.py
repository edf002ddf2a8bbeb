"""Seeds are averaged, different measurements never are, and intervals behave like intervals."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import replace

import pytest
from deapcache_results import main_rows

from deapcache.errors import ResultsError
from deapcache.recipe import Protocol
from deapcache.results import Selection, select
from deapcache.results.record import make_result


def test_mean_and_sample_deviation_over_seeds(facts) -> None:
    values = [0.5, 0.7, 0.9]
    (summary,) = main_rows(make_result(facts(seed=seed, iou=value)) for seed, value in enumerate(values))
    assert summary.seeds == (0, 1, 2)
    assert summary.mean == pytest.approx(statistics.mean(values))
    assert summary.spread == pytest.approx(statistics.stdev(values))


def test_learning_rates_are_rows_of_one_table(facts) -> None:
    results = [make_result(facts(lr=lr, seed=seed)) for lr in (1e-3, 3e-4) for seed in (0, 1)]
    summaries = main_rows(results)
    assert [(s.lr, s.seeds) for s in summaries] == [(3e-4, (0, 1)), (1e-3, (0, 1))]
    assert len({s.comparison_key for s in summaries}) == 1
    assert len({s.protocol for s in summaries}) == 2


def test_cost_is_the_mean_of_what_all_seeds_measured(facts) -> None:
    costs = (
        {"train_ms_per_image": 1.0, "peak_bytes": 5.0, "images": 4},
        {"train_ms_per_image": 3.0, "peak_bytes": None},
    )
    (summary,) = main_rows(make_result(facts(seed=seed, cost=cost)) for seed, cost in enumerate(costs))
    assert summary.cost == {"train_ms_per_image": 2.0}


@pytest.mark.parametrize(
    ("changes", "flag"),
    [({"iterations": 7}, "--protocol"), ({"storage": "int8"}, "--cache"), ({"annotation": "x"}, "--cache")],
)
def test_a_refusal_names_the_options_that_keep_one_side(facts, changes, flag) -> None:
    one = [make_result(facts(seed=seed)) for seed in (0, 1)]
    other = make_result(facts(seed=2, **changes))
    if "annotation" in changes:  # the targets' recipe alone
        other = replace(other, protocol=one[0].protocol, protocol_digest=one[0].protocol_digest)
    with pytest.raises(ResultsError, match="--allow-mixed") as refused:
        main_rows([*one, other])
    ways = re.findall(rf"{flag} ([0-9a-f]+(?:,[0-9a-f]+)*)", str(refused.value))
    kind = flag.removeprefix("--") + "s"
    kept = [select([*one, other], Selection(**{kind: way.split(",")})) for way in ways]
    assert sorted(len(results) for results in kept) == [1, 2]
    assert all(len(main_rows(results)) == 1 for results in kept)


def test_a_refusal_names_all_protocols_of_a_side(facts) -> None:
    chosen = ((5, "bicubic"), (5, "deap"), (9, "deap"))
    with pytest.raises(ResultsError) as refused:
        main_rows([make_result(facts(iterations=iterations, readout=readout)) for iterations, readout in chosen])
    ways = re.findall(r"--protocol ([0-9a-f]+(?:,[0-9a-f]+)*)", str(refused.value))
    assert sorted(len(way.split(",")) for way in ways) == [1, 2]


def test_a_protocol_from_before_there_were_views_is_one_of_original_images(facts) -> None:
    one, other = (make_result(facts(seed=seed)) for seed in (0, 1))
    (summary,) = main_rows([one, replace(other, protocol={**other.protocol, "views": ["original"]})])
    assert summary.seeds == (0, 1)
    changed = {**other.protocol, "views": ["original", "hflip"]}
    mirrored = replace(other, protocol=changed, protocol_digest=Protocol.from_json(changed).digest)
    with pytest.raises(ResultsError, match=r"protocol\.views: \['original'\] or \['original', 'hflip'\]"):
        main_rows([one, mirrored])


def _control(facts, seed: int, iou: float, *, weights: int, digest: str = ""):
    made = facts(backbone="tiny@untrained" + (f":{weights}" if weights else ""), seed=seed, iou=iou)
    for split in ("train", "val"):
        made["caches"][split]["recipe"]["weights"] = f"untrained:{digest or weights}"
    return make_result(made)


def test_random_weights_of_several_seeds_are_one_row_whose_spread_is_over_them(facts) -> None:
    controls = [_control(facts, 0, 0.1, weights=0), _control(facts, 0, 0.2, weights=1)]
    controls += [_control(facts, 1, 0.4, weights=1), _control(facts, 0, 0.5, weights=12)]
    trained, row = sorted(main_rows([*controls, make_result(facts())]), key=lambda row: len(row.results))
    assert (row.display_name, row.backbone, trained.display_name) == (*["tiny@untrained:0,1,12"] * 2, "tiny")
    assert row.mean == pytest.approx(0.3)
    assert row.spread == pytest.approx(statistics.stdev([0.1, 0.3, 0.5]))
    assert [one.display_name for one in main_rows(controls[1:3])] == ["tiny@untrained:1"]
    assert select(controls, Selection(backbones=["tiny@untrained:0", "tiny@untrained:12"])) == controls[::3]


def test_other_random_weights_of_the_same_seed_are_no_seeds_of_each_other(facts) -> None:
    results = [_control(facts, seed, 0.1, weights=1, digest=f"of version {seed}") for seed in (0, 1)]
    with pytest.raises(ResultsError, match=r"train\.weights: 'untrained:of version 0' or 'untrained:of version 1'"):
        main_rows(results)
    assert len(main_rows(results, allow_mixed=True)) == 2


def test_one_seed_has_no_spread(facts) -> None:
    (summary,) = main_rows([make_result(facts())])
    assert math.isnan(summary.spread)


def test_backbones_and_readouts_are_rows_of_their_own(facts) -> None:
    results = [
        make_result(facts(backbone=backbone, readout=readout)) for backbone in ("b", "a") for readout in ("x", "y")
    ]
    assert [(s.backbone, s.readout) for s in main_rows(results)] == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


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
        main_rows(results)
    mixed = main_rows(results, allow_mixed=True)
    assert [len(summary.results) for summary in mixed] == [1, 1]
