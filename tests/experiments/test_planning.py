"""A plan's arithmetic against numbers worked by hand: docs/planning.md works the same example."""

from __future__ import annotations

import json

import pytest
from deapcache_pipelines import ONE

from deapcache.datasets import open_dataset
from deapcache.errors import ResultsError, UsageError
from deapcache.experiments import load_pipeline, plan_pipeline, run_pipeline
from deapcache.experiments.planning import (
    GridPlan,
    Rates,
    Speeds,
    grid_json,
    plan_grid,
    rates_key,
    read_rates,
    write_rates,
)
from deapcache.experiments.planning.grid import makespan
from deapcache.experiments.planning.rates import ForwardRate, StepKey, StepRate
from deapcache.extraction import ExtractionSettings, extract

TRAIN, VAL = 1_464, 1_449
"""Images of VOC's splits."""

VOLUME, MAP, PICTURE = 14 * 14 * 768 * 2, 224 * 224 * 2, 224 * 224 * 3
"""Bytes of mae's feature volume in float16, of a class map in int16, of a base image."""

VOC = """\
name: voc
backbones: [mae]
iterations: 100
batch_size: 8
probes:
  - {tasks: [voc], dataset: voc}
"""

STEP = StepKey(
    task="voc",
    readout="deap",
    dataset="voc",
    grid=(14, 14),
    dim=768,
    output_size=(224, 224),
    batch_size=8,
    members=1,
    surveyed=0,
)


@pytest.fixture
def grid(tmp_path, home):
    """A function that plans pipeline texts, without any dataset's files unless they are given."""

    def made(*texts: str, gpus=1, speeds=None, root=None) -> GridPlan:
        plans = []
        for place, text in enumerate(texts):
            file = tmp_path / f"{place}.yaml"
            file.write_text(text)
            plans.append(plan_pipeline(load_pipeline(str(file)), home, root or tmp_path / "none", device="cpu"))
        return plan_grid(plans, gpus=gpus, speeds=lambda *_: speeds or Speeds())

    return made


def rates(**changes) -> Rates:
    """One forward rate and one of a step."""
    facts = {
        "device": "a GPU",
        "measured": "2026-01-02T03:04:05+00:00",
        "circumstances": {"host": "here"},
        "forwards": (ForwardRate(backbone="mae", precision="fp32", batch_size=32, images_per_second=100.0),),
        "steps": (StepRate(key=STEP, seconds=0.01),),
    }
    return Rates(**{**facts, **changes})


def stage(plan: GridPlan, name: str):
    """One of the plan's stages."""
    return next(stage for stage in plan.stages if stage.name == name)


def test_amounts_without_files_are_those_of_the_official_numbers(grid):
    plan = grid(VOC)
    assert {(c.split, c.images, c.counted) for c in plan.of("features")} == {
        ("train", TRAIN, "official"),
        ("val", VAL, "official"),
    }
    features = stage(plan, "features")
    assert (features.wanted, features.to_do) == (TRAIN + VAL, TRAIN + VAL)
    assert features.written == (TRAIN + VAL) * VOLUME == 876_976_128
    assert features.read == (TRAIN + VAL) * PICTURE
    # 64 parts of 23 images, of which the last training part has 15 and there are 63 of validation
    assert features.files == 64 + 63
    assert stage(plan, "base images").written == (TRAIN + VAL) * PICTURE
    # classes as int16, instances as int32; tables of boxes have a length that only the files tell
    assert stage(plan, "targets").written == (TRAIN + VAL) * (MAP + 2 * MAP)
    assert [c.name for c in plan.of("targets") if c.item_bytes is None] == ["boxes", "boxes"]
    assert plan.storage() == {
        "float16": 876_976_128,
        "bfloat16": 876_976_128,
        "float32": 2 * 876_976_128,
        "int8": 876_976_128 // 2 + (TRAIN + VAL) * 14 * 14 * 4,
    }
    assert (plan.gpu_seconds, plan.wall_seconds) == (None, None)


def test_extraction_takes_as_long_as_its_forwards(grid):
    seconds = (TRAIN + VAL) / 100  # 29.13 s on one GPU
    for gpus in (1, 2):
        found = stage(grid(VOC, gpus=gpus, speeds=Speeds(rates=rates())), "features")
        assert (found.gpu_seconds, found.wall_seconds) == (seconds, seconds / gpus)


def test_probing_reads_batches_surveys_and_scores(grid):
    plan = grid(VOC, speeds=Speeds(rates=rates()))
    probing = stage(plan, "probing")
    batches = 100 * 8 * (VOLUME + MAP)
    surveys = 2 * TRAIN * MAP
    scoring = VAL * (VOLUME + MAP)
    assert probing.read == batches + surveys + scoring == 1_196_597_248
    # 100 steps, and 182 batches that are scored
    assert probing.gpu_seconds == pytest.approx(2.82)
    assert probing.wall_seconds == probing.gpu_seconds
    assert plan.wall_seconds == pytest.approx((TRAIN + VAL) / 100 + 2.82)


def test_what_was_not_measured_has_no_time(grid):
    plan = grid(VOC, speeds=Speeds(rates=rates(steps=())))
    assert [work.speed.known for work in plan.features] == ["measured"]
    assert [speed.known for one in plan.probing for speed in one.speeds] == ["unknown"]
    assert stage(plan, "features").wall_seconds is not None
    assert (stage(plan, "probing").wall_seconds, plan.gpu_seconds, plan.wall_seconds) == (None, None, None)


