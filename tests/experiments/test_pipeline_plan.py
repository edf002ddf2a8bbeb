"""A plan says what is there, what is missing and what stands in the way, and changes nothing."""

from __future__ import annotations

import shutil

import pytest
from deapcache_pipelines import ONE, OTHER, SMALL, TWO, contents

from deapcache.datasets import open_dataset
from deapcache.errors import PipelineError
from deapcache.experiments import run_pipeline
from deapcache.extraction import ExtractionSettings, extract


def made(home, root, backbone=ONE, **settings):
    """Extract beside the pipeline."""
    list(extract([backbone], open_dataset("coco", root), home, settings=ExtractionSettings(**settings)))


def test_an_empty_home_lacks_everything(plan, home):
    found = plan(TWO)
    assert found.forwards == 2 * (8 + 4)
    assert (found.runs, found.missing) == (10, 10)
    assert [(p.backbone, p.count, p.is_known) for p in found.passes] == [(ONE, 5, False), (OTHER, 5, False)]
    caches = found.datasets["coco"].extraction.caches
    features = {(c.name, c.split): c.bytes for c in caches if c.kind == "features"}
    assert features[ONE, "train"] == 8 * 14 * 14 * 112 * 2
    assert features[OTHER, "val"] == 4 * 7 * 7 * 512 * 2
    assert not found.problems
    assert contents(home) == {}


def test_what_is_there_is_not_to_be_done(plan, home, coco):
    made(home, coco)
    before = contents(home)
    found = plan(TWO)
    to_do = [cache for cache in found.datasets["coco"].caches if cache.to_do]
    assert {(cache.kind, cache.name) for cache in to_do} == {("features", OTHER)}
    assert found.forwards == 8 + 4
    assert [p.is_known for p in found.passes] == [True, False]
    assert found.missing == 10
    assert contents(home) == before


def test_runs_that_have_a_result_are_not_to_be_done(plan, home):
    run_pipeline(plan(SMALL, "probes.0.seeds=0"))
    found = plan(SMALL)
    (runs,) = found.passes
    assert (found.runs, found.missing) == (5, 2)
    assert {name.split("-")[-2] for name in runs.there} == {"seed0"}
    assert plan(SMALL, "iterations=3").missing == 5, "another protocol is another run"
    assert plan(SMALL, "limit=4").missing == 5
    assert plan(SMALL, "storage=float32").forwards == 12


def test_a_dataset_that_is_not_known_is_told_and_the_rest_planned(plan, home):
    text = SMALL + "  - {tasks: [depth], dataset: nowhere}\n  - {tasks: [depth], dataset: scenes, limit: 2}\n"
    found = plan(text)
    (problem,) = found.problems
    assert "dataset nowhere: unknown dataset 'nowhere'" in problem
    assert f"needed for {ONE}" in problem
    assert (found.runs, found.missing) == (7, 7)
    assert found.datasets["scenes"].extraction.forwards > 0
    with pytest.raises(PipelineError, match=r"pipeline small cannot run: dataset nowhere: .* Nothing was made"):
        run_pipeline(found)
    assert contents(home) == {}


def test_files_that_are_not_there_are_told(plan, tmp_path):
    (problem,) = plan(SMALL, data_root=tmp_path / "empty").problems
    assert "dataset coco: coco is not under" in problem


def test_files_are_not_needed_where_the_home_holds_what_is_read(plan, coco):
    whole = run_pipeline(plan(SMALL, "probes.0.seeds=0"))
    shutil.rmtree(coco)
    found = plan(SMALL)
    assert not found.problems
    assert (found.forwards, found.missing) == (0, 2)
    outcome = run_pipeline(found)
    assert (len(outcome.results), len(outcome.probed), outcome.failures) == (5, 2, [])
    assert {result.run for result in whole.results} < {result.run for result in outcome.results}
    (problem,) = plan(TWO).problems
    assert f"needed for {OTHER})" in problem


def test_a_task_that_the_dataset_has_no_annotation_for(plan):
    (problem,) = plan(SMALL.replace("foreground, boundaries", "depth")).problems
    assert "dataset coco: task depth of probes.0 needs depth" in problem
    assert "it has instances" in problem


def test_two_caches_that_fit_are_told_before_anything_is_made(plan, home, coco):
    made(home, coco)
    victim = sorted((coco / "train2017").glob("*.jpg"))[0]
    shutil.copy(sorted((coco / "train2017").glob("*.jpg"))[1], victim)
    made(home, coco)
    (problem,) = plan(SMALL).problems
    assert f"{ONE} · coco" in problem
    assert "--set where.FIELD=VALUE" in problem


def test_a_readout_without_its_upsampler_is_left_out(plan, tmp_path):
    text = SMALL + "  - {tasks: [foreground], dataset: coco, readouts: [deap, featup], seeds: [0, 1]}\n"
    found = plan(text)
    assert (found.runs, found.missing) == (7, 5), "deap is in the first probe already"
    ((what, count),) = found.left_out.items()
    assert count == 2
    for words in ("probes.2: featup is left out", "--set probes.2.upsampler=FILE"):
        assert words in what
    assert not plan(text, f"upsampler={tmp_path}/it.ckpt").left_out
