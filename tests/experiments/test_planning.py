"""A plan's arithmetic against numbers worked by hand: docs/planning.md works the same example."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from deapcache_pipelines import ONE

from deapcache.backbones import arithmetic_key
from deapcache.datasets import open_dataset
from deapcache.errors import ResultsError, UsageError
from deapcache.experiments import load_pipeline, plan_pipeline, run_pipeline
from deapcache.experiments.plan import GridPlan, makespan, plan_grid, rates_for
from deapcache.extraction import ExtractionSettings, extract
from deapcache.results.speeds import Rates, Speed, StepKey, StepSpeeds, add_to_rates_file, write_speed

TRAIN, VAL = 1_464, 1_449
"""Images of VOC's splits."""

VOLUME, MAP, PICTURE = 14 * 14 * 768 * 2, 224 * 224 * 2, 224 * 224 * 3
"""Bytes of mae's feature volume in float16, of a class map in int16, of a base image."""

VOC = """\
name: voc
backbones: [mae]
protocol: paper
iterations: 100
batch_size: 8
probes:
  - {tasks: [voc], dataset: voc}
"""

PROBE = "probes:\n  - {tasks: [foreground], dataset: coco}\n"

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

    def made(*texts: str, gpus=1, rates=None, root=None) -> GridPlan:
        plans = []
        for place, text in enumerate(texts):
            file = tmp_path / f"{place}.yaml"
            file.write_text(text)
            plans.append(plan_pipeline(load_pipeline(str(file)), home, root or tmp_path / "none", device="cpu"))
        return plan_grid(plans, gpus=gpus, rates=rates)

    return made


