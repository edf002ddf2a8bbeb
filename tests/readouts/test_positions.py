"""Geometry of regions and cells, positional codes and masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from deapcache_readouts import draw, make

from deapcache.errors import UsageError
from deapcache.readouts.regions import locate_regions_and_cells


def test_a_square_image_is_the_unit_square() -> None:
    geometry = locate_regions_and_cells((224, 224), (14, 7))
    assert geometry.region_grid == (28, 28)
    torch.testing.assert_close(geometry.region_rows, (torch.arange(28) + 0.5) / 28)
    torch.testing.assert_close(geometry.cell_rows, (torch.arange(14) + 0.5) / 14)
    torch.testing.assert_close(geometry.cell_columns, (torch.arange(7) + 0.5) / 7)


def test_both_axes_are_divided_by_the_longer_side() -> None:
    geometry = locate_regions_and_cells((216, 288), (14, 14))
    assert geometry.region_grid == (27, 36)
    torch.testing.assert_close(geometry.region_rows[-1].item(), (216 - 4) / 288)
    torch.testing.assert_close(geometry.region_columns[-1].item(), (288 - 4) / 288)
    torch.testing.assert_close(geometry.cell_rows.sum().item() / 14, 0.375)  # the squashed grid spans the image
    torch.testing.assert_close(geometry.cell_columns.sum().item() / 14, 0.5)


def test_regions_are_eight_pixels_apart_whatever_the_size() -> None:
    geometry = locate_regions_and_cells((50, 100), (5, 5))
    assert geometry.region_grid == (7, 13)
    torch.testing.assert_close(geometry.region_rows.diff() * 100, torch.full((6,), 8.0))
    torch.testing.assert_close(geometry.region_rows[0].item() * 100, 4.0)


def test_codes_are_sines_and_cosines_at_pi_and_two_pi() -> None:
    geometry = locate_regions_and_cells((16, 24), (2, 3))
    rows, columns = geometry.axis_codes()
    codes = (rows[:, None] + columns).flatten(0, 1).numpy()
    assert codes.shape == (6, 8)
    for index, (row, column) in enumerate(np.ndindex(2, 3)):
        y, x = (8 * row + 4) / 24, (8 * column + 4) / 24
        angles = [math.pi * y, 2 * math.pi * y, math.pi * x, 2 * math.pi * x]
        np.testing.assert_allclose(codes[index], [*np.sin(angles), *np.cos(angles)], atol=1e-6)


def test_no_two_places_share_a_code() -> None:
    codes = locate_regions_and_cells((224, 224), (37, 37)).cell_codes()
    distances = torch.cdist(codes, codes) + torch.eye(len(codes))
    assert distances.min() > 0.05
    edges = locate_regions_and_cells((224, 224), (1, 37)).cell_codes()[[0, -1]]
    assert (edges[0] - edges[1]).norm() > 1  # opposite edges are far apart


@pytest.mark.parametrize(("size", "grid"), [((224, 224), (14, 14)), ((216, 288), (9, 5)), ((20, 9), (3, 4))])
def test_the_mask_is_the_gaussian_of_the_distance(size: tuple[int, int], grid: tuple[int, int]) -> None:
    geometry = locate_regions_and_cells(size, grid)
    sigma = torch.tensor([0.01, 0.05, 0.5], dtype=torch.float64)
    regions = torch.cartesian_prod(geometry.region_rows, geometry.region_columns).double()
    cells = torch.cartesian_prod(geometry.cell_rows, geometry.cell_columns).double()
    squares = (regions[:, None] - cells).square().sum(-1)
    width = sigma[:, None, None]
    expected = torch.exp(-squares / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
    torch.testing.assert_close(geometry.gaussian_mask(sigma), expected, rtol=1e-3, atol=1e-5)


def test_an_output_of_another_shape_covers_the_same_image() -> None:
    """Trained at 224×224, asked for 112×448: half as many rows of regions and twice the columns, in the same places."""
    trained = locate_regions_and_cells((224, 224), (14, 14))
    asked = locate_regions_and_cells((112, 448), (14, 14), shape=(224, 224))
    assert torch.equal(asked.cell_rows, trained.cell_rows)
    assert torch.equal(asked.cell_columns, trained.cell_columns)
    torch.testing.assert_close(asked.region_rows, trained.region_rows.view(-1, 2).mean(1))
    torch.testing.assert_close(asked.region_columns.view(-1, 2).mean(1), trained.region_columns)


def test_cells_lie_where_the_patches_are() -> None:
    """siglip-so sees 512 pixels by 36 patches of 14: 504 of them."""
    geometry = locate_regions_and_cells((224, 224), (36, 36), covered=(504 / 512, 504 / 512))
    torch.testing.assert_close(geometry.cell_rows, (14 * torch.arange(36) + 7) / 512)
    assert torch.equal(geometry.cell_columns, geometry.cell_rows)
    torch.testing.assert_close(geometry.region_rows, (torch.arange(28) + 0.5) / 28)
    wide = locate_regions_and_cells((216, 288), (36, 36), covered=(504 / 512, 0.5))
    torch.testing.assert_close(wide.cell_rows, 0.75 * geometry.cell_rows)
    torch.testing.assert_close(wide.cell_columns, (torch.arange(36) + 0.5) / 72)


def test_pixels_beyond_the_covered_part_have_the_nearest_cell() -> None:
    """At 512 pixels a patch of siglip-so is 14 pixels: the covered part is an output of 504 of its own."""
    part, whole = (make("linear", grid=(36, 36), covered=share) for share in ((504 / 512,) * 2, (1.0, 1.0)))
    features = draw(1, 36, 36, 24)
    output, inner = part(features, (512, 512)), whole(features, (504, 504))
    torch.testing.assert_close(output[..., :504, :504], inner, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(output[..., 504:], output[..., 503:504].expand(-1, -1, -1, 8))
    torch.testing.assert_close(output[..., 504:, :], output[..., 503:504, :].expand(-1, -1, 8, -1))


def test_shares_of_the_image_are_above_0_up_to_1() -> None:
    for wrong in ((0.0, 1.0), (1.0, 1.01), (float("nan"), 1.0)):
        with pytest.raises(UsageError, match="of the image's height and width: expected shares above 0, up to 1"):
            make("deap", covered=wrong)
