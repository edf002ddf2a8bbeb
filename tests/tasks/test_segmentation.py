"""Segmentation against hand-made numbers and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, log_loss
from torch import Tensor

from deapcache.errors import DataError, UsageError
from deapcache.tasks import get_task

TASK = get_task("segmentation")
CLASSES = ("road", "sky", "tree", "car", "dog")


def arrays(output: Tensor, target: Tensor) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in TASK.statistics(output, target).items()}


def scored(output: Tensor, target: Tensor) -> dict[str, float]:
    return TASK.scores(arrays(output, target))


def logits_of(classes: Tensor, count: int, certainty: float = 60.0) -> Tensor:
    return torch.nn.functional.one_hot(classes, count).permute(0, 3, 1, 2) * certainty


def sample(images: int = 6) -> tuple[Tensor, Tensor]:
    """Logits of five classes and targets of the first four, with void pixels; the last is predicted now and then."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 4, (images, 20, 30), generator=generator, dtype=torch.uint8)
    output = torch.randn(images, 5, 20, 30, generator=generator) + logits_of(maps.long(), 5, 1.5)
    maps[torch.rand(maps.shape, generator=generator) < 0.1] = 255
    return output, TASK.target({"classes": maps})


def test_a_perfect_prediction_scores_perfectly() -> None:
    _, target = sample()
    scores = scored(logits_of(target.clamp(max=4), 5), target)
    assert scores == {"cross_entropy": pytest.approx(0, abs=1e-12), "mean_iou": 1.0, "pixel_accuracy": 1.0}


def test_statistics_of_before_give_the_same_scores() -> None:
    statistics = arrays(*sample())
    older = {name: values for name, values in statistics.items() if name != "correct"}
    assert TASK.scores(older) == pytest.approx(TASK.scores(statistics), abs=1e-15)


