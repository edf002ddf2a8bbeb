"""The two benchmarks of semantic segmentation: their number of classes is known without the dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deapcache.errors import DataError, UsageError
from deapcache.tasks import get_task

COUNTS = {"voc": 21, "coco-stuff": 171}
by_name = pytest.mark.parametrize("name", COUNTS)


@by_name
def test_classes_are_known_without_the_dataset(name: str) -> None:
    task = get_task(name)
    assert task.heads(()) == (COUNTS[name],)
    assert task.heads(tuple(map(str, range(COUNTS[name])))) == (COUNTS[name],)
    assert task.cnn_width(()) == {"voc": None, "coco-stuff": 32}[name]
    assert task.default_dataset == name


@by_name
def test_a_dataset_of_other_classes_is_refused(name: str) -> None:
    expected = f"task {name} has {COUNTS[name]} classes, and this dataset's class map has 2: choose the dataset {name}"
    with pytest.raises(UsageError, match=expected):
        get_task(name).heads(("a", "b"))


@by_name
def test_scores_and_the_prior_are_those_of_segmentation(name: str) -> None:
    task, count = get_task(name), COUNTS[name]
    generator = torch.Generator().manual_seed(0)
    target = task.target({"classes": torch.randint(0, count, (2, 9, 11), generator=generator, dtype=torch.uint8)})
    target[0, :2] = 255
    output = torch.randn(2, count, 9, 11, generator=generator)
    statistics = {key: values.numpy() for key, values in task.statistics(output, target).items()}
    assert task.scores(statistics) == get_task("segmentation").scores(statistics)
    right = {key: values.numpy() for key, values in task.statistics(one_hot(target, count), target).items()}
    assert task.scores(right) == {"cross_entropy": pytest.approx(0, abs=1e-12), "mean_iou": 1.0, "pixel_accuracy": 1.0}
    prior = task.constant_baseline([target], ())["cross_entropy"]
    assert prior.shape == (count, 9, 11)
    np.testing.assert_allclose(prior.exp().sum(0), 1, rtol=1e-5)


@by_name
def test_a_value_beyond_the_classes_is_named(name: str) -> None:
    target = torch.full((1, 2, 2), COUNTS[name])
    with pytest.raises(DataError, match=f"value {COUNTS[name]}, but the dataset has {COUNTS[name]} classes"):
        get_task(name).loss(torch.zeros(1, COUNTS[name], 2, 2), target)


def one_hot(target: torch.Tensor, count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(target.clamp(max=count - 1), count).permute(0, 3, 1, 2) * 60.0
