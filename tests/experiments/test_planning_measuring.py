"""Rates are measured by doing what they are the rates of."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from deapcache_pipelines import ONE

from deapcache.backbones import forward_count
from deapcache.experiments import load_pipeline, plan_pipeline
from deapcache.experiments import speed as module
from deapcache.experiments.plan import GridPlan, measure_missing, plan_grid, rates_for
from deapcache.experiments.speed import measure_step, synthetic_targets
from deapcache.locations import LocalLocation
from deapcache.probing import TaskSpec
from deapcache.results.speeds import StepKey, load_speeds, read_speeds
from deapcache.tasks import TASKS, get_task

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = {"voc": 21, "coco-stuff": 171, "segmentation": 3}


def step_of(task: str) -> tuple[StepKey, TaskSpec]:
    """A small one."""
    size, grid = (16, 24), (2, 3)
    spec = TaskSpec(
        task=get_task(task),
        backbone="toy",
        classes=tuple(f"class {place}" for place in range(CLASSES.get(task, 0))),
        output_size=size,
        grid=grid,
        feature_dim=16,
        iterations=100,
    )
    key = StepKey(
        task=task,
        readout="deap",
        dataset="toy",
        grid=grid,
        dim=16,
        output_size=size,
        batch_size=2,
        members=1,
        surveyed=5 if task == "discrimination" else 0,
    )
    return key, spec


@pytest.mark.parametrize("task", TASKS.names())
def test_every_task_steps_on_synthetic_targets(task):
    assert measure_step(*step_of(task), torch.device("cpu")) > 0


def test_synthetic_targets_are_seven_objects_in_boxes_and_instances():
    _, spec = step_of("discrimination")
    instances, boxes = synthetic_targets("instances", spec, 2), synthetic_targets("boxes", spec, 2)
    assert (instances.dtype, instances.shape) == (torch.int32, (2, 16, 24))
    assert instances.unique().tolist() == list(range(8))
    assert (boxes.dtype, boxes.shape) == (torch.float64, (2, 8, 7))
    for number in range(1, 8):
        columns = (instances[0, 0] == number).nonzero().flatten()
        x, _, width, _, area, kind, _ = boxes[0, number].tolist()
        assert (x, width) == (columns.min(), len(columns))
        assert (area, kind) == ((instances[0] == number).sum(), 1)


def test_discrimination_has_a_class_for_every_object_of_all_training_images():
    key, spec = step_of("discrimination")
    measure_step(key, spec, torch.device("cpu"))
    # six rows, which are three batches of two, hold the five images
    assert spec.task.criterion().weight.shape[0] == 6 * 7


@pytest.fixture
def grid(tmp_path, home):
    """A function that plans two backbones that differ in their weights alone, without any dataset."""

    def planned() -> GridPlan:
        file = tmp_path / "two.yaml"
        file.write_text(
            f"backbones: ['{ONE}@untrained', '{ONE}']\nseeds: [0, 1]\nprotocol: paper\niterations: 2\nbatch_size: 2\n"
            f"probes:\n  - {{tasks: [foreground], dataset: coco}}\n"
        )
        plan = plan_pipeline(load_pipeline(str(file)), home, tmp_path / "none", device="cpu")
        return plan_grid([plan], rates=rates_for(home, "cpu"))

    return planned


def test_a_dry_run_measures_backbones_that_differ_in_weights_alone_once_and_keeps_nothing(grid, home):
    before = forward_count()
    seen: list[tuple[str, int, int]] = []
    found = measure_missing(grid(), keep=False, progress=lambda *what: seen.append(what))
    assert seen == [(f"forward {ONE}", 0, 1), ("step foreground deap", 0, 1), ("", 1, 1)]
    batches, rest = divmod(forward_count() - before - 1, 8)
    assert (2 <= batches <= 10, rest) == (True, 0), "the first image is not timed"
    assert found.rates.forward(ONE, "fp32") == found.rates.forward(f"{ONE}@untrained", "fp32") > 0
    assert len(found.rates.steps) == 1
    assert found.wall_seconds > 0
    assert LocalLocation(home.path).keys() == []


def test_what_is_measured_is_a_speed_of_the_home_and_not_measured_again(grid, home, monkeypatch):
    monkeypatch.setattr(module, "REFERENCE", ONE)
    seen: list[str] = []
    found = measure_missing(grid(), progress=lambda what, *_: seen.append(what))
    assert seen == [f"forward {ONE}", "", "step foreground deap", ""]
    (speed,) = read_speeds(home).values()
    assert [one.name for one in load_speeds(home)] == [ONE], "figures and the leaderboard have it"
    assert (speed.name, len(speed.seconds), speed.threads) == (ONE, 10, 1)
    assert found.rates.forward(ONE, "fp32") == pytest.approx(1 / speed.images_per_second["median"])
    (key,) = (key for key in home.keys("speed") if "training-steps" in key)
    steps = json.loads(home.read(key))
    assert steps["device"] == speed.device
    assert torch.__version__.startswith(steps["versions"]["torch"])
    again = grid()
    assert again.rates == found.rates
    seen.clear()
    assert measure_missing(again, progress=lambda what, *_: seen.append(what)).rates == found.rates
    assert seen == [""]


def test_what_cannot_be_built_is_told_and_the_others_measured(grid):
    problems: list[tuple[str, str]] = []
    plan = grid()
    work = plan.passes[0]
    featup = replace(work.groups[0], key=replace(work.groups[0].key, readout="featup"))
    plan = replace(plan, passes=(replace(work, groups=(featup, *work.groups)),))
    found = measure_missing(plan, keep=False, failed=lambda *problem: problems.append(problem))
    assert [key.readout for key in found.rates.steps] == ["deap"]
    ((what, why),) = problems
    assert what == "step foreground featup"
    assert "needs its upsampler" in why
