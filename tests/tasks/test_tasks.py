"""What holds for every task."""

from __future__ import annotations

import pytest
import torch

from deapcache.annotations import ANNOTATIONS
from deapcache.errors import UnknownNameError, UsageError
from deapcache.recipe import canonical_json
from deapcache.tasks import TASKS, get_task

NAMES = ("boundaries", "detection", "discrimination", "foreground", "segmentation", "voc", "coco-stuff", "depth")


def test_names() -> None:
    assert [name for name in TASKS.names() if name in NAMES] == list(NAMES)
    with pytest.raises(UnknownNameError, match="boundaries"):
        get_task("boundary")


@pytest.mark.parametrize("name", TASKS.names())
def test_what_a_task_says_of_itself(name: str) -> None:
    task = get_task(name)
    assert task.name == name
    assert set(task.annotations) <= set(ANNOTATIONS.names())
    assert task.main_metric in task.metrics
    canonical_json(dict(task.options))


@pytest.mark.parametrize("name", TASKS.names())
def test_every_choice_is_part_of_the_protocol(name: str) -> None:
    default = get_task(name)
    for choice, values in default.choices.items():
        said = [canonical_json(dict(get_task(name, {choice: value}).options)) for value in values]
        assert len(set(said)) == len(values)
        assert said[0] == canonical_json(dict(default.options)), "the first value is the default"


@pytest.mark.parametrize("name", TASKS.names())
def test_a_choice_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"task {name} has no option 'nonsense'"):
        get_task(name, {"nonsense": "1"})


@pytest.mark.parametrize("name", TASKS.names())
def test_options_say_what_was_chosen_so_that_it_can_be_chosen_again(name: str) -> None:
    for choice, values in get_task(name).choices.items():
        for value in values:
            options = get_task(name, {choice: value}).options
            assert choice not in options or get_task(name, {choice: options[choice]}).options == options


@pytest.mark.parametrize("name", ["boundaries", "foreground", "segmentation", "voc", "coco-stuff", "depth", "edges"])
def test_images_of_any_size_have_statistics_that_go_together(name: str) -> None:
    """One image at a time, at its native size."""
    task, classes = get_task(name), ("a", "b") if name == "segmentation" else ()
    parts = []
    for number, size in enumerate([(1, 1), (31, 17), (480, 640)]):
        target = task.target({task.annotations[0]: torch.ones(1, *size, dtype=torch.int32 if number else torch.int16)})
        target = target.float() if name == "depth" else target
        values, valid = task.dense_values(target, classes)
        assert valid.shape == (1, *size)
        output = task.output_of_mean(values)
        assert output.shape == (1, sum(task.heads(classes)), *size)
        parts.append(task.statistics(output, target))
    together = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}
    scores = task.scores(together | task.fitted_statistics(together, together))
    assert set(task.metrics) <= set(scores)


@pytest.mark.parametrize("name", ["detection", "discrimination"])
def test_an_average_of_targets_that_means_nothing_is_refused(name: str) -> None:
    task = get_task(name)
    for refused in (lambda: task.dense_values({}), lambda: task.output_of_mean(torch.zeros(1, 1, 2, 2))):
        with pytest.raises(UsageError, match=f"task {name} needs a readout that is trained"):
            refused()
