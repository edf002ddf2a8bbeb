"""The transposed-convolution baseline against a plain formula."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from deapcache_readouts import (
    check_gradients,
    check_nothing_is_dead,
    count,
    decoded_by_formula,
    draw,
    draw_uneven,
    enlarged,
    fitted,
    make,
    shake,
    tokens_by_formula,
)
from torch import Tensor


def formula(readout, features: Tensor, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Every cell gives a block of stride × stride regions, each by a linear map of its own."""
    tokens = tokens_by_formula(readout, features, size)
    rows = []
    for a in range(stride[0]):
        by_column = [tokens @ readout.value.weight[:, :, a, b] + readout.value.bias for b in range(stride[1])]
        rows.append(torch.stack(by_column, 3).flatten(2, 3))
    mixed = torch.stack(rows, 2).flatten(1, 2)
    return enlarged(decoded_by_formula(readout, mixed), size, readout.config.covered)


@pytest.mark.parametrize(
    ("size", "grid", "stride", "way"),
    [
        ((64, 64), (14, 14), (2, 2), {}),
        ((40, 72), (7, 12), (4, 2), {}),
        ((21, 13), (36, 28), (1, 1), {}),
        ((24, 24), (64, 9), (1, 3), {}),
        ((40, 72), (7, 12), (4, 2), {"standardise": "channel"}),
        ((40, 72), (7, 12), (4, 2), {"covered": (504 / 512, 0.75)}),
    ],
)
def test_output_and_gradients_are_those_of_the_formula(
    size: tuple[int, int], grid: tuple[int, int], stride: tuple[int, int], way: dict[str, Any]
) -> None:
    features = draw_uneven(2, *grid, 24)
    readout = fitted(shake(make("transposed-conv", out_channels=3, grid=grid, **way)), features)
    reference = copy.deepcopy(readout).double()
    output, expected = readout(features, size), formula(reference, features.double(), size, stride)
    assert output.shape == (2, 3, *size)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    check_gradients(readout, output, expected, reference)


def test_the_stride_is_that_of_the_training_grid() -> None:
    readout = make("transposed-conv", grid=(14, 14))
    seen = []
    readout.ffn.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1:3]))
    assert readout(draw(1, 14, 14, 24), (48, 48)).shape == (1, 1, 48, 48)
    assert readout(draw(1, 9, 20, 24), (48, 48)).shape == (1, 1, 48, 48)
    assert seen == [(28, 28), (18, 40)]


@pytest.mark.parametrize(("cells", "stride"), [(7, 4), (14, 2), (24, 1), (28, 1), (37, 1), (64, 1)])
def test_parameters(cells: int, stride: int) -> None:
    shape = {"feature_dim": 768, "out_channels": 21, "grid": (cells, cells)}
    more = 776 * 32 * (stride**2 - 1)
    assert count(make("transposed-conv", **shape)) - count(make("bicubic", **shape)) == more


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dead_at_the_start(seed: int) -> None:
    readout = make("transposed-conv", seed=seed)
    check_nothing_is_dead(readout, readout(draw(2, 5, 5, 24, seed=seed), (64, 64)))


@pytest.mark.parametrize("cells", [7, 14, 28])
def test_regions_start_at_the_same_scale_on_every_grid(cells: int) -> None:
    readout = make("transposed-conv", grid=(cells, cells), feature_dim=384)
    seen = []
    readout.ffn.register_forward_pre_hook(lambda module, given: seen.append(given[0].std().item()))
    readout(draw(1, cells, cells, 384), (224, 224))
    assert 0.4 < seen[0] < 0.8
