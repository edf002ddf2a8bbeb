"""What holds for every task."""

from __future__ import annotations

import pytest

from deapcache.errors import UnknownNameError
from deapcache.recipe import canonical_json
from deapcache.tasks import TASKS, get_task


def test_names() -> None:
    assert TASKS.names()[:4] == ["boundaries", "foreground", "segmentation", "depth"]
    with pytest.raises(UnknownNameError, match="boundaries"):
        get_task("boundary")


@pytest.mark.parametrize("name", ["boundaries", "foreground", "segmentation", "depth"])
def test_what_a_task_says_of_itself(name: str) -> None:
    task = get_task(name)
    assert task.name == name
    assert task.annotation in ("instances", "classes", "depth")
    assert task.main_metric in task.metrics
    canonical_json(dict(task.options))
