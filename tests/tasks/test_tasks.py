"""What holds for every task."""

from __future__ import annotations

import pytest

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
