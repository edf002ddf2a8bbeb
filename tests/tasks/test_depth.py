"""Depth against hand-made numbers and plain formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from deapcache.annotations import resize_map
from deapcache.errors import DataError, UsageError
from deapcache.tasks import get_task
from deapcache.tasks.depth import eigen_crop, inverse_softplus

TASK = get_task("depth")


def arrays(output: Tensor, target: Tensor) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in TASK.statistics(output, target).items()}


def scored(output: Tensor, target: Tensor) -> dict[str, float]:
    return TASK.scores(arrays(output, target))


def output_of(metres: Tensor) -> Tensor:
    return inverse_softplus(metres).float()[:, None]


def sample(images: int = 5) -> tuple[Tensor, Tensor]:
    """Outputs and depths of 0.5 to 9 m; a tenth of the pixels is unknown."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(images, 24, 32, generator=generator) * 8.5 + 0.5
    noise = torch.randn(depth.shape, generator=generator) * 0.4
    output = output_of(depth * noise.exp())
    depth[torch.rand(depth.shape, generator=generator) < 0.1] = 0
    return output, depth


def test_a_perfect_prediction_scores_perfectly() -> None:
    _, depth = sample()
    scores = scored(output_of(depth.clamp(min=0.5)), depth)
    assert [scores.pop(f"delta{n}") for n in (1, 2, 3)] == [1.0, 1.0, 1.0]
    assert set(scores) == {"rmse", "rmse_pooled", "abs_rel", "log10", "silog"}
    assert all(value == pytest.approx(0, abs=1e-4) for value in scores.values())


