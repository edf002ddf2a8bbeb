"""The scores of BSDS500: against scikit-image's thinning, SciPy's assignment, and cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.filters import gaussian
from skimage.morphology import thin as reference_thin

from deapcache.annotations import resize_edges
from deapcache.errors import UsageError
from deapcache.tasks import get_task
from deapcache.tasks.edges import area, match_pixels, thin

SIZE = (100, 120)  # matches lie up to 1.17 pixels apart: one to the side, none along the diagonal


def _lines(*columns: int, rows: slice = slice(10, 90)) -> np.ndarray:
    drawn = np.zeros(SIZE, bool)
    for column in columns:
        drawn[rows, column] = True
    return drawn


def _maps(*annotators: np.ndarray) -> dict[str, torch.Tensor]:
    bits = sum(drawn.astype(np.int16) << bit for bit, drawn in enumerate(annotators))
    return {"edges": torch.from_numpy(np.asarray(bits, np.int16)[None])}


def _scores(*pairs: tuple[np.ndarray, tuple[np.ndarray, ...]], thresholds: str = "33") -> dict[str, float]:
    """Of images: probabilities, and what annotators drew."""
    task = get_task("edges", {"thresholds": thresholds})
    found = []
    for probability, annotators in pairs:
        output = torch.logit(torch.from_numpy(probability.astype(np.float32)), eps=1e-6)[None, None]
        found.append(task.statistics(output, task.target(_maps(*annotators))))
    return task.scores({name: torch.cat([one[name] for one in found]).numpy() for name in found[0]})


def test_thinning_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    noise = gaussian(rng.random((8, 50, 70)), (0, 1.5, 1.5))
    maps = np.concatenate([noise > np.quantile(noise, share) for share in (0.3, 0.6)])
    np.testing.assert_array_equal(thin(maps), [reference_thin(one) for one in maps])
    np.testing.assert_array_equal(thin(np.ones((1, 9, 8), bool))[0], reference_thin(np.ones((9, 8), bool)))


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.3, 4.1])
def test_as_many_pixels_are_matched_as_can_be(distance: float) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 30, 40)) < 0.08
    one, other = match_pixels(first, second, distance)
    far = cdist(np.argwhere(first), np.argwhere(second)) > distance
    rows, columns = linear_sum_assignment(far)
    assert one.sum() == other.sum() == (~far[rows, columns]).sum()
    assert not (one & ~first).any()
    assert not (other & ~second).any()


def test_predictions_that_are_right_score_one() -> None:
    drawn = _lines(20, 60, 100)
    scores = _scores((drawn * 0.9, (drawn, drawn)))
    # above 0.9 nothing is predicted, which has the precision 0 at recall 0: the area is that of a triangle
    assert scores == pytest.approx({"ods": 1, "ois": 1, "average_precision": 0.505}, abs=1e-9)
    assert np.isnan(_scores((drawn * 0.9, (np.zeros(SIZE, bool),)))["ods"])


def test_one_pixel_aside_is_right_and_three_are_wrong() -> None:
    drawn = _lines(20, 60, 100)
    assert _scores((_lines(21, 61, 101) * 0.9, (drawn,)))["ods"] == pytest.approx(1)
    assert _scores((_lines(23, 63, 103) * 0.9, (drawn,)))["ods"] == 0
    # two of three lines right, one too many; each pixel is matched once, however often it is predicted
    assert _scores((_lines(20, 60, 80) * 0.9, (drawn,)))["ods"] == pytest.approx(2 / 3)


def test_recall_is_of_every_annotator_and_precision_of_any() -> None:
    first, second = _lines(20), _lines(60)
    # all that is predicted was drawn by one of them, half of all that was drawn is predicted
    assert _scores((_lines(20) * 0.9, (first, second)))["ods"] == pytest.approx(2 * 0.5 / 1.5)
    assert _scores((_lines(20, 60) * 0.9, (first, second)))["ods"] == pytest.approx(1)


def test_one_threshold_for_all_and_one_for_each() -> None:
    """A faint line is right in one image and wrong in the other, where only the bold one is."""
    one = np.maximum(_lines(20) * 0.9, _lines(60) * 0.3), (_lines(20, 60),)
    other = np.maximum(_lines(20) * 0.9, _lines(60) * 0.3), (_lines(20),)
    scores = _scores(one, other)
    # low: 3 of 3 lines, one of four wrong; high: 2 of 3, none wrong; between, F of the mean precision and recall
    shares = np.linspace(0, 1, 101)
    precision, recall = 0.75 + 0.25 * shares, 1 - shares / 3
    assert scores["ods"] == pytest.approx((2 * precision * recall / (precision + recall)).max(), abs=1e-9)
    assert scores["ois"] == pytest.approx(1)
    curve = np.interp(np.linspace(0, 1, 101), [0, 2 / 3, 1], [0, 1, 0.75])
    assert scores["average_precision"] == pytest.approx(curve.sum() / 100, abs=1e-9)
    np.testing.assert_allclose(list(_scores(one, other, thresholds="99").values()), list(scores.values()), atol=1e-9)


def test_area_of_an_empty_prediction() -> None:
    assert area(np.zeros(33), np.zeros(33)) == 0


def test_what_is_learnt_is_what_three_agree_on() -> None:
    task = get_task("edges")
    drawn = [_lines(20, 60), _lines(20, 60), _lines(20, 100), np.zeros(SIZE, bool)]
    agreed = task.target(_maps(*drawn))["agreed"][0].numpy()
    np.testing.assert_array_equal(agreed, _lines(20))
    two = task.target(_maps(*drawn[1:3]))["agreed"][0].numpy()
    np.testing.assert_array_equal(two, _lines(20))  # all, of two
    logits = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    p = logits[0, 0].sigmoid().numpy().astype(np.float64)
    expected = -(np.log(p[agreed == 1]).mean() + np.log(1 - p[agreed == 0]).mean()) / 2
    target = {"agreed": torch.from_numpy(agreed)[None]}
    assert task.loss(logits, target).item() == pytest.approx(expected, abs=1e-5)
    empty = {"agreed": torch.zeros(1, *SIZE, dtype=torch.uint8)}
    assert task.loss(logits, empty).item() == 0
    with pytest.raises(UsageError, match="thresholds is '5', expected one of 33, 99"):
        get_task("edges", {"thresholds": "5"})


def test_what_the_image_does_not_tell() -> None:
    task = get_task("edges")
    targets = [task.target(_maps(*[_lines(20)] * 3)), task.target(_maps(*[_lines(20, 60)] * 3))]
    baseline = task.constant_baseline(targets, ())[0]
    assert baseline[50, 20] > baseline[50, 60] > 0 > baseline[50, 80]
    mean, valid = task.dense_values(targets[0])
    assert valid.all()
    assert (task.output_of_mean(mean)[0, 0].numpy() > 0).sum() == 80


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_no_line_is_lost_when_maps_shrink(fit: str) -> None:
    edges = np.zeros((31, 48), np.int16)
    edges[:, 24] = 1
    edges[15] |= 2
    small = resize_edges(edges, (12, 12), fit)
    assert small.shape == (12, 12)
    assert ((small & 1).sum(1) == 1).all()
    assert ((small & 2).sum(0) == 2).all()
    large = resize_edges(edges, (62, 96), "squash")
    np.testing.assert_array_equal(large, edges.repeat(2, 0).repeat(2, 1))
