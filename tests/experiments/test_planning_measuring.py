"""Rates are measured by doing what they are the rates of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from deapcache_pipelines import ONE

from deapcache.backbones import forward_count
from deapcache.experiments.planning import StepGroup, lacking, measure_rates
from deapcache.experiments.planning.measuring import made_up, measure_step
from deapcache.experiments.planning.rates import StepKey
from deapcache.probing import TaskSpec
from deapcache.tasks import TASKS, get_task

CLASSES = {"voc": 21, "coco-stuff": 171, "segmentation": 3}


def group_of(task: str, members: int = 1, readout: str = "deap") -> StepGroup:
    """A small one."""
    made = get_task(task)
    classes = tuple(f"class {place}" for place in range(CLASSES.get(task, 0)))
    size, grid = (16, 24), (2, 3)
    posed = TaskSpec(
        task=made, backbone="toy", classes=classes, output_size=size, grid=grid, feature_dim=16, iterations=100
    )
    key = StepKey(
        task=task,
        readout=readout,
        dataset="toy",
        grid=grid,
        dim=16,
        output_size=size,
        batch_size=2,
        members=members,
        surveyed=5 if task == "discrimination" else 0,
    )
    return StepGroup(key=key, iterations=100, posed=posed)


@pytest.mark.parametrize("task", TASKS.names())
def test_every_task_steps_on_made_up_targets(task):
    assert measure_step(group_of(task), torch.device("cpu")) > 0


def test_made_up_targets_are_seven_objects_in_boxes_and_instances():
    posed = group_of("discrimination").posed
    instances, boxes = made_up("instances", posed, 2), made_up("boxes", posed, 2)
    assert (instances.dtype, instances.shape) == (torch.int32, (2, 16, 24))
    assert instances.unique().tolist() == list(range(8))
    assert (boxes.dtype, boxes.shape) == (torch.float64, (2, 8, 7))
    for number in range(1, 8):
        columns = (instances[0, 0] == number).nonzero().flatten()
        x, _, width, _, area, kind, _ = boxes[0, number].tolist()
        assert (x, width) == (columns.min(), len(columns))
        assert (area, kind) == ((instances[0] == number).sum(), 1)


def test_discrimination_has_a_class_for_every_object_of_all_training_images():
    group = group_of("discrimination")
    measure_step(group, torch.device("cpu"))
    # six rows, which are three batches of two, hold the five images
    assert group.posed.task.criterion().weight.shape[0] == 6 * 7


def test_backbones_that_differ_in_weights_alone_are_measured_once():
    before = forward_count()
    names = [(ONE, "fp32"), (f"{ONE}@untrained", "fp32")]
    group = group_of("foreground", members=2)
    told: list[tuple[str, int, int]] = []
    pieces = list(measure_rates(names, [group, group], "cpu", told=lambda *what: told.append(what)))
    assert told == [(f"forward {ONE}", 0, 2), ("step foreground deap", 1, 2), ("", 2, 2)]
    found = pieces[0].merged(pieces[1])
    assert forward_count() - before == 1 + 2 * 8
    assert found.forward(ONE, "fp32") == found.forward(f"{ONE}@untrained", "fp32") > 0
    assert len(found.steps) == 1
    assert found.step(group.key) > 0
    assert torch.__version__.startswith(found.circumstances["versions"]["torch"])
    assert lacking(found, [*names, (ONE, "bf16")], [group]) == ([(ONE, "bf16")], [])
    assert lacking(None, names, [group]) == (names, [group])


def test_what_cannot_be_built_is_told_and_the_others_measured():
    group, told = group_of("foreground"), []
    featup = replace(group, key=replace(group.key, readout="featup"))
    pieces = list(measure_rates([], [featup, group], "cpu", failed=lambda *what: told.append(what)))
    assert [rate.key for piece in pieces for rate in piece.steps] == [group.key]
    ((what, error),) = told
    assert what == "step foreground featup"
    assert "needs its upsampler" in str(error)
