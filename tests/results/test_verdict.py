"""How many more images a verdict needs, and classes from statistics, against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from deapcache.results import Difference
from deapcache.results.verdict import more_images
from deapcache.tasks import get_task


def test_an_interval_shrinks_with_the_root_of_the_images() -> None:
    """Twice as wide as the difference: four times the images."""
    found = Difference(0.1, (-0.1, 0.3), 0.3)
    assert more_images(found, found, 100) == pytest.approx(300, abs=1)
    assert more_images(found, found, 100, pairs=3) > 300, "for several pairs the bound is stricter"


def test_what_hides_in_seeds_no_image_tells() -> None:
    over_images = Difference(0.1, (0.05, 0.15), 0.01)
    assert more_images(Difference(0.1, (-0.4, 0.6), 0.5), over_images, 100) is None
    assert more_images(Difference(float("nan"), (0.0, 0.0), 1.0), over_images, 100) is None


def test_classes_and_confusions_are_those_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (3, 8, 8), generator=draw)
    predicted = torch.where(torch.rand(3, 8, 8, generator=draw) < 0.6, target, (target + 1) % 3)
    target[:, 0] = 255
    task = get_task("segmentation")
    output = torch.nn.functional.one_hot(predicted, 5).movedim(-1, 1).float()
    statistics = {name: values.numpy() for name, values in task.statistics(output, target).items()}
    valid = (target != 255).numpy()
    true, said = target.numpy()[valid], predicted.numpy()[valid]
    scores = task.class_scores(statistics)
    np.testing.assert_allclose(scores[:4], jaccard_score(true, said, average=None, labels=range(4)))
    assert np.isnan(scores[4]), "a class that is nowhere"
    matrix = np.zeros((5, 5), int)
    for actual, instead, pixels in statistics["confusions"].reshape(-1, 3):
        matrix[actual, instead] += pixels
    wanted = confusion_matrix(true, said, labels=range(5))
    np.fill_diagonal(wanted, 0)
    np.testing.assert_array_equal(matrix, wanted)
