"""Losses and scores of boundaries and foreground against hand-made numbers and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score, log_loss
from torch import Tensor

from deapcache.tasks import Task, get_task
from deapcache.tasks.binary import logit_bins

BINARY = [get_task("boundaries"), get_task("foreground")]
by_name = pytest.mark.parametrize("task", BINARY, ids=lambda task: task.name)


def arrays(task: Task, output: Tensor, target: Tensor) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in task.statistics(output, target).items()}


def scored(task: Task, output: Tensor, target: Tensor) -> dict[str, float]:
    """All scores, with what is fitted being fitted on the same images."""
    statistics = arrays(task, output, target)
    return task.scores(statistics | task.fitted_statistics(statistics, statistics))


def all_scores(output: Tensor, target: Tensor) -> dict[str, float]:
    return scored(BINARY[0], output, target) | scored(BINARY[1], output, target)


def sample(seed: int = 0, *, images: int = 6, signal: float = 1.5, offset: float = -2.5) -> tuple[Tensor, Tensor]:
    """Logits (B, 1, h, w) and targets with about one positive in ten and some void pixels."""
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(images, 40, 50, generator=generator) < 0.1
    logits = torch.randn(images, 40, 50, generator=generator) * 1.3 + signal * positive + offset
    target = positive.to(torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.05] = 255
    return logits[:, None], target


@by_name
def test_a_perfect_prediction_scores_perfectly(task: Task) -> None:
    _, target = sample()
    scores = scored(task, (target == 1).float()[:, None] * 80 - 40, target)
    assert scores.pop("positive_rate") == pytest.approx(0.1, abs=0.01)
    assert scores.pop("cross_entropy") < 1e-12
    assert set(scores) == set(task.metrics) - {"cross_entropy"}
    assert all(value == 1.0 for value in scores.values())


def test_scores_computed_by_hand() -> None:
    # Two images of four pixels; one pixel is void. Probabilities 0.75, 0.25, 0.75, 0.25 | 0.25, 0.75, 0.25, (void).
    logit = math.log(3)
    output = torch.tensor([[[[logit, -logit, logit, -logit]]], [[[-logit, logit, -logit, logit]]]])
    target = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 0, 255]]], dtype=torch.uint8)
    scores = all_scores(output, target)
    # Right: 1 of the first, 1 of the last two of the first image; all three of the second: 5 of 7 at 0.75, 2 at 0.25.
    assert scores["cross_entropy"] == pytest.approx((5 * -math.log(0.75) + 2 * -math.log(0.25)) / 7)
    assert scores["iou"] == pytest.approx(2 / 4)  # 2 hits, 1 alarm, 1 miss
    assert scores["mean_iou"] == pytest.approx((2 / 4 + 3 / 5) / 2)
    assert scores["average_precision"] == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 7)
    assert scores["positive_rate"] == pytest.approx(3 / 7)
    loss = BINARY[0].loss(output, target)
    assert loss.item() == pytest.approx(scores["cross_entropy"])


def test_scores_are_those_of_scikit_learn() -> None:
    output, target = sample()
    scores = all_scores(output, target)
    valid = target != 255
    logit, truth = output[:, 0][valid].double().numpy(), target[valid].numpy()
    assert scores["cross_entropy"] == pytest.approx(log_loss(truth, 1 / (1 + np.exp(-logit))), rel=1e-6)
    assert scores["iou"] == pytest.approx(jaccard_score(truth, logit > 0))
    assert scores["mean_iou"] == pytest.approx(jaccard_score(truth, logit > 0, average="macro"))
    binned = logit_bins(output[:, 0])[valid].numpy()
    assert scores["average_precision"] == pytest.approx(average_precision_score(truth, binned), abs=1e-12)


# From hopeless to nearly perfect, from all logits within a tenth to hundreds.
@pytest.mark.parametrize("signal", [0.0, 0.3, 1.5, 6.0])
@pytest.mark.parametrize(
    ("scale", "tolerance"), [(0.1, 0.01), (0.5, 0.002), (1.0, 0.002), (4.0, 0.002), (8.0, 0.003), (50.0, 0.02)]
)
def test_binned_average_precision_is_close_to_that_of_raw_scores(signal: float, scale: float, tolerance: float) -> None:
    output, target = sample(images=20, signal=signal)
    output = output * scale
    valid = target != 255
    raw = average_precision_score(target[valid].numpy(), output[:, 0][valid].numpy())
    assert scored(BINARY[0], output, target)["average_precision"] == pytest.approx(raw, abs=tolerance)


def test_bins_do_not_fall_with_the_logit_and_part_at_zero() -> None:
    logits = torch.tensor([-math.inf, -1e30, -100.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 100.0, 1e30])
    bins = logit_bins(logits[1:])
    assert (bins.diff() >= 0).all()
    assert bins.min() == 0
    assert bins.max() == 511
    assert (bins[:4] < 256).all()
    assert (bins[4:] >= 256).all()


@by_name
def test_void_pixels_change_nothing(task: Task) -> None:
    output, target = sample()
    changed = output.clone()
    changed[:, 0][target == 255] = 7.0
    assert scored(task, changed, target) == scored(task, output, target)
    assert task.loss(changed, target) == task.loss(output, target)


@by_name
def test_a_batch_of_void_has_a_loss_of_zero_and_no_score(task: Task) -> None:
    output, target = torch.zeros(2, 1, 4, 4, requires_grad=True), torch.full((2, 4, 4), 255, dtype=torch.uint8)
    loss = task.loss(output, target)
    loss.backward()
    assert loss.item() == 0
    assert (output.grad == 0).all()
    assert all(math.isnan(value) for value in scored(task, output.detach(), target).values())


def test_scores_without_positives() -> None:
    scores = all_scores(torch.full((1, 1, 2, 2), -1.0), torch.zeros(1, 2, 2, dtype=torch.uint8))
    assert math.isnan(scores["iou"])  # nothing there and nothing found
    assert math.isnan(scores["average_precision"])
    assert scores["mean_iou"] == 1.0
    assert scores["positive_rate"] == 0.0


@by_name
def test_resampled_rows_score_like_the_images_they_stand_for(task: Task) -> None:
    output, target = sample()
    rows = np.array([5, 0, 0, 3, 5, 5])
    drawn = {name: values[rows] for name, values in arrays(task, output, target).items()}
    assert task.scores(drawn) == pytest.approx(task.scores(arrays(task, output[rows], target[rows])))


@by_name
def test_statistics_do_not_depend_on_the_batch(task: Task) -> None:
    output, target = sample()
    whole = arrays(task, output, target)
    parts = [arrays(task, output[i : i + 1], target[i : i + 1]) for i in range(len(target))]
    for name, values in whole.items():
        np.testing.assert_allclose(np.concatenate([p[name] for p in parts]), values, rtol=1e-12)


@by_name
def test_the_prior_beats_every_other_constant_on_its_own_images(task: Task) -> None:
    _, target = sample(images=50)
    target[:, :20][target[:, :20] == 1] = 0  # the upper half is never positive
    found = task.constant_baseline(iter(target.split(7)), ())
    assert isinstance(found, Mapping)
    assert set(found) == set(task.metrics)
    assert all(output.shape == (1, 40, 50) and output.isfinite().all() for output in found.values())
    prior = found["cross_entropy"]
    loss = scored(task, prior.expand(50, -1, -1, -1), target)["cross_entropy"]
    rate = (target == 1).sum() / (target != 255).sum()
    constant = scored(task, torch.logit(rate).expand(50, 1, 40, 50), target)["cross_entropy"]
    assert loss < constant
    assert prior[0, :20].max() < prior[0, 20:].mean()


def test_the_prior_is_each_pixels_rate() -> None:
    target = torch.tensor([[[1, 0]], [[1, 0]], [[0, 255]]], dtype=torch.uint8)
    rate = 2.5 / 6  # 2 of 5 valid pixels, half a pixel more of each kind
    expected = torch.tensor([[[(2 + rate) / 4, rate / 3]]])
    for metric in ("cross_entropy", "average_precision"):
        torch.testing.assert_close(BINARY[0].constant_baseline([target], ())[metric].sigmoid(), expected)


@pytest.mark.parametrize(
    ("task", "metric", "average"), [(BINARY[0], "iou", "binary"), (BINARY[1], "mean_iou", "macro")]
)
def test_the_prior_of_an_iou_has_the_highest_of_all_thresholds(task: Task, metric: str, average: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(8, 9, generator=generator) * 0.3
    target = (torch.rand(40, 8, 9, generator=generator) < rates).to(torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    valid, odds = target != 255, task.constant_baseline([target], ())["cross_entropy"]
    every = [
        jaccard_score(target[valid], (odds >= least).expand(40, -1, -1)[valid], average=average, zero_division=0)
        for least in [*odds.unique().tolist(), 99.0]
    ]
    output = task.constant_baseline(iter(target.split(9)), ())[metric].expand(40, 1, -1, -1)
    assert scored(task, output, target)[metric] == pytest.approx(max(every))
    assert max(every) > every[0]  # everything positive
    assert every[-1] < max(every)  # nothing positive


def test_the_fitted_threshold_is_the_best_of_the_training_images() -> None:
    """Against every threshold, by scikit-learn: the bins' edges are where thresholds are looked for."""
    task = BINARY[0]
    training, images = sample(images=3), sample(seed=1, images=4)
    binned, valid = logit_bins(training[0][:, 0]), training[1] != 255
    every = [jaccard_score(training[1][valid], binned[valid] >= edge, zero_division=0) for edge in range(512)]
    edge = int(np.argmax(every))
    assert every[edge] > every[256] + 0.02  # the one of probability 0.5
    statistics = arrays(task, *images)
    statistics |= task.fitted_statistics(statistics, arrays(task, *training))
    seen = images[1] != 255
    expected = jaccard_score(images[1][seen], logit_bins(images[0][:, 0])[seen] >= edge)
    assert task.scores(statistics)["iou_fitted"] == pytest.approx(expected)
    rows = [3, 0, 0]
    drawn = task.scores({name: values[rows] for name, values in statistics.items()})
    assert drawn["iou_fitted"] != pytest.approx(expected)


