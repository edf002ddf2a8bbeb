"""The linear yardstick against a plain formula."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deapcache_readouts import (
    WAYS,
    check_gradients,
    check_nothing_is_dead,
    count,
    draw,
    draw_uneven,
    enlarged,
    fitted,
    make,
    standardised,
)


@WAYS
@pytest.mark.parametrize(("size", "grid"), [((64, 64), (5, 5)), ((21, 13), (2, 3)), ((8, 8), (12, 9))])
def test_output_and_gradients_are_those_of_the_formula(
    size: tuple[int, int], grid: tuple[int, int], way: dict[str, Any]
) -> None:
    features = draw_uneven(3, *grid, 24)
    readout = fitted(make("linear", out_channels=3, grid=grid, **way), features)
    reference = copy.deepcopy(readout).double()
    fine = enlarged(standardised(features.double(), reference).permute(0, 3, 1, 2), size, reference.config.covered)
    expected = F.conv2d(fine, reference.linear.weight[:, :, None, None], reference.linear.bias)
    output = readout(features, size)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    check_gradients(readout, output, expected, reference)


def test_parameters() -> None:
    assert count(make("linear", feature_dim=768, out_channels=21)) == 21 * 769


def test_feature_scale_drops_out() -> None:
    readout, features = make("linear"), draw(2, 5, 5, 24)
    torch.testing.assert_close(readout(features * 1e3 + 5, (32, 32)), readout(features, (32, 32)), rtol=1e-3, atol=1e-4)


def test_the_output_bias_is_the_bias() -> None:
    readout = make("linear", out_channels=2)
    readout.set_output_bias(torch.tensor([2.0, -3.0]))
    assert readout.linear.bias.tolist() == [2.0, -3.0]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dead_at_the_start(seed: int) -> None:
    readout = make("linear", seed=seed)
    check_nothing_is_dead(readout, readout(draw(2, 5, 5, 24, seed=seed), (64, 64)))
