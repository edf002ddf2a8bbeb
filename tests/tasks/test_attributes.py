"""What other rooms need to know of a task is said by its class."""

from __future__ import annotations

import pytest

from deapcache.tasks import TASKS, get_task
from deapcache.tasks.binary import Foreground

LONG = {"boundaries", "detection", "discrimination", "foreground", "coco-stuff"}


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_says_its_steps_and_what_its_predictions_are(name: str) -> None:
    task = get_task(name)
    assert task.name == name
    assert task.iterations == (30_000 if name in LONG else 10_000)
    assert task.meaning
    assert task.unit == ("m" if name == "depth" else "")


def test_a_subclass_takes_them_from_its_class() -> None:
    class Background(Foreground):
        name = "background"
        iterations = 7

    assert (Background().iterations, Background().meaning) == (7, Foreground.meaning)
