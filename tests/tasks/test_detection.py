"""Detection from the boxes of a target cache to COCO's scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deapcache.annotations import pad_table, resize_map
from deapcache.datasets import open_dataset
from deapcache.errors import DataError, UsageError
from deapcache.tasks import get_task
from deapcache.tasks.detection import focal_loss

TASK = get_task("detection")
SIZE = (64, 64)
ORIGINAL = (512.0, 768.0)
"""Height and width of the images as they are on disk."""

Maps = dict[str, Tensor]


def maps_of(images: list[list[tuple[float, ...]]], crowd: bool = False) -> Maps:
    """Target maps of images whose boxes are (x, y, width, height) in pixels of the 64 × 64 output."""
    height, width = ORIGINAL
    scale = (width / SIZE[1], height / SIZE[0])
    table = torch.zeros(len(images), 8, 7, dtype=torch.float64)
    table[:, 0] = torch.tensor((0, 0, width, height, width * height, 3, 0))
    for image, boxes in enumerate(images):
        for place, box in enumerate(boxes, start=1):
            x, y, w, h = (side * scale[axis % 2] for axis, side in enumerate(box[:4]))
            table[image, place] = torch.tensor((x, y, w, h, w * h, box[4] if len(box) > 4 else 1, 18))
    instances = torch.zeros(len(images), *SIZE, dtype=torch.int32)
    if crowd:
        instances[:, :, 48:] = -1
    return {"boxes": table, "instances": instances}


DISTINCT = [(4.5, 6.5, 20.0, 30.0), (32.5, 20.5, 24.0, 12.0), (10.5, 44.5, 12.0, 14.0)]
"""Boxes whose centres are in the middle of a pixel and that hardly overlap."""


def perfect(target: dict[str, Tensor]) -> Tensor:
    """The output with the highest logits at all centres, in the order of their rows, and the true sizes there."""
    output = torch.full((len(target["heat"]), 3, *SIZE), -12.0)
    output[:, 1:] = 0.3
    for image, place in target["objects"].nonzero().tolist():
        row, column = divmod(int(target["cells"][image, place]), SIZE[1])
        output[image, 0, row, column] = 10 - 0.1 * place
        output[image, 1:, row, column] = target["sizes"][image, place]
    return output


def scored(output: Tensor, target: dict[str, Tensor]) -> dict[str, float]:
    return TASK.scores({name: values.numpy() for name, values in TASK.statistics(output, target).items()})


def coco_maps(root: Path, split: str, count: int) -> Maps:
    dataset = open_dataset("coco", root)
    rows = range(count)
    boxes = [pad_table(dataset.read_annotation(split, row, "boxes"), dataset.box_rows(split)) for row in rows]
    instances = [resize_map(dataset.read_annotation(split, row, "instances"), SIZE) for row in rows]
    return {"boxes": torch.from_numpy(np.stack(boxes)), "instances": torch.from_numpy(np.stack(instances))}


def test_a_perfect_prediction_scores_perfectly() -> None:
    target = TASK.target(maps_of([DISTINCT, DISTINCT[:1], []]))
    assert scored(perfect(target), target) == pytest.approx({"ap_large": 1.0, "ap": 1.0, "ap50_large": 1.0})


def test_a_wrong_prediction_scores_what_it_does_by_hand() -> None:
    target = TASK.target(maps_of([[DISTINCT[0]], [DISTINCT[0]]]))
    output = perfect(target)
    # Half as wide in the first image: IoU 0.5, right at one threshold of ten. In the second nothing but the floor.
    width = 20 / 64
    output[0, 1][output[0, 0] > 0] = width / 2
    output[1, 0] = -12
    scores = scored(output, target)
    assert scores["ap50_large"] == pytest.approx(51 / 101)
    assert scores["ap_large"] == pytest.approx(51 / 101 / 10)


def test_without_objects_there_is_no_score() -> None:
    target = TASK.target(maps_of([[], []]))
    scores = scored(torch.zeros(2, 3, *SIZE), target)
    assert set(scores) == set(TASK.metrics)
    assert all(math.isnan(value) for value in scores.values())


def test_what_a_target_holds() -> None:
    boxes = [*DISTINCT, (50.0, -4.0, 20.0, 10.0), (3.0, 3.0, 8.0, 0.0), (0.0, 0.0, 60.0, 60.0, 2)]
    target = TASK.target(maps_of([boxes]))
    assert target["objects"].tolist() == [[True, True, True, True, False, False, False]]
    expected = torch.tensor([[20, 30], [24, 12], [12, 14], [14, 6]]) / 64
    torch.testing.assert_close(target["sizes"][0, :4], expected)  # the last one is cut at two borders
    centres = [(14, 21), (44, 26), (16, 51), (57, 3)]
    assert target["cells"][0, :4].tolist() == [row * 64 + column for column, row in centres]
    assert (target["heat"] == 1).sum() == 4
    assert target["counted"].all()


def test_crowd_pixels_are_ignored_but_for_centres_in_them() -> None:
    boxes = [(48.0, 20.0, 12.0, 12.0), (0.0, 0.0, 10.0, 10.0)]
    target = TASK.target(maps_of([boxes], crowd=True))
    assert target["counted"].sum() == 64 * 48 + 1
    assert target["counted"][0, 26, 54]
    output = perfect(target)
    noisy = output.clone()
    noisy[0, 0, :, 48:][~target["counted"][0, :, 48:]] = 3.0
    assert TASK.loss(noisy, target) == TASK.loss(output, target)


def test_the_loss_is_focal_plus_mean_distance_of_sizes() -> None:
    target = TASK.target(maps_of([DISTINCT, DISTINCT[:1]]))
    output = perfect(target)
    focal = focal_loss(output[:, 0], target["heat"], target["counted"])
    assert TASK.loss(output, target).item() == pytest.approx(focal.item())
    at_centre = output[:, :1] > 0
    output[:, 1:2] += 0.1 * at_centre
    output[:, 2:] -= 0.3 * at_centre
    assert TASK.loss(output, target).item() == pytest.approx(focal.item() + 0.2, rel=1e-5)


def test_the_loss_falls_with_the_right_answers_and_every_channel_learns() -> None:
    target = TASK.target(maps_of([DISTINCT, []]))
    output = torch.zeros(2, 3, *SIZE, requires_grad=True)
    loss = TASK.loss(output, target)
    loss.backward()
    gradient = output.grad
    assert gradient is not None
    assert loss > TASK.loss(perfect(target), target)
    assert (gradient[:, 0] != 0).sum() > 5_000
    assert (gradient[0, 1:] != 0).sum() == 6
    assert not gradient[1, 1:].any()
    assert gradient.isfinite().all()


def test_a_batch_without_objects_has_a_finite_loss() -> None:
    target = TASK.target(maps_of([[]], crowd=True))
    target["counted"] = torch.zeros_like(target["counted"])
    assert TASK.loss(torch.zeros(1, 3, *SIZE), target) == 0


def test_the_bias_starts_at_rare_centres_and_the_mean_size() -> None:
    bias = TASK.output_bias(TASK.target(maps_of([DISTINCT[:2], []])))
    torch.testing.assert_close(bias, torch.tensor([-2.19, 22 / 64, 21 / 64]))


def test_training_images_without_objects_are_refused() -> None:
    target = TASK.target(maps_of([[], [(0.0, 0.0, 60.0, 60.0, 2)]]))
    with pytest.raises(DataError, match="no training target has a box"):
        TASK.output_bias(target)
    with pytest.raises(DataError, match="no training target has a box"):
        TASK.constant_baseline([target], ())


def test_statistics_do_not_depend_on_the_batch(coco_mini: Path) -> None:
    target = TASK.target(coco_maps(coco_mini, "val", 6))
    output = torch.randn(6, 3, *SIZE, generator=torch.Generator().manual_seed(0)) / 3
    whole = TASK.statistics(output, target)
    parts = [
        TASK.statistics(output[i : i + 1], {name: values[i : i + 1] for name, values in target.items()})
        for i in range(6)
    ]
    for name, values in whole.items():
        assert len(values) == 6
        # the last bit of a sigmoid may
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), values, rtol=1e-6, atol=0)
    rows = np.array([5, 0, 0, 3])
    drawn = TASK.scores({name: values.numpy()[rows] for name, values in whole.items()})
    again = scored(output[rows], {name: values[rows] for name, values in target.items()})
    assert drawn == pytest.approx(again, abs=1e-12, nan_ok=True)


def test_boxes_of_photographs_survive_the_way_there_and_back(coco_mini: Path) -> None:
    target = TASK.target(coco_maps(coco_mini, "val", 35))
    scores = scored(perfect(target), target)
    # At 64 × 64 pixels centres are moved by up to 1%, and objects that overlap by more than half hide each other.
    assert 0.7 < scores["ap_large"] < 1
    assert scores["ap50_large"] > 0.9
    swapped = perfect(target)
    swapped[:, 1:] = swapped[:, 1:].flip(1)
    assert scored(swapped, target)["ap_large"] < 0.3


def test_the_prior_says_where_objects_usually_are() -> None:
    target = TASK.target(maps_of([[DISTINCT[0]], [DISTINCT[0]], [DISTINCT[1]], []]))
    prior = TASK.constant_baseline([{name: values[i : i + 2] for name, values in target.items()} for i in (0, 2)], ())
    assert prior.shape == (3, *SIZE)
    assert prior.dtype == torch.float32
    assert prior.isfinite().all()
    assert divmod(int(prior[0].argmax()), 64) == (21, 14)
    torch.testing.assert_close(prior[1:, 21, 14], torch.tensor([20 / 64, 30 / 64]), rtol=1e-3, atol=0)
    torch.testing.assert_close(prior[1:, 26, 44], torch.tensor([24 / 64, 12 / 64]), rtol=1e-3, atol=0)
    scores = scored(prior.expand(4, -1, -1, -1), target)
    assert scores["ap50_large"] > 0.4
    assert scores["ap50_large"] > scored(prior.flip(1).expand(4, -1, -1, -1), target)["ap50_large"]


def test_the_radius_decides_how_wide_the_bumps_are() -> None:
    wide, narrow = (
        get_task("detection", {"radius": name}).target(maps_of([DISTINCT]))["heat"]
        for name in ("published", "corrected")
    )
    assert torch.equal(TASK.target(maps_of([DISTINCT]))["heat"], wide)
    assert (wide >= narrow).all()
    assert (wide > 0).sum() > 4 * (narrow > 0).sum()
    with pytest.raises(UsageError, match="radius is 'right', expected one of published, corrected"):
        get_task("detection", {"radius": "right"})


def test_a_rate_is_chosen_by_all_objects_where_large_ones_are_few() -> None:
    scores = {"ap_large": 0.9, "ap": 0.1, "ap50_large": 1.0}
    for large, expected in ((49, 0.1), (50, 0.9)):
        assert TASK.selection_score(scores, {"objects": np.array([[100, large - 1], [0, 1]])}) == expected
    assert TASK.selection_score(dict.fromkeys(scores, math.nan), {"objects": np.zeros((1, 2))}) == -math.inf


def test_what_is_shown_are_boxes_in_fractions() -> None:
    target = TASK.target(maps_of([[DISTINCT[0], (0.0, 0.0, 60.0, 60.0, 2)]]))
    boxes, found = TASK.picture_values(perfect(target), target)
    assert boxes.shape == (1, 7, 5)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([4.5 / 64, 6.5 / 64, 20 / 64, 30 / 64, 1]))
    assert boxes[0, 1:, 4].tolist() == [2, 0, 0, 0, 0, 0]
    assert found.shape == (1, 100, 5)
    torch.testing.assert_close(found[0, 0, :4], boxes[0, 0, :4])
    assert found[0, 0, 4] > 0.99


def test_two_readouts_and_boxes_as_pictures() -> None:
    assert TASK.heads(()) == (1, 2)
    assert TASK.annotations == ("boxes", "instances")
    assert TASK.picture == "boxes"


class TestOfACrop:
    """The first row of a table is the region that is seen: 200 columns from the 100th on, and the first 400 rows."""

    REGION = (100.0, 0.0, 200.0, 400.0, 80_000.0, 3, 0)
    OBJECT = (165.0, 80.0, 80.0, 120.0, 9_600.0, 1, 7)
    """Its centre, (205, 140), lies at half a region's width and 5 / 400 more, in column 10 of 20, row 14 of 40."""

    def target(self, box: tuple[float, ...] = OBJECT) -> dict[str, Tensor]:
        table = torch.tensor([[self.REGION, box, (0.0,) * 7]], dtype=torch.float64)
        return TASK.target({"boxes": table, "instances": torch.zeros(1, 40, 20, dtype=torch.int32)})

    def output(self, row: int, column: int) -> Tensor:
        output = torch.full((1, 3, 40, 20), -12.0)
        output[0, :, row, column] = torch.tensor([10.0, 80 / 200, 120 / 400])
        return output

    def test_targets_lie_in_the_region(self) -> None:
        target = self.target()
        assert target["cells"][0, 0].item() == 14 * 20 + 10
        torch.testing.assert_close(target["sizes"][0, 0], torch.tensor([0.4, 0.3]))
        assert (target["heat"] == 1).nonzero().tolist() == [[0, 14, 10]]

    def test_predictions_are_scored_in_original_pixels(self) -> None:
        # the middle of the pixel in row 14 and column 10 is (205, 145): five pixels below the object's centre
        overlap = 115 / 125
        hits = sum(overlap >= threshold for threshold in np.arange(50, 100, 5) / 100)
        assert scored(self.output(14, 10), self.target())["ap_large"] == pytest.approx(hits / 10)
        exact = (165.0, 85.0, 80.0, 120.0, 9_600.0, 1, 7)
        assert scored(self.output(14, 10), self.target(exact))["ap_large"] == pytest.approx(1)
        elsewhere = (65.0, 85.0, 80.0, 120.0, 9_600.0, 1, 7)  # as if the region began at the image's left border
        assert scored(self.output(14, 10), self.target(elsewhere))["ap_large"] == 0

    def test_pictures_show_boxes_in_the_region(self) -> None:
        target, prediction = TASK.picture_values(self.output(14, 10), self.target())
        np.testing.assert_allclose(target[0, 0], [65 / 200, 80 / 400, 80 / 200, 120 / 400, 1])
        np.testing.assert_allclose(prediction[0, 0, :4], [65 / 200, 85 / 400, 80 / 200, 120 / 400], rtol=1e-6)
