"""Heat maps, focal loss and decoding against plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deapcache.tasks.detection import centre_cells, decode, focal_loss, gaussian_radius, heat_maps


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes given by their corners."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both)


@pytest.mark.parametrize("overlap", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(("width", "height"), [(10, 10), (100, 30), (3, 180), (224, 224)])
def test_corners_moved_by_the_radius_keep_the_overlap_and_no_further(width: int, height: int, overlap: float) -> None:
    sides = torch.tensor(width).double(), torch.tensor(height).double()
    radius = gaussian_radius(*sides, overlap, published=False).item()
    assert radius > 0

    def worst(by: float) -> float:
        moves = [(s * by, t * by) for s in (-1, 1) for t in (-1, 1)]
        box = [0.0, 0.0, float(width), float(height)]
        return min(iou(box, [dx, dx, width + ex, height + ex]) for dx, ex in moves)

    assert worst(radius) == pytest.approx(overlap)
    assert worst(radius * 1.01) < overlap
    assert worst(radius * 0.99) > overlap


@pytest.mark.parametrize("overlap", [0.5, 0.7, 0.9])
def test_the_published_radius_is_the_polynomials_larger_root_over_2(overlap: float) -> None:
    """Roots found by numpy; those of monic polynomials are a times those of the right ones, which is the mistake."""
    rng = np.random.default_rng(0)
    for w, h in [(10, 10), (3, 180), *rng.uniform(1, 224, (50, 2))]:
        m, right, published = overlap, [], []
        # overlaps of the moved box, as polynomials in r: both alike, both inwards, both outwards
        for a, b, c, outwards in (
            (1 + m, -(1 + m) * (w + h), w * h * (1 - m), False),  # (w - r)(h - r)(1 + m) = 2 m w h
            (4, -2 * (w + h), w * h * (1 - m), False),  # (w - 2 r)(h - 2 r) = m w h
            (4 * m, 2 * m * (w + h), w * h * (m - 1), True),  # m (w + 2 r)(h + 2 r) = w h
        ):
            roots = np.roots([a, b, c]).real
            right.append(roots.max() if outwards else roots.min())
            leading = 1.0 if len(right) == 1 else a  # CenterNet's first polynomial is divided by 1 + m
            published.append(roots.max() * leading)
        sides = torch.tensor([w, h], dtype=torch.float64)
        assert gaussian_radius(*sides, m, published=False).item() == pytest.approx(min(right))
        found = gaussian_radius(*sides, m, published=True).item()
        assert found == pytest.approx(min(published))
        assert found == pytest.approx(4 * m * right[2])
    square = [gaussian_radius(*torch.ones(2), published=one).item() for one in (True, False)]
    assert 3 < square[0] / square[1] < 4


def plain_heat_map(boxes: np.ndarray, size: tuple[int, int], published: bool) -> np.ndarray:
    """One pixel after the other, boxes (n, 4) in fractions."""
    height, width = size
    heat = np.zeros(size)
    for x, y, w, h in boxes:
        column, row = math.floor((x + w / 2) * width), math.floor((y + h / 2) * height)
        sides = torch.tensor(w * width), torch.tensor(h * height)
        radius = math.floor(gaussian_radius(*sides, published=published).item())
        sigma = (2 * radius + 1) / 6
        for i in range(height):
            for j in range(width):
                if max(abs(i - row), abs(j - column)) <= radius:
                    bump = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2))
                    heat[i, j] = max(heat[i, j], bump)
    return heat


def boxes_inside(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, count, 2, generator=generator, dtype=torch.float64)
    corner, opposite = corners.amin(0), corners.amax(0)
    return torch.cat([corner, opposite - corner], dim=1)


@pytest.mark.parametrize("published", [True, False])
def test_heat_maps_are_the_highest_of_the_bumps(published: bool) -> None:
    boxes = boxes_inside(12).view(2, 6, 4)
    boxes[0, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    objects = torch.ones(2, 6, dtype=torch.bool)
    objects[1, 3:] = False
    found = heat_maps(boxes, objects, (40, 56), published=published)
    assert found.dtype == torch.float32
    for image in range(2):
        np.testing.assert_allclose(
            found[image], plain_heat_map(boxes[image][objects[image]].numpy(), (40, 56), published), atol=1e-6
        )
    columns, rows = centre_cells(boxes[0], (40, 56)).unbind(-1)
    assert (found[0][rows, columns] == 1).all()
    assert (found[0] == 1).sum() == len({*zip(columns.tolist(), rows.tolist(), strict=True)})


def test_a_map_without_objects_is_zero() -> None:
    for boxes in (3, 0):
        found = heat_maps(torch.zeros(2, boxes, 4), torch.zeros(2, boxes, dtype=torch.bool), (8, 8), published=True)
        assert found.shape == (2, 8, 8)
        assert not found.any()


def test_a_centre_on_the_far_border_stays_inside() -> None:
    assert centre_cells(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), (8, 10)).tolist() == [[9, 7]]


def test_focal_loss_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    logit = torch.randn(2, 20, 24, generator=generator) * 4
    heat = heat_maps(boxes_inside(6).view(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), (20, 24), published=True)
    counted = torch.rand(2, 20, 24, generator=generator) < 0.9
    counted |= heat == 1
    total = 0.0
    for x, y, count in zip(logit.flatten().tolist(), heat.flatten().tolist(), counted.flatten().tolist(), strict=True):
        p = min(max(1 / (1 + math.exp(-x)), 1e-4), 1 - 1e-4)
        loss = -((1 - p) ** 2) * math.log(p) if y == 1 else -((1 - y) ** 4) * p**2 * math.log(1 - p)
        total += loss * count
    assert focal_loss(logit, heat, counted).item() == pytest.approx(total / 6, rel=1e-5)


def test_focal_loss_without_centres_is_the_plain_sum() -> None:
    logit, counted = torch.zeros(1, 2, 2), torch.tensor([[[True, True], [True, False]]])
    loss = focal_loss(logit, torch.zeros(1, 2, 2), counted)
    assert loss.item() == pytest.approx(3 * 0.25 * math.log(2))


def output_with(peaks: list[tuple[int, int, float, float, float]], size: tuple[int, int] = (16, 20)) -> Tensor:
    """(1, 3, h, w): row, column, logit, width and height of each peak, on a floor without maxima below -20."""
    height, width = size
    output = torch.zeros(1, 3, height, width)
    output[0, 0] = -20 - torch.arange(height * width).view(height, width) / 100
    for row, column, logit, w, h in peaks:
        output[0, :, row, column] = torch.tensor([logit, w, h])
    return output


def test_boxes_stand_around_the_middle_of_their_pixel() -> None:
    found = decode(output_with([(3, 7, 2.0, 0.25, 0.5), (12, 2, 1.0, 0.1, -3.0)]), 5, 0.5)
    assert found.shape == (1, 5, 5)
    first, second = found[0, 0], found[0, 1]
    x, y = 7.5 / 20, 3.5 / 16
    torch.testing.assert_close(first, torch.tensor([x - 0.125, y - 0.25, 0.25, 0.5, 1 / (1 + math.exp(-2))]))
    torch.testing.assert_close(second[2:4], torch.tensor([0.1, 1 / 16]))  # no size below a pixel
    assert (found[0, 2:, 4] < 1e-8).all()


def test_only_pixels_that_no_neighbour_exceeds_are_peaks() -> None:
    output = output_with([(3, 7, 2.0, 0.01, 0.01), (4, 8, 1.9, 0.01, 0.01), (3, 9, 1.8, 0.01, 0.01)])
    scores = decode(output, 3, 0.5)[0, :, 4]
    torch.testing.assert_close(scores[0], torch.tensor(2.0).sigmoid())
    assert scores[1] < 1e-8  # the second lies beside the first, the third beside the second


def test_worse_boxes_over_better_ones_go() -> None:
    # Side by side by 4 of 20 columns, 0.4 wide: the IoU is 0.2 / 0.6; by 2 columns: 0.3 / 0.5.
    peaks = [(8, 4, 3.0, 0.4, 0.5), (8, 6, 2.0, 0.4, 0.5), (8, 8, 1.0, 0.4, 0.5)]
    found = decode(output_with(peaks), 3, 0.5)[0]
    torch.testing.assert_close(found[:2, 4], torch.tensor([3.0, 1.0]).sigmoid())
    kept = decode(output_with(peaks), 3, 0.7)[0]
    torch.testing.assert_close(kept[:, 4], torch.tensor([3.0, 2.0, 1.0]).sigmoid())


def test_fewer_pixels_than_boxes() -> None:
    found = decode(torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)), 100, 0.5)
    assert found.shape == (2, 100, 5)
    scores = found[..., 4]
    assert (scores.diff(dim=1) <= 0).all()
    assert (found[scores == 0] == 0).all()
    assert ((scores > 0).sum(1) >= 1).all()


def test_suppression_leaves_no_overlap_and_drops_nothing_without_a_better_one() -> None:
    generator = torch.Generator().manual_seed(2)
    output = torch.cat(
        [torch.randn(1, 1, 32, 32, generator=generator), torch.rand(1, 2, 32, 32, generator=generator)], 1
    )
    every, left = decode(output, 50, 1.0)[0].tolist(), decode(output, 50, 0.5)[0].tolist()

    def corners(box: list[float]) -> list[float]:
        return [box[0], box[1], box[0] + box[2], box[1] + box[3]]

    kept: list[list[float]] = []
    for box in every:
        if all(iou(corners(box), corners(better)) <= 0.5 for better in kept):
            kept.append(box)
    assert 3 < len(kept) < 50
    np.testing.assert_allclose(left[: len(kept)], kept)
    assert not np.any(left[len(kept) :])