def test_scores_computed_by_hand() -> None:
    # Three classes, the third neither there nor predicted; one void pixel.
    target = torch.tensor([[[0, 0]], [[1, 255]]])
    output = torch.tensor([[0, 1], [1, 0]]).view(2, 1, 2)
    logits = logits_of(output, 3, math.log(2))  # probabilities 1/2, 1/4, 1/4
    scores = scored(logits, target)
    assert scores["pixel_accuracy"] == pytest.approx(2 / 3)
    assert scores["mean_iou"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert scores["cross_entropy"] == pytest.approx((2 * math.log(2) + math.log(4)) / 3)
    assert TASK.loss(logits, target).item() == pytest.approx(scores["cross_entropy"])


def test_a_class_that_is_only_predicted_counts_and_one_that_is_nowhere_does_not() -> None:
    target = torch.zeros(1, 1, 4, dtype=torch.long)
    predicted = torch.tensor([[[0, 0, 0, 2]]])
    assert scored(logits_of(predicted, 9), target)["mean_iou"] == pytest.approx((3 / 4 + 0) / 2)


def test_scores_are_those_of_scikit_learn() -> None:
    output, target = sample()
    scores, valid = scored(output, target), target != 255
    truth, predicted = target[valid].numpy(), output.argmax(1)[valid].numpy()
    probabilities = output.permute(0, 2, 3, 1)[valid].double().softmax(-1).numpy()
    assert scores["mean_iou"] == pytest.approx(jaccard_score(truth, predicted, average="macro"))
    assert scores["pixel_accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["cross_entropy"] == pytest.approx(log_loss(truth, probabilities, labels=range(5)), rel=1e-6)


def test_mean_iou_with_absent_classes_is_that_of_the_confusion_matrix() -> None:
    """Of nine classes, 0 to 3 are there, 4 is only predicted, 5 only there and never predicted, 6 to 8 are nowhere."""
    output, target = sample()
    target[0, :3] = 5
    output = torch.nn.functional.pad(output, (0, 0, 0, 0, 0, 4), value=-100.0)
    valid = target != 255
    counts = confusion_matrix(target[valid].numpy(), output.argmax(1)[valid].numpy(), labels=range(9))
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert (union > 0).tolist() == [True] * 6 + [False] * 3
    assert (counts.sum(0) > 0).tolist() == [True] * 5 + [False] * 4
    expected = np.mean([counts[i, i] / union[i] for i in range(6)])
    statistics = arrays(output, target)
    assert TASK.scores(statistics)["mean_iou"] == pytest.approx(expected)
    np.testing.assert_array_equal(statistics["actual"].sum(0), counts.sum(1))
    np.testing.assert_array_equal(statistics["predicted"].sum(0), counts.sum(0))
    np.testing.assert_array_equal(statistics["intersection"].sum(0), counts.diagonal())


def test_mean_iou_comes_from_one_confusion_of_the_whole_dataset() -> None:
    output, target = sample()
    whole = scored(output, target)["mean_iou"]
    each = np.mean([scored(output[i : i + 1], target[i : i + 1])["mean_iou"] for i in range(len(target))])
    assert abs(whole - each) > 1e-4
    drawn = {name: values[[1, 1, 4]] for name, values in arrays(output, target).items()}
    assert TASK.scores(drawn) == pytest.approx(scored(output[[1, 1, 4]], target[[1, 1, 4]]))


def test_void_pixels_change_nothing() -> None:
    output, target = sample()
    changed = torch.where((target == 255)[:, None], torch.randn(output.shape), output)
    assert scored(changed, target) == scored(output, target)
    torch.testing.assert_close(TASK.loss(changed, target), TASK.loss(output, target))


def test_a_batch_of_void_has_a_loss_of_zero_and_no_score() -> None:
    output, target = torch.zeros(1, 3, 2, 2, requires_grad=True), torch.full((1, 2, 2), 255)
    loss = TASK.loss(output, target)
    loss.backward()
    assert loss.item() == 0
    assert (output.grad == 0).all()
    assert all(math.isnan(value) for value in scored(output.detach(), target).values())


@pytest.mark.parametrize("value", [5, 254, -3])
def test_a_value_beyond_the_classes_is_named(value: int) -> None:
    output, target = sample()
    target[2, 3, 4] = value
    for use in (TASK.loss, TASK.statistics):
        with pytest.raises(DataError, match=f"value {value}, but the dataset has 5 classes"):
            use(output, target)
    with pytest.raises(DataError, match=f"value {value}"):
        TASK.constant_baseline([target], CLASSES)


def test_counts_of_a_large_dataset_stay_exact() -> None:
    one = arrays(*sample(images=1))
    many = {name: np.repeat(values, 200_000, axis=0) for name, values in one.items()}
    assert TASK.scores(many) == pytest.approx(TASK.scores(one), rel=1e-9)
    assert all(one[name].dtype == np.int64 for name in ("intersection", "predicted", "actual", "valid"))


def test_the_prior_is_each_pixels_class_frequencies() -> None:
    maps = torch.tensor([[[0, 1]], [[0, 2]], [[1, 255]]])
    found = TASK.constant_baseline(iter(maps.split(1)), ("a", "b", "c"))
    assert isinstance(found, Mapping)
    assert set(found) == set(TASK.metrics)
    prior = found["cross_entropy"]
    assert prior.shape == (3, 1, 2)
    assert prior is found["pixel_accuracy"]
    overall = torch.tensor([2.5, 2.5, 1.5]) / 6.5
    expected = torch.stack([(torch.tensor([2.0, 1, 0]) + overall) / 4, (torch.tensor([0.0, 1, 1]) + overall) / 3], -1)
    torch.testing.assert_close(prior.exp(), expected[:, None])


def test_the_prior_beats_a_uniform_guess() -> None:
    _, target = sample()
    prior = TASK.constant_baseline([target], CLASSES)["cross_entropy"]
    assert prior.isfinite().all()
    assert scored(prior.expand(len(target), -1, -1, -1), target)["cross_entropy"] < math.log(5)


def test_the_prior_of_mean_iou_is_the_best_class_map_of_small_images() -> None:
    """Against all 3⁴ class maps; the most frequent classes alone leave out the rare ones."""
    generator = torch.Generator().manual_seed(0)
    better = 0
    for _ in range(20):
        rates = torch.tensor([0.6, 0.25, 0.15]) * torch.rand(4, 3, generator=generator)
        maps = torch.multinomial(rates, 30, replacement=True, generator=generator).T.reshape(30, 2, 2)
        prior = TASK.constant_baseline([maps], ("a", "b", "c"))
        scores = {name: scored(output.expand(30, -1, -1, -1), maps)["mean_iou"] for name, output in prior.items()}
        every = [torch.tensor(chosen).view(1, 2, 2).expand(30, -1, -1) for chosen in product(range(3), repeat=4)]
        best = max(scored(logits_of(chosen, 3), maps)["mean_iou"] for chosen in every)
        assert scores["mean_iou"] >= scores["pixel_accuracy"] - 1e-9
        assert scores["mean_iou"] > 0.94 * best
        better += scores["mean_iou"] > scores["pixel_accuracy"] + 0.01
    assert better > 5


def test_averages_of_targets_are_shares_of_classes() -> None:
    _, target = sample()
    values, valid = TASK.dense_values(target, CLASSES)
    assert values.shape == (6, 5, 20, 30)
    torch.testing.assert_close(valid, target != 255)
    assert torch.equal(values.argmax(1)[valid], target[valid])
    mean = (values * valid[:, None]).mean(0, keepdim=True).clamp(min=1e-3)
    torch.testing.assert_close(TASK.output_of_mean(mean).exp(), mean)
    target[0, 0, 0] = 7
    with pytest.raises(DataError, match="value 7"):
        TASK.dense_values(target, CLASSES)
    assert get_task("voc").dense_values(target.clamp(max=20))[0].shape[1] == 21


def test_channels_and_predictions() -> None:
    output, _ = sample()
    assert TASK.heads(CLASSES) == (5,)
    torch.testing.assert_close(TASK.prediction(output), output.argmax(1))
    with pytest.raises(UsageError, match="names no classes"):
        TASK.heads(())


def test_targets_of_either_stored_type() -> None:
    for dtype in (torch.uint8, torch.int16):
        maps = torch.tensor([[[0, 170, 255]]], dtype=dtype)
        assert TASK.target({"classes": maps}).tolist() == [[[0, 170, 255]]]