def test_scores_of_before_lack_the_fitted_threshold_and_foreground_has_none() -> None:
    output, target = sample()
    assert "iou_fitted" not in BINARY[0].scores(arrays(BINARY[0], output, target))
    assert BINARY[1].fitted_statistics(arrays(BINARY[1], output, target), None) == {}
    assert [task.fit_images for task in BINARY] == [256, 0]


def test_a_constant_baseline_is_fitted_already() -> None:
    output, target = sample()
    statistics = arrays(BINARY[0], output, target)
    scores = BINARY[0].scores(statistics | BINARY[0].fitted_statistics(statistics, None))
    assert scores["iou_fitted"] == scores["iou"]


@by_name
def test_averages_of_targets_are_probabilities(task: Task) -> None:
    _, target = sample()
    values, valid = task.dense_values(target)
    assert values.shape == (6, 1, 40, 50)
    assert values.dtype == torch.float32
    torch.testing.assert_close(valid, target != 255)
    mean = (values * valid[:, None]).sum(0, keepdim=True) / valid.sum(0).clamp(min=1)
    said = task.prediction(task.output_of_mean(mean))
    torch.testing.assert_close(said, mean[:, 0].clamp(1e-3, 1 - 1e-3))


@by_name
def test_any_size_is_scored(task: Task) -> None:
    for size in ((1, 1), (7, 201)):
        statistics = arrays(task, torch.ones(1, 1, *size), torch.ones(1, *size, dtype=torch.uint8))
        assert statistics["valid"] == size[0] * size[1]
        assert task.scores(statistics)["average_precision"] == 1.0


def test_the_learning_rate_is_chosen_by_the_main_metric() -> None:
    for task, main in zip(BINARY, ("average_precision", "mean_iou"), strict=True):
        assert task.main_metric == main
        assert task.selection_score({main: 0.25}, {}) == 0.25
        assert task.selection_score({main: math.nan}, {}) == -math.inf


@by_name
def test_predictions_are_probabilities(task: Task) -> None:
    output, _ = sample()
    torch.testing.assert_close(task.prediction(output), output[:, 0].sigmoid())
    assert task.output_bias(sample()[1]) is None
    assert task.heads(()) == (1,)
    assert task.cnn_width(()) is None