def test_what_pipelines_share_is_counted_once(grid):
    more = VOC.replace("name: voc", "name: more").replace("[mae]", "[mae, dino]")
    seeds = VOC.replace("iterations", "seeds: [0, 1, 2]\niterations")
    alone, both = grid(more), grid(VOC, more, seeds)
    assert stage(both, "features") == stage(alone, "features")
    assert [(w.backbone, w.runs, w.elsewhere, w.steps, w.readout_steps) for w in both.passes] == [
        ("mae", 1, 0, 100, 100),
        ("mae", 1, 1, 0, 0),
        ("dino", 1, 0, 100, 100),
        ("mae", 3, 1, 100, 200),
    ]
    assert [w.bytes_read > 0 for w in both.passes] == [True, False, True, True]
    assert stage(both, "probing").wanted == 4
    longer = VOC.replace("100", "200")
    assert [w.elsewhere for w in grid(VOC, longer).passes] == [0, 0], "another protocol is another run"


def test_seeds_step_together_at_their_own_rate_or_that_of_one(grid):
    text = VOC.replace("iterations", "seeds: [0, 1, 2]\niterations")
    (one,) = grid(text, speeds=Speeds(rates=rates())).probing
    assert one.gpu_seconds == pytest.approx(0.03 * (100 + 182))
    three = rates(steps=(StepRate(key=STEP, seconds=0.01), StepRate(key=_members(3), seconds=0.02)))
    (one,) = grid(text, speeds=Speeds(rates=three)).probing
    assert one.gpu_seconds == pytest.approx(0.02 * (100 + 182))


def test_what_the_home_has_is_subtracted_also_without_the_files(grid, make_coco, home):
    text = f"backbones: [{ONE}]\niterations: 2\nprobes:\n  - {{tasks: [foreground], dataset: coco}}\n"
    empty = stage(grid(text), "features")
    assert (empty.wanted, empty.to_do) == (123_287, 123_287)
    root = make_coco(train=8, val=4)
    listed = grid(text, root=root)
    assert {c.counted for c in listed.caches} == {"listed"}
    assert {c.images for c in listed.caches if c.split == "train"} == {8}
    list(extract([ONE], open_dataset("coco", root), home, splits=["train"], settings=ExtractionSettings()))
    there = grid(text)
    counts = {(c.split, c.images, c.to_do, c.counted) for c in there.of("features")}
    assert counts == {("train", 8, 0, "in the home"), ("val", 5_000, 5_000, "official")}
    files = grid(text, root=root)
    assert (stage(files, "features").wanted, stage(files, "features").to_do) == (12, 4)
    json.dumps(grid_json(files))


def test_what_is_trained_already_is_subtracted(grid, make_coco, home):
    text = f"backbones: [{ONE}]\niterations: 2\nbatch_size: 2\nprobes:\n  - {{tasks: [foreground], dataset: coco}}\n"
    root = make_coco(train=8, val=4)
    run_pipeline(grid(text, root=root).plans[0])
    done = grid(text, root=root)
    probing = stage(done, "probing")
    assert (probing.wanted, probing.to_do, probing.read, probing.gpu_seconds) == (1, 0, 0, 0.0)
    assert (done.gpu_seconds, done.wall_seconds) == (0.0, 0.0)
    more = grid(text.replace("iterations", "seeds: [0, 1]\niterations"), root=root)
    (work,) = more.passes
    assert (work.runs, work.there, work.steps, work.readout_steps) == (2, 1, 2, 2)


def test_a_dataset_of_which_nothing_is_known_is_named(grid):
    plan = grid(VOC + "  - {tasks: [depth], dataset: nowhere}\n  - {tasks: [depth], dataset: kitti}\n")
    assert plan.unplanned == ("nowhere", "kitti")
    assert stage(plan, "features").wanted == TRAIN + VAL
    assert len(plan.problems) == 3, "and the files that are not there"


def test_rates_come_back_as_they_were_written(home):
    key = rates_key("NVIDIA H100 80GB HBM3")
    assert key == "rates/NVIDIA-H100-80GB-HBM3.json"
    assert read_rates(home, key) is None
    write_rates(home, key, rates())
    assert read_rates(home, key) == rates()
    newer = rates(forwards=(ForwardRate(backbone="mae", precision="fp32", batch_size=8, images_per_second=5.0),))
    merged = rates().merged(newer)
    assert merged.forward("mae", "fp32") == 5.0
    assert merged.step(STEP) == 0.01
    for text in ("{}", "[]", "no json", json.dumps({**rates().to_json(), "schema": 2})):
        home.publish(key, text.encode(), replace=True)
        with pytest.raises(ResultsError, match=r"rates/NVIDIA.*is no file of measured rates"):
            read_rates(home, key)


def test_passes_are_shared_out_among_gpus():
    assert makespan([3, 1, 2], 1) == 6
    assert makespan([3, 1, 2], 2) == 3
    assert makespan([5, 1], 8) == 5
    assert makespan([], 2) == 0


def test_less_than_one_gpu_is_refused(grid):
    with pytest.raises(UsageError, match="--gpus is 0"):
        grid(VOC, gpus=0)


def _members(count: int) -> StepKey:
    from dataclasses import replace

    return replace(STEP, members=count)