def rates(**changes) -> Rates:
    """One forward rate and one of a step."""
    facts = {
        "device": "a GPU",
        "measured": "2026-01-02T03:04:05+00:00",
        "forwards": {(arithmetic_key("mae"), "fp32"): 100.0},
        "steps": {STEP: 0.01},
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
    # shards of 23 images: two GPUs do 32 each of 64, then at most 32 of 63; more than 64 GPUs have nothing more to do
    for gpus, wall in ((1, seconds), (2, (32 * 23 + 32 * 23) / 100), (64, 2 * 0.23), (1000, 2 * 0.23)):
        found = stage(grid(VOC, gpus=gpus, rates=rates()), "features")
        assert (found.gpu_seconds, found.wall_seconds) == (seconds, pytest.approx(wall))


def test_probing_reads_batches_surveys_and_scores(grid):
    plan = grid(VOC, rates=rates())
    probing = stage(plan, "probing")
    batches = 100 * 8 * (VOLUME + MAP)
    surveys = 2 * TRAIN * MAP
    scoring = VAL * (VOLUME + MAP)
    assert probing.read == batches + surveys + scoring == 1_196_597_248
    # 100 steps, and 182 batches that are scored
    assert probing.gpu_seconds == pytest.approx(2.82)
    assert probing.wall_seconds == probing.gpu_seconds
    assert plan.wall_seconds == pytest.approx((TRAIN + VAL) / 100 + 2.82)


def test_choosing_the_learning_rate_is_planned_with_the_rest(grid):
    """Five rates for 0.2 of the steps, stacked, one for 0.5, and one pass over the features for their statistics."""
    text, plain = VOC.replace("protocol: paper\n", ""), grid(VOC, rates=rates())
    found = grid(text, rates=rates(steps={STEP: 0.01, replace(STEP, members=5): 0.03}))
    (work,) = found.passes
    assert (work.steps, work.readout_steps) == (100 + 20 + 50, 100 + 5 * 20 + 50)
    more = (20 + 50) * 8 * (VOLUME + MAP) + TRAIN * VOLUME
    assert stage(found, "probing").read == stage(plain, "probing").read + more
    assert stage(found, "probing").gpu_seconds == pytest.approx(0.01 * (100 + 182) + 0.03 * 20 + 0.01 * 50)


def test_what_was_not_measured_has_no_time(grid):
    plan = grid(VOC, rates=rates(steps={}))
    document = plan.to_json()
    assert [work["speed"]["known"] for work in document["features"]] == ["measured"]
    assert [group["speed"]["known"] for one in document["passes"] for group in one["groups"]] == ["unknown"]
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
    (one,) = grid(text, rates=rates()).passes
    assert one.gpu_seconds(rates()) == pytest.approx(0.03 * (100 + 182))
    three = rates(steps={STEP: 0.01, replace(STEP, members=3): 0.02})
    (one,) = grid(text, rates=three).passes
    assert one.gpu_seconds(three) == pytest.approx(0.02 * (100 + 182))


def test_what_the_home_has_is_subtracted_also_without_the_files(grid, make_coco, home):
    text = f"backbones: [{ONE}]\nprotocol: paper\niterations: 2\n" + PROBE
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
    json.dumps(files.to_json())


def test_what_is_trained_already_is_subtracted(grid, make_coco, home):
    text = f"backbones: [{ONE}]\nprotocol: paper\niterations: 2\nbatch_size: 2\n" + PROBE
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


MEASURED = {"device": "a GPU", "threads": 1, "date": "2026-01-02T03:04:05+00:00", "versions": {}}


def speed_of(name: str, seconds: float, **changes) -> Speed:
    """A speed of a batch of eight."""
    facts = {
        "kind": "backbone", "name": name, "weights": "trained", "input": "images 224x224", "batch": 8,
        "seconds": (seconds,), "reference_seconds": 1.0, "reference": "imagenet", "peak_memory_bytes": 1,
        "memory": "resident", "parameters": 1, "precision": "fp32",
    }  # fmt: skip
    return Speed(**{**MEASURED, **facts, **changes})


@pytest.fixture
def a_gpu(monkeypatch):
    """This device is called "a GPU"."""
    monkeypatch.setattr("deapcache.experiments.plan.device_label", lambda _: "a GPU")


def test_a_plan_reads_the_speeds_of_a_home_that_are_of_its_device(home, a_gpu):
    assert rates_for(home, "cpu") == Rates(device="a GPU")
    for speed in (
        speed_of("mae", 0.08),
        speed_of("mae", 0.04, precision="bf16", device="a GPU, bf16"),
        speed_of("mae", 9.0, device="another GPU"),
        speed_of("a plugin's, which is not loaded", 9.0),
        StepSpeeds(seconds={STEP: 0.01}, **MEASURED),
        StepSpeeds(seconds={STEP: 9.0}, **{**MEASURED, "device": "another GPU"}),
    ):
        write_speed(home, speed)
    found = rates_for(home, "cpu")
    assert (found.device, found.measured) == ("a GPU", MEASURED["date"])
    assert (found.forward("mae", "fp32"), found.forward("mae", "bf16"), found.forward("mae", "fp16")) == (
        0.01, 0.005, None,
    )  # fmt: skip
    assert found.forward("mae@untrained", "fp32") == 0.01, "the same arithmetic"
    assert found.steps == {STEP: 0.01}


def test_a_file_of_rates_is_a_list_of_speeds(home, tmp_path):
    file = tmp_path / "rates.json"
    given = [speed_of("mae", 0.16), speed_of("mae", 0.08), StepSpeeds(seconds={STEP: 0.01}, **MEASURED)]
    for speed in given:
        add_to_rates_file(file, speed)
    assert len(json.loads(file.read_text())) == 2, "a second measurement takes the place of the first"
    assert rates_for(home, "cpu", file) == rates()
    add_to_rates_file(file, speed_of("mae", 0.08, device="another GPU"))
    with pytest.raises(ResultsError, match="holds speeds of several devices, expected one: a GPU; another GPU"):
        rates_for(home, "cpu", file)


OLD = {
    "schema": 1, "device": "a GPU", "measured": "2026-01-02T03:04:05+00:00", "circumstances": {"host": "here"},
    "forwards": [{"backbone": "mae", "precision": "fp32", "batch_size": 32, "images_per_second": 100.0}],
    "steps": [{"key": asdict(STEP), "seconds": 0.01}],
}  # fmt: skip


def test_rates_of_earlier_versions_are_read(home, tmp_path, monkeypatch):
    file = tmp_path / "rates.json"
    file.write_text(json.dumps(OLD))
    assert rates_for(home, "cpu", file) == rates()
    monkeypatch.setattr("deapcache.experiments.plan.device_name", lambda _: "x86_64")
    monkeypatch.setattr("deapcache.experiments.plan.cpu_count", lambda: 2)
    home.publish("rates/x86-64-2-cores.json", file.read_bytes())
    monkeypatch.setattr("deapcache.experiments.plan.device_label", lambda _: "a GPU")
    with pytest.raises(UsageError, match="of an earlier version, which is read only"):
        rates_for(home, "cpu", file, measure=True)
    assert rates_for(home, "cpu") == rates()
    write_speed(home, speed_of("mae", 0.8))
    assert rates_for(home, "cpu").forward("mae", "fp32") == 0.1, "a speed that was measured since counts"


NO_TIME = {**speed_of("mae", 1.0).to_json(), "seconds": [0]}
NO_RATE = {**OLD, "forwards": [{**OLD["forwards"][0], "images_per_second": 0}]}


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", *map(json.dumps, [{**OLD, "schema": 2}, [NO_TIME], NO_RATE])])
def test_what_is_no_file_of_rates_is_named(home, tmp_path, text):
    file = tmp_path / "rates.json"
    file.write_text(text)
    with pytest.raises(ResultsError, match=r"rates\.json is no file of measured rates"):
        rates_for(home, "cpu", file)


def test_passes_are_shared_out_among_gpus():
    assert makespan([3, 1, 2], 1) == 6
    assert makespan([3, 1, 2], 2) == 3
    assert makespan([1, 2, 3], 2) == 4, "in the order in which they are handed out"
    assert makespan([5, 1], 8) == 5
    assert makespan([], 2) == 0


def test_less_than_one_gpu_is_refused(grid):
    with pytest.raises(UsageError, match="--gpus is 0"):
        grid(VOC, gpus=0)
