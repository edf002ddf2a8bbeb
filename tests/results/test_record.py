"""Results survive the way to disk and back, and damage is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from deapcache.errors import ResultsError
from deapcache.readouts import build_readout
from deapcache.results import load_readout_file, load_results, load_statistics, save_run
from deapcache.results.record import largest_key, make_result, run_id, run_name


def test_round_trip(home, facts, arrays) -> None:
    saved = save_run(home, facts(), **arrays, command=["deapcache", "probe"])
    (loaded,) = load_results(home)
    assert loaded == saved
    assert loaded.scores == {"iou": 0.5, "ce": 0.3}
    assert loaded.command == ("deapcache", "probe")
    assert loaded.date.endswith("+00:00")
    assert "torch" in loaded.versions
    assert loaded.protocol["optimiser"] == {"lr": 1e-3, "name": "AdamW"}
    statistics = load_statistics(home, saved.run)
    assert statistics.image_ids == ("1", "äb", "3")
    for part, given in ((statistics.run, arrays["statistics"]), (statistics.prior, arrays["prior_statistics"])):
        assert part.keys() == given.keys()
        for name in given:
            np.testing.assert_array_equal(part[name], given[name])
            assert part[name].dtype == given[name].dtype


def test_readout_is_rebuilt_from_its_file_alone(home, facts, arrays) -> None:
    readout = build_readout("deap", feature_dim=6, out_channels=1, grid=(3, 3), seed=7)
    weights = {f"0.{name}": value.numpy() for name, value in readout.state_dict().items()}
    given = facts()
    given["readout"]["options"] = readout.options
    run = save_run(home, given, **{**arrays, "weights": weights}).run
    file = load_readout_file(home, run)
    assert (file.run, file.backbone, file.task, file.output_size) == (run, "tiny", "boundaries", (32, 48))
    (rebuilt,) = file.build()
    features = torch.randn(2, 3, 3, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(rebuilt(features, (32, 48)), readout(features, (32, 48)))
    assert load_file(home.path / "readouts" / f"{run}.safetensors").keys() == weights.keys()


def test_run_names_are_safe_in_paths_and_pages(home, facts, arrays) -> None:
    odd = facts(backbone='timm:vit/../<b onclick="x">&é', seed=3)
    run = save_run(home, odd, **arrays).run
    assert re.fullmatch(r"[A-Za-z0-9._@-]+-seed3-[0-9a-f]{12}", run)
    assert sorted(home.keys()) == [
        f"readouts/{run}.safetensors",
        f"results/{run}.json",
        f"results/{run}.stats.safetensors",
    ]


def test_run_name_follows_protocol_caches_and_seed_only(facts) -> None:
    def name(**changes: object) -> str:
        return make_result(facts(**changes)).run

    assert name() == name(iou=0.9)
    assert len({name(), name(seed=1), name(iterations=5), name(storage="int8"), name(readout="other")}) == 5


def test_running_again_replaces(home, facts, arrays) -> None:
    save_run(home, facts(iou=0.1), **arrays)
    save_run(home, facts(iou=0.2), **arrays)
    assert [result.scores["iou"] for result in load_results(home)] == [0.2]


def test_undefined_scores_are_null_in_json_and_nan_in_python(home, facts, arrays) -> None:
    run = save_run(home, facts(iou=float("nan")), **arrays).run
    assert json.loads(home.read(f"results/{run}.json"))["scores"]["iou"] is None
    assert np.isnan(load_results(home)[0].scores["iou"])


def test_results_from_before_costs_were_recorded_load(home) -> None:
    run = "boundaries-coco-tiny-deap-seed0-84eb1e0a868f"
    home.publish(f"results/{run}.json", (Path(__file__).parent / "result_0_1_0.json").read_bytes())
    (result,) = load_results(home)
    assert result.cost == {}
    assert (result.run, result.scores["iou"]) == (run, 0.5)


def test_cost_survives(home, facts, arrays) -> None:
    cost = {"train_ms_per_image": 1.5, "backward_bytes_per_image": 2e6, "peak_bytes": None}
    save_run(home, facts(cost=cost), **arrays)
    assert load_results(home)[0].cost == cost


def test_chosen_runs_are_loaded_and_a_missing_one_is_named(home, facts, arrays) -> None:
    runs = [save_run(home, facts(seed=seed), **arrays).run for seed in (0, 1, 2)]
    assert [result.seed for result in load_results(home, [runs[2], runs[0]])] == [0, 2]
    with pytest.raises(ResultsError, match=r"has no results/absent\.json"):
        load_results(home, ["absent"])


def test_no_results(home) -> None:
    assert load_results(home) == []


def test_results_of_a_newer_schema_are_named(home, facts, arrays) -> None:
    run = save_run(home, facts(), **arrays).run
    document = json.loads(home.read(f"results/{run}.json"))
    home.publish(f"results/{run}.json", json.dumps({**document, "schema": 2}).encode(), replace=True)
    with pytest.raises(ResultsError, match=r"its schema is 2, this deapcache reads 1: upgrade"):
        load_results(home, [run])
    with pytest.warns(UserWarning, match=rf"left out: .*results/{run}\.json .*upgrade"):
        assert load_results(home) == []


def test_damaged_and_absent_arrays_are_named(home, facts, arrays) -> None:
    run = save_run(home, facts(), **arrays).run
    whole = home.read(f"readouts/{run}.safetensors")
    home.publish(f"readouts/{run}.safetensors", whole[:-3], replace=True)
    with pytest.raises(ResultsError, match=rf"readouts/{run}\.safetensors is damaged"):
        load_readout_file(home, run)
    with pytest.raises(ResultsError, match="has no results/absent"):
        load_statistics(home, "absent")


@pytest.mark.parametrize("length", [10, 100, 153, 154, 155, 156, 200, 1000])
def test_a_long_run_name_is_cut_and_a_short_one_is_as_it_always_was(facts, length) -> None:
    long = facts(task="boundaries", backbone="b" * length)
    whole = "-".join(["boundaries", "coco", "b" * length, "deap", "seed0", run_id(long)[-12:]])
    if len(whole) <= 200:
        assert run_id(long) == whole
    else:
        assert len(run_id(long)) == 200
        assert re.fullmatch(r"boundaries-coco-b+-deap-seed0-[0-9a-f]{12}", run_id(long))
    assert len(largest_key(run_id(long))) <= 255
    assert len(run_name("boundaries", "coco", "b" * length, "deap", 0)) == len(run_id(long))


def test_several_long_names_are_cut_alike_and_stay_apart(facts) -> None:
    runs = {run_id(facts(dataset="d" * 300, backbone="b" * 300 + end, readout="r" * 90)) for end in "xyz"}
    assert len(runs) == 3
    for run in runs:
        assert 195 <= len(run) <= 200
        assert re.fullmatch(r"boundaries-(d+)-b+-r+-seed0-[0-9a-f]{12}", run)


def test_names_that_are_not_ascii_stay_apart_and_lie_on_disk(home, facts, arrays) -> None:
    names = ("Vögel", "Vo\u0308gel", "鳥", "木", "\U0001f426", "птицы")
    runs = {save_run(home, facts(dataset=f"folder:{name}"), **arrays).run for name in names}
    assert len(runs) == len(names)
    assert {result.run for result in load_results(home)} == runs
    assert all(run.isascii() for run in runs)
    assert {result.dataset for result in load_results(home)} == {f"folder:{name}" for name in names}


def test_a_command_line_that_is_no_utf_8_is_kept(home, facts, arrays) -> None:
    command = ["deapcache", "probe", "--home", "/data/\udcff\udcfe"]
    saved = save_run(home, facts(), **arrays, command=command)
    assert load_results(home) == [saved]
    assert list(saved.command) == ["deapcache", "probe", "--home", "/data/\\udcff\\udcfe"]  # as text
