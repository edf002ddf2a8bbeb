"""What stands beside what, and what is counted once."""

from __future__ import annotations

import json
import shutil

import pytest
from deapcache_results import main_rows, make_facts, save_depth

from deapcache.errors import ResultsError
from deapcache.locations import LocalLocation
from deapcache.results import HomeIntervals, load_results, save_run
from deapcache.results.leaderboard import collect, leaderboard
from deapcache.results.paper import paper_backbones, paper_score


@pytest.fixture
def other(tmp_path):
    """Another lab's home."""
    (tmp_path / "other").mkdir()
    return LocalLocation(tmp_path / "other")


@pytest.fixture
def save(home, arrays):
    """A function that saves a run made by hand."""
    return lambda **changes: save_run(home, make_facts(**changes), **arrays)


def comparisons(*homes, **choices):
    """The entries of each comparison, with their main scores."""
    board = leaderboard(collect(homes), **{"intervals": False, "paper": False, **choices})
    return [[line for line in lines if line.is_main] for lines in board.comparisons]


def test_a_run_of_two_homes_is_counted_once_and_seeds_of_both_are_one_row(home, other):
    for seed in (0, 1):
        save_depth(home, seed)
    for key in home.keys(""):
        if "seed1" in key:
            (other.path / key).parent.mkdir(exist_ok=True)
            shutil.move(home.path / key, other.path / key)
    shutil.copytree(home.path, other.path, dirs_exist_ok=True)
    ((entry,),) = comparisons(home, other, home)
    assert entry.seeds == (0, 1)
    assert [str(place) for place in entry.homes] == [home.url, other.url]
    assert collect([home, other]).notes == ()


def test_seeds_of_two_homes_have_the_interval_that_they_have_in_one(tmp_path, home, other):
    save_depth(home, 0)
    save_depth(other, 1)
    both = LocalLocation(tmp_path / "both")
    for seed in (0, 1):
        save_depth(both, seed)
    ((entry,),) = comparisons(home, other, intervals=True)
    (summary,) = main_rows(load_results(both))
    assert entry.interval == HomeIntervals(both)(summary.results).intervals["rmse"]


def test_the_same_run_with_another_score_is_told(home, other):
    save_depth(home)
    kept = save_depth(other, further=0.5)
    (note,) = collect([home, other]).notes
    assert kept.run in note
    assert f"{kept.scores['rmse']:.6f}" in note
    assert str(other) in note


def test_what_was_measured_differently_has_a_column_of_its_own(home, save):
    for changes in ({"backbone": "one"}, {"backbone": "two", "iou": 0.6}, {"backbone": "one", "iterations": 7}):
        save(**changes)
    found = comparisons(home)
    assert sorted(entries[0].setting for entries in found) == ["iterations 100", "iterations 7"]
    (two,) = [entries for entries in found if entries[0].setting == "iterations 100"]
    assert [entry.backbone for entry in two] == ["two", "one"]


def test_rows_are_told_apart_by_what_differs(home, save):
    for changes in ({"lr": 1e-3}, {"lr": 5e-4}, {"storage": "int8"}):
        save(**changes)
    save(readout="linear")
    (comparison,) = comparisons(home)
    names = {entry.name for entry in comparison}
    assert names == {"deap (lr 0.001, storage float16)", "deap (lr 0.0005, storage float16)",
                     "deap (lr 0.001, storage int8)", "linear"}  # fmt: skip


def test_the_papers_rows_stand_beside_its_data_only(home, save):
    save_depth(home)
    save(task="depth", dataset="scenes")
    board = leaderboard(collect([home]), intervals=False)
    by_title = dict(list(board.lines.groupby("title")))
    beside = by_title["depth · nyuv2"]
    assert set(beside["source"]) == {"measured", "paper"}
    assert set(by_title["depth · scenes"]["source"]) == {"measured"}
    of_table_4 = beside[(beside["printed"] == "Table 4") & (beside["metric"] == "rmse")]
    printed = dict(zip(of_table_4["backbone"], of_table_4["mean"], strict=True))
    assert printed == {name: paper_score(name, "depth", "rmse").value for name in paper_backbones()}
    assert set(by_title["voc · voc"]["source"]) == {"paper"}
    assert [lines[0].board for lines in board.boards] == ["the paper's data", "scenes"]
    for key in home.keys("results"):
        if "nyuv2" in key:
            home.delete(key)
    boards = leaderboard(collect([home]), intervals=False).boards
    assert [lines[0].board for lines in boards] == ["scenes", "the paper's data"]  # what was measured comes first


def test_entries_are_sorted_best_first_and_nan_last(home, save):
    for backbone, iou in (("low", 0.1), ("none", float("nan")), ("high", 0.9)):
        save(backbone=backbone, iou=iou)
    (comparison,) = comparisons(home)
    assert [entry.backbone for entry in comparison] == ["high", "low", "none"]


def test_a_home_without_results_is_told(home, other):
    save_depth(home)
    with pytest.raises(ResultsError, match=str(other)):
        collect([home, other])


def test_facts_of_backbones(home, save):
    save(backbone="mae")
    save(backbone="mae@untrained")
    save(backbone="nobody-knows")
    known = {"category": "supervised", "parameters": 7}
    for name, about in (("plug-in", known), ("odd", {"category": "<b>", "parameters": 0})):
        key = f"results/{save(backbone=name).run}.json"
        home.publish(key, json.dumps(json.loads(home.read(key)) | {"about": about}).encode(), replace=True)
    (comparison,) = comparisons(home)
    facts = {entry.backbone: entry for entry in comparison}
    mae = facts["mae"]
    assert (mae.category, mae.backbone_parameters, mae.features) == ("self-supervised", 85_798_656, (3, 3, 6))
    assert facts["mae@untrained"].category == "untrained"
    for name, told in {"nobody-knows": ("other", None), "plug-in": ("supervised", 7), "odd": ("other", None)}.items():
        assert (facts[name].category, facts[name].backbone_parameters) == told


def test_a_run_keeps_what_was_known_of_its_backbone(real_home):
    told = {result.backbone: result.about for result in load_results(real_home)}
    trained = {"category": "supervised", "parameters": 700_768, "training_data": "ImageNet"}
    assert told["efficientnet-lite0-s16"] == trained
    assert told["efficientnet-lite0-s16@untrained"]["category"] == "untrained"


@pytest.mark.parametrize(
    ("part", "value"),
    [("metrics", {"iou": {"label": "IoU"}}), ("main_metric", "none"), ("build", {"name": "deap"}), ("caches", {}),
     ("parameters", "many"), ("protocol", {"output_size": None})],
)  # fmt: skip
def test_a_result_that_lacks_something_is_named(home, save, part, value):
    key = f"results/{save().run}.json"
    document = json.loads(home.read(key)) | {part: value}
    home.publish(key, json.dumps(document).encode(), replace=True)
    other = save(seed=1)
    with pytest.warns(UserWarning, match=f"left out: .*{key}"):
        assert [result.run for result in collect([home]).results] == [other.run]