def test_scores_computed_by_hand() -> None:
    depth = torch.tensor([[[1.0, 2.0, 0.0]], [[4.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    predicted = torch.tensor([[[2.0, 2.0, 9.0]], [[2.0, 9.0, 9.0]], [[9.0, 9.0, 9.0]]])
    scores = scored(output_of(predicted), depth)
    assert scores["rmse"] == pytest.approx((math.sqrt(1 / 2) + 2) / 2)  # the third image has no depth
    assert scores["rmse_pooled"] == pytest.approx(math.sqrt((1 + 0 + 4) / 3))
    assert scores["abs_rel"] == pytest.approx((0.5 + 0.5) / 2)
    assert scores["log10"] == pytest.approx((math.log10(2) / 2 + math.log10(2)) / 2)
    assert scores["delta1"] == scores["delta2"] == scores["delta3"] == pytest.approx((0.5 + 0) / 2)
    # Errors of ln 2 and 0 in the first image: standard deviation ln 2 / 2; a single pixel has none.
    assert scores["silog"] == pytest.approx(100 * (math.log(2) / 2 + 0) / 2, rel=1e-5)


def test_scores_are_those_of_the_plain_formulas() -> None:
    output, depth = sample()
    rows = []
    for raw, truth in zip(output[:, 0].double(), depth.double(), strict=True):
        p, t = softplus(raw)[truth > 0].numpy(), truth[truth > 0].numpy()
        ratio, logs = np.maximum(p / t, t / p), np.log(p) - np.log(t)
        rows.append(
            {
                "rmse": np.sqrt(((p - t) ** 2).mean()),
                **{f"delta{n}": (ratio < 1.25**n).mean() for n in (1, 2, 3)},
                "abs_rel": (np.abs(p - t) / t).mean(),
                "log10": np.abs(np.log10(p) - np.log10(t)).mean(),
                "silog": 100 * logs.std(),
            }
        )
    scores = scored(output, depth)
    for name in rows[0]:
        assert scores[name] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-5), name


def test_the_loss_is_the_scale_invariant_logarithmic_error() -> None:
    output, depth = sample()
    known = depth > 0
    d = softplus(output[:, 0].double())[known].log() - depth[known].double().log()
    expected = torch.sqrt((d**2).mean() - 0.85 * d.mean() ** 2)
    assert TASK.loss(output, depth).item() == pytest.approx(expected.item(), rel=1e-5)
    alone = torch.tensor([[[2.0]]])
    assert TASK.loss(output_of(alone * 3), alone).item() == pytest.approx(math.log(3) * math.sqrt(0.15), rel=1e-5)


def test_unknown_depth_changes_nothing() -> None:
    output, depth = sample()
    changed = output.clone()
    changed[:, 0][depth == 0] = 30.0
    assert scored(changed, depth) == scored(output, depth)
    torch.testing.assert_close(TASK.loss(changed, depth), TASK.loss(output, depth))
    changed.requires_grad_()
    TASK.loss(changed, depth).backward()
    assert (changed.grad[:, 0][depth == 0] == 0).all()
    assert changed.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_gradients_stay_finite_where_nothing_is_known_or_all_is_right(value: float) -> None:
    depth = torch.full((2, 3, 4), value)
    output = output_of(torch.full((2, 3, 4), 2.0)).requires_grad_()
    loss = TASK.loss(output, depth)
    loss.backward()
    assert loss.item() < 1e-3
    assert output.grad.isfinite().all()


def test_depths_near_zero_count_as_a_millimetre() -> None:
    depth = torch.full((1, 1, 2), 1.0)
    output = torch.full((1, 1, 1, 2), -60.0)  # a softplus of 1e-26
    assert scored(output, depth)["log10"] == pytest.approx(3)
    assert TASK.loss(output, depth).isfinite()


def test_resampled_rows_score_like_the_images_they_stand_for() -> None:
    output, depth = sample()
    depth[2] = 0
    rows = np.array([2, 2, 0, 4, 4])
    drawn = {name: values[rows] for name, values in arrays(output, depth).items()}
    assert TASK.scores(drawn) == pytest.approx(scored(output[rows], depth[rows]))
    nothing = {name: values[[2, 2]] for name, values in arrays(output, depth).items()}
    assert all(math.isnan(value) for value in TASK.scores(nothing).values())


def test_the_output_starts_at_the_mean_of_the_known_depths() -> None:
    _, depth = sample()
    bias = TASK.output_bias(depth)
    assert bias.shape == (1,)
    assert softplus(bias).item() == pytest.approx(depth[depth > 0].mean().item(), rel=1e-5)
    with pytest.raises(DataError, match="known depth"):
        TASK.output_bias(torch.zeros(3, 4, 5))


def test_the_prior_is_each_pixels_mean_depth() -> None:
    depth = torch.tensor([[[1.0, 0.0, 2.0]], [[3.0, 0.0, 0.0]]])
    prior = TASK.constant_baseline(iter(depth.split(1)), ())["rmse"]
    assert prior.dtype == torch.float32
    torch.testing.assert_close(TASK.prediction(prior[None]), torch.tensor([[[2.0, 2.0, 2.0]]]))
    _, depth = sample(images=9)
    prior = TASK.constant_baseline([depth], ())["rmse"].expand(9, -1, -1, -1)
    constant = TASK.output_bias(depth).view(1, 1, 1, 1).expand_as(prior)
    assert scored(prior, depth)["rmse_pooled"] < scored(constant, depth)["rmse_pooled"]


def rooms(images: int = 60) -> Tensor:
    """Depths whose distribution is skewed and differs from pixel to pixel; each image has a scale of its own."""
    generator = torch.Generator().manual_seed(3)
    middle = torch.rand(6, 8, generator=generator) * 4 + 1
    spread = torch.randn(images, 6, 8, generator=generator) * 0.3 + torch.randn(images, 1, 1, generator=generator) * 0.5
    depth = middle * (spread + 0.5 * spread.square()).exp()
    depth[torch.rand(depth.shape, generator=generator) < 0.2] = 0
    return depth


@pytest.mark.parametrize("metric", ["delta1", "delta2", "delta3", "abs_rel", "log10", "silog"])
def test_each_metric_has_the_constant_baseline_that_is_best_for_it(metric: str) -> None:
    depth = rooms()
    found = TASK.constant_baseline(iter(depth.split(7)), ())
    assert isinstance(found, Mapping)
    assert set(found) == set(TASK.metrics)
    best = {name: scored(output.expand(len(depth), -1, -1, -1), depth)[metric] for name, output in found.items()}
    sign = 1 if TASK.metrics[metric].higher_is_better else -1
    assert sign * best[metric] > sign * best["rmse"]
    assert max(sign * value for value in best.values()) < sign * best[metric] + 0.01 * abs(best[metric])


def test_medians_are_numpys() -> None:
    depth = rooms(200)
    median = TASK.prediction(TASK.constant_baseline([depth], ())["log10"][None])[0]
    expected = np.nanmedian(np.where(depth > 0, depth, np.nan), axis=0)
    np.testing.assert_allclose(median, expected, rtol=0.07)  # a bin is 6.7% wide


def test_averages_of_targets_are_metres() -> None:
    _, depth = sample()
    for choices in ({}, {"output": "bins"}, {"output": "bins", "cap": "80"}):
        task = get_task("depth", choices)
        values, valid = task.dense_values(depth)
        torch.testing.assert_close(valid, depth > 0)
        output = task.output_of_mean(values + 0.5)
        assert output.shape[1:] == (*task.heads(()), 24, 32)
        torch.testing.assert_close(task.prediction(output), depth + 0.5, rtol=1e-3, atol=2e-3)


def test_beyond_the_cap_nothing_is_known_and_nothing_predicted() -> None:
    task, (output, depth) = get_task("depth", {"cap": "10"}), sample()
    far = depth.clone()
    far[:, :, 5] = 10.5
    near = depth.clone()
    near[:, :, 5] = 0
    target = task.target({"depth": far})
    assert torch.equal(target, near)
    output[:, :, 3] = 50.0
    scores = task.scores({name: values.numpy() for name, values in task.statistics(output, target).items()})
    expected = scored(output_of(TASK.prediction(output).clamp(max=10)), near)
    assert scores == pytest.approx(expected, rel=1e-5)
    assert task.prediction(output).max() == 10
    output.requires_grad_()
    task.loss(output, target).backward()
    assert (output.grad[:, 0, 3][target[:, 3] > 0] != 0).all(), "what is cut off must still learn"


def test_bins_are_mixed_by_weights_that_are_normalised() -> None:
    """As DINOv2's depth head: relu, 0.1 more, divided by the sum, times 256 depths from 1 mm to 10 m, or the cap."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 256, 3, 4, generator=generator) * 3
    for cap, farthest in (("none", 10.0), ("80", 80.0)):
        task = get_task("depth", {"output": "bins", "cap": cap})
        assert task.heads(()) == (256,)
        weights = np.maximum(output.double().numpy(), 0) + 0.1
        depths = np.linspace(1e-3, farthest, 256)[:, None, None]
        expected = (weights / weights.sum(1, keepdims=True) * depths).sum(1)
        np.testing.assert_allclose(task.prediction(output), expected, rtol=1e-5)
        assert task.output_bias(torch.ones(1, 2, 2)) is None
        with pytest.raises(DataError, match="known depth"):
            task.output_bias(torch.zeros(1, 2, 2))
        assert task.options["bins"]["to"] == farthest


def test_the_loss_of_dinov2_adds_differences_of_errors_over_four_scales() -> None:
    """Against loops over pairs of pixels two steps apart, of every 1st, 2nd, 4th and 6th pixel."""
    output, depth = sample(images=2)
    task, known = get_task("depth", {"loss": "dinov2"}), depth > 0
    d = torch.where(known, softplus(output[:, 0].double()).log() - depth.double().clamp(min=1e-3).log(), 0).numpy()
    gradients = 0.0
    for stride in (1, 2, 4, 6):
        some, there = d[:, ::stride, ::stride], known.numpy()[:, ::stride, ::stride]
        images, height, width = some.shape
        total = 0.0
        for b, i, j in product(range(images), range(height), range(width)):
            for k, m in ((i + 2, j), (i, j + 2)):
                if k < height and m < width and there[b, i, j] and there[b, k, m]:
                    total += abs(some[b, i, j] - some[b, k, m])
        gradients += total / there.sum()
    expected = TASK.loss(output, depth).item() + 0.5 * gradients
    assert task.loss(output, depth).item() == pytest.approx(expected, rel=1e-5)
    assert gradients > 1
    small = torch.full((1, 1, 1, 1), 2.0, requires_grad=True)
    task.loss(small, torch.ones(1, 1, 1)).backward()
    nothing = task.loss(output.requires_grad_(), torch.zeros_like(depth))
    nothing.backward()
    assert output.grad.isfinite().all()


def test_the_l1_loss_is_the_mean_error_in_metres() -> None:
    task, (output, depth) = get_task("depth", {"loss": "l1"}), sample()
    known = depth > 0
    expected = (softplus(output[:, 0].double())[known] - depth[known].double()).abs().mean()
    assert task.loss(output, depth).item() == pytest.approx(expected.item(), rel=1e-5)
    changed = output.clone()
    changed[:, 0][~known] = 30.0
    torch.testing.assert_close(task.loss(changed, depth), task.loss(output, depth))
    nothing = task.loss(output.requires_grad_(), torch.zeros_like(depth))
    nothing.backward()
    assert nothing.item() == 0
    assert (output.grad == 0).all()
    assert task.options["loss"] == "l1"
    assert "lambda" not in task.options


def test_eigens_crop_is_that_of_the_field() -> None:
    native = np.zeros((480, 640), bool)
    native[45:471, 41:601] = True
    np.testing.assert_array_equal(eigen_crop(480, 640).numpy(), native)
    # Where depth maps are brought by nearest neighbour, so is the crop.
    for size in ((216, 288), (224, 224), (240, 320), (37, 53), (960, 1280)):
        np.testing.assert_array_equal(eigen_crop(*size).numpy(), resize_map(native, size))


def test_only_pixels_of_the_crop_are_scored() -> None:
    whole, cropped = get_task("depth"), get_task("depth", {"crop": "eigen"})
    output, depth = sample()  # 24 × 32: each row and column stands for 20 of the original
    inside = (slice(None), slice(2, 24), slice(2, 30))  # centres at 50 to 470 of [45, 471), at 50 to 590 of [41, 601)
    statistics = {name: values.numpy() for name, values in cropped.statistics(output, depth).items()}
    assert cropped.scores(statistics) == pytest.approx(scored(output[:, :, 2:24, 2:30], depth[inside]))
    outside = torch.ones(depth.shape, dtype=torch.bool)
    outside[inside] = False
    assert not torch.equal(cropped.loss(output, depth.masked_fill(outside, 0)), cropped.loss(output, depth))
    assert torch.equal(cropped.loss(output, depth), whole.loss(output, depth)), "all pixels are trained on"


def test_an_image_without_depth_in_the_crop_has_no_score() -> None:
    cropped, (output, depth) = get_task("depth", {"crop": "eigen"}), sample(images=2)
    depth[0, 2:, 2:30] = 0
    statistics = {name: values.numpy() for name, values in cropped.statistics(output, depth).items()}
    assert statistics["known"][0] == 0
    assert cropped.scores(statistics) == pytest.approx(scored(output[1:, :, 2:, 2:30], depth[1:, 2:, 2:30]))


def test_choices_that_there_are_not() -> None:
    with pytest.raises(UsageError, match="crop is 'garg', expected one of none, eigen"):
        get_task("depth", {"crop": "garg"})


@pytest.mark.parametrize("metres", [1e-6, 1e-3, 0.5, 3.0, 80.0])
def test_inverse_softplus(metres: float) -> None:
    x = inverse_softplus(torch.tensor(metres, dtype=torch.float64))
    assert softplus(x, threshold=1e9).item() == pytest.approx(metres, rel=1e-9)
